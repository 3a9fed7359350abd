"""``attn-viewer overlay``: attention over the patches of an image, laid over it."""

import argparse

from ..words import parse_numbers

HELP = "lay a vision model's attention over the image"


def _parse_query(text):
    parts = text.split(",")
    try:
        numbers = tuple(map(int, parts))
    except ValueError:
        numbers = ()
    if len(numbers) not in (1, 2):
        raise argparse.ArgumentTypeError(f"expected a token such as 0 or a patch such as 3,5, got {text!r}")
    return numbers if len(numbers) == 2 else numbers[0]


def add_arguments(parser):
    """Declare the words of ``attn-viewer overlay``."""
    parser.add_argument("image", metavar="IMAGE", help="picture file that Pillow reads")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--model_path", metavar="PATH", help="folder or hub name of a vision encoder with its processor")
    which.add_argument("--load_attention_scores_path", metavar="FILE", help="draw from a .pt cache, without a model")
    parser.add_argument("--model_id", metavar="NAME", help="name for titles and output folder (default: the model's)")
    parser.add_argument("--layers", type=parse_numbers, metavar="0,4-7", help="layers to show (all)")
    parser.add_argument("--head", type=int, metavar="H", help="one head (default: the mean over heads)")
    parser.add_argument(
        "--query",
        type=_parse_query,
        metavar="N|ROW,COLUMN",
        help="who looks: token or patch (default: CLS, else the last)",
    )
    parser.add_argument("--save_fig_path", default="./vis", metavar="DIR", help="output folder (%(default)s)")
    parser.add_argument("--fig_format", default="jpg", metavar="FMT", help="jpg, png, pdf, svg or svgz (%(default)s)")
    parser.add_argument("--cmap", metavar="NAME", help="a matplotlib colour map")


def run(args):
    """Draw the overlay and print its path."""
    import dataclasses
    from pathlib import Path

    from PIL import Image

    from ..errors import PromptError
    from ..figures.formats import check_format, render_figure
    from ..figures.overlay import overlay_attention
    from ..figures.scales import get_colormap
    from ..files import check_folder, check_model_id, make_folder, write_whole

    fmt = check_format(args.fig_format)
    get_colormap(args.cmap)
    check_folder(args.save_fig_path)
    try:
        with Image.open(args.image) as file:
            image = file.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise PromptError(f"cannot read image {args.image!r}: {error}; give a PNG or JPEG file") from error
    if args.load_attention_scores_path is not None:
        from ..storage.pt import load_scores

        maps = load_scores(args.load_attention_scores_path)
    else:
        from ..capture.loading import load_image_model
        from ..capture.vision import capture_image_attention

        model, processor = load_image_model(args.model_path)
        maps = capture_image_attention(model, image, processor)
    if args.model_id is not None:
        maps = dataclasses.replace(maps, model_id=args.model_id)
    folder = Path(args.save_fig_path) / check_model_id(maps.model_id)
    figure = overlay_attention(maps, image, layers=args.layers, head=args.head, query=args.query, cmap=args.cmap)
    data = render_figure(figure, fmt)
    print(write_whole(make_folder(folder) / f"overlay.{fmt}", data))
