"""``attn-viewer compare``: the same prompt under two models."""

from ..words import add_venue_arguments, parse_numbers

HELP = "compare the attention of one prompt under two models, from two caches"


def add_arguments(parser):
    """Declare the words of ``attn-viewer compare``."""
    parser.add_argument("first", metavar="A.pt", help="cache that view --save_attention_scores wrote")
    parser.add_argument("second", metavar="B.pt", help="cache of the same prompt under the other model")
    parser.add_argument("--save_fig_path", default="./vis", metavar="DIR", help="output folder (%(default)s)")
    parser.add_argument("--layers", type=parse_numbers, metavar="0,4-7", help="layers to compare (all)")
    parser.add_argument("--heads", type=parse_numbers, metavar="0,4-7", help="heads to compare (all)")
    parser.add_argument("--sink", default="keep", choices=("keep", "hide", "renormalise"), help="the first token")
    parser.add_argument("--norm", default="linear", choices=("linear", "power", "log"), help="colour scale of A and B")
    parser.add_argument("--fig_format", default="jpg", metavar="FMT", help="jpg, png, pdf, svg or svgz (%(default)s)")
    add_venue_arguments(parser)
    parser.add_argument("--top", type=int, default=5, metavar="K", help="heads to list that changed most (%(default)s)")


def run(args):
    """Draw both figures; print their paths, then the heads that changed most."""
    from ..figures.venues import use_preset

    with use_preset(args.preset, columns=args.columns):
        _compare(args)


def _compare(args):
    from pathlib import Path

    import numpy as np

    from ..analysis.compare import compare_attention
    from ..errors import OptionError
    from ..figures.compare import describe_changes, plot_comparison
    from ..figures.formats import check_format, render_figure
    from ..figures.heads import plot_atlas
    from ..files import check_folder, check_model_id, make_folder, write_whole
    from ..storage.pt import load_scores

    fmt = check_format(args.fig_format)
    check_folder(args.save_fig_path)
    if args.top < 0:
        raise OptionError(f"top must be a number of heads from 0, got {args.top}")
    first, second = (
        load_scores(path).select(layers=args.layers, heads=args.heads) for path in (args.first, args.second)
    )
    comparison = compare_attention(first, second)
    title = f"{first.model_id} → {second.model_id}"
    figures = {
        "compare": plot_comparison(first, second, sink=args.sink, norm=args.norm),
        "compare_heads": plot_atlas(
            comparison.distances,
            layers=first.layers,
            heads=first.heads,
            label="total variation, mean over queries",
            title="change of each head",
            notes=[f"A: {first.model_id}", f"B: {second.model_id}", *describe_changes(first, second)],
        ),
    }
    contents = {name: render_figure(figure, fmt) for name, figure in figures.items()}
    folder = make_folder(Path(args.save_fig_path) / check_model_id(second.model_id))
    for name, data in contents.items():
        print(write_whole(folder / f"{name}.{fmt}", data))
    distances = np.concatenate(comparison.distances)
    names = [(layer, head) for layer, heads in zip(first.layers, first.heads, strict=True) for head in heads]
    print(f"{title}: mean total variation {distances.mean():.4f}, largest {distances.max():.4f}")
    for index in np.argsort(-distances, kind="stable")[: args.top]:
        print(f"layer {names[index][0]} head {names[index][1]}: {distances[index]:.4f}")
