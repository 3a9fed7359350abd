"""``attn-viewer ablate``: take heads out of a model and see what changes."""

import argparse
import re
from pathlib import Path

from ..words import add_model_arguments, add_prompt_arguments, add_venue_arguments, load_model, read_prompt

HELP = "take heads out of a model and show what changes"


def add_arguments(parser):
    """Declare the words of ``attn-viewer ablate``."""
    add_model_arguments(parser)
    add_prompt_arguments(parser, generates=False)
    what = parser.add_argument_group("intervention")
    which = what.add_mutually_exclusive_group(required=True)
    which.add_argument("--heads", type=parse_heads, metavar="5.3,7.1", help="layer.head of each to ablate")
    which.add_argument("--merge", type=parse_heads, metavar="5.3,5.4", help="two heads of a layer to share a pattern")
    which.add_argument("--rank", action="store_true", help="ablate every head in turn, by its effect on the loss")
    what.add_argument("--mode", default="zero", choices=("zero", "mean", "uniform", "bos"), help="(%(default)s)")
    what.add_argument("--alpha", type=float, default=0.5, metavar="A", help="share of the first, merging (%(default)s)")
    out = parser.add_argument_group("output")
    out.add_argument("--top", type=int, default=5, metavar="K", help="next tokens or heads to show (%(default)s)")
    out.add_argument("--json", metavar="FILE", help="write all numbers")
    out.add_argument("--save_fig_path", metavar="DIR", help="folder of the figure; left out, none is drawn")
    out.add_argument("--fig_format", default="png", metavar="FMT", help="jpg, png, pdf, svg or svgz (%(default)s)")
    add_venue_arguments(out)
    parser.add_argument("--quiet", action="store_true", help="no progress bars on stderr")


def parse_heads(text):
    """Read heads such as ``5.3,7.1``.

    Parameters
    ----------
    text : str
        ``layer.head``, divided by commas.

    Returns
    -------
    list of tuple of int
        ``(layer, head)`` of each, in the order given, each once.

    Raises
    ------
    argparse.ArgumentTypeError
        If it cannot be read.
    """
    matches = [re.fullmatch(r"\s*(\d{1,6})\.(\d{1,6})\s*", part) for part in text.split(",")]
    if not all(matches):
        raise argparse.ArgumentTypeError(f"expected layer.head such as 5.3,7.1, got {text!r}")
    return list(dict.fromkeys((int(match[1]), int(match[2])) for match in matches))


def run(args):
    """Print what the intervention did, and draw it where asked to."""
    from ..figures.venues import use_preset

    with use_preset(args.preset, columns=args.columns):
        _run(args)


def _run(args):
    from ..errors import OptionError
    from ..figures.formats import check_format
    from ..files import check_folder, check_model_id

    if args.merge is not None and (len(args.merge) != 2 or args.merge[0][0] != args.merge[1][0]):
        raise OptionError("--merge takes two heads of one layer, such as 5.3,5.4")
    fmt = check_format(args.fig_format)
    if args.save_fig_path is not None:
        check_folder(args.save_fig_path)
    if args.model_id is not None:
        check_model_id(args.model_id)
    prompt = read_prompt(args)
    model, tokenizer = load_model(args, False if args.quiet else None)
    job = _rank if args.rank else _change
    numbers, figure, name = job(args, model, tokenizer, prompt)
    if args.json is not None:
        _write_json(args.json, numbers)
    if args.save_fig_path is not None:
        print(_write_figure(Path(args.save_fig_path) / f"{name}.{fmt}", figure(), fmt))


def _change(args, model, tokenizer, prompt):
    from ..capture.intervene import ablate_heads, merge_heads
    from ..effects import measure_effect

    if args.merge is None:
        intervention = ablate_heads(model, args.heads, args.mode)
    else:
        (layer, head1), (_, head2) = args.merge
        intervention = merge_heads(model, layer, head1, head2, args.alpha)
    effect = measure_effect(model, tokenizer, prompt, intervention, k=args.top, model_id=args.model_id)
    print(effect.description)
    print(f"loss (nats a token)  {effect.loss_before.mean():9.4f} → {effect.loss_after.mean():.4f}")
    print(f"KL (nats a position) {effect.divergence.mean():9.4f}")
    print(f"{'next token':20} {'before':>9} {'after':>9}")
    for label, before, after in dict.fromkeys((*effect.top_before, *effect.top_after)):
        print(f"{label:20} {before:9.4f} {after:9.4f}")

    def draw():
        from ..figures.effects import plot_effect

        return plot_effect(effect)

    return effect.to_dict(), draw, f"{effect.model_id}/ablation"


def _rank(args, model, tokenizer, prompt):
    from ..effects import rank_heads_by_effect

    progress = False if args.quiet else None
    table = rank_heads_by_effect(model, tokenizer, prompt, mode=args.mode, model_id=args.model_id, progress=progress)
    print(f"{'head':>8} {'change of loss (nats a token)':>30}")
    for layer, head, change in table.top("loss_change", args.top):
        print(f"{layer:>5}.{head:<2} {change:+30.4f}")

    def draw():
        from ..figures.heads import plot_atlas

        return plot_atlas(
            table.make_grid("loss_change"),
            label="change of loss (nats)",
            title="the loss without each head",
            model_id=table.model_id,
            notes=[f"one head at a time, mode {args.mode}"],
            layers=table.layers,
            heads=table.heads,
            diverging=True,
        )

    return table.to_dict(), draw, f"{table.model_id}/loss_without_each_head"


def _write_json(path, numbers):
    import json

    from ..files import make_folder, write_whole

    make_folder(Path(path).parent)
    write_whole(Path(path), (json.dumps(numbers, ensure_ascii=False) + "\n").encode())


def _write_figure(path, figure, fmt):
    from ..figures.formats import render_figure
    from ..files import make_folder, write_whole

    data = render_figure(figure, fmt)
    make_folder(path.parent)
    return write_whole(path, data)
