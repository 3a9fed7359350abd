"""``attn-viewer heads``: score every head for a prompt."""

from ..words import (
    add_model_arguments,
    add_prompt_arguments,
    add_venue_arguments,
    load_model,
    parse_numbers,
    read_prompt,
    read_sampling,
    show_messages,
)

HELP = "score every head for a prompt"


def add_arguments(parser):
    """Declare the words of ``attn-viewer heads``."""
    add_model_arguments(parser)
    add_prompt_arguments(parser)
    weights = parser.add_argument_group("weights")
    weights.add_argument(
        "--repeated", type=int, metavar="N", help="N random tokens said twice in place of a prompt (--seed)"
    )
    weights.add_argument("--load_attention_scores_path", metavar="FILE", help="score a .pt cache, without a model")
    weights.add_argument("--layers", type=parse_numbers, metavar="0,4-7", help="layers to score (all)")
    weights.add_argument("--heads", type=parse_numbers, metavar="0,4-7", help="heads to score (all)")
    weights.add_argument("--queries", type=int, metavar="K", help="only the last K tokens as queries (all)")
    weights.add_argument("--kind", choices=("self", "encoder", "decoder", "cross"), help="which attention")
    scores = parser.add_argument_group("scores")
    scores.add_argument("--scores", metavar="NAME,…", help="such as previous_token,induction,sink_mass (all)")
    scores.add_argument("--window", type=int, metavar="N", help="tokens on each side that are near, for local_mass (8)")
    scores.add_argument("--epsilon", type=float, metavar="W", help="weight that is a sink, for sink_rate (0.3)")
    scores.add_argument("--sort", metavar="NAME", help="list the heads that score highest first")
    scores.add_argument("--top", type=int, metavar="K", help="list only the first K heads")
    scores.add_argument("--csv", metavar="FILE", help="write all scores as CSV")
    scores.add_argument("--json", metavar="FILE", help="write all scores as JSON")
    scores.add_argument("--save_fig_path", metavar="DIR", help="draw an atlas of each score there")
    scores.add_argument("--fig_format", default="jpg", metavar="FMT", help="jpg, png, pdf, svg or svgz (%(default)s)")
    add_venue_arguments(scores)
    parser.add_argument("--quiet", action="store_true", help="no progress bars and messages on stderr")


def run(args):
    """Print the table of scores; write files as asked and tell of them on stderr."""
    from ..figures.venues import use_preset

    with use_preset(args.preset, columns=args.columns):
        _score(args)


def _score(args):
    import logging

    from ..analysis.blocks import check_limits
    from ..analysis.scores import check_scores, score_heads
    from ..errors import OptionError
    from ..figures.formats import check_format
    from ..files import check_folder

    fmt = check_format(args.fig_format)
    if args.save_fig_path is not None:
        check_folder(args.save_fig_path)
    names = None if args.scores is None else check_scores([name.strip() for name in args.scores.split(",")])
    if args.sort is not None:
        check_scores([args.sort])
        if names is not None and args.sort not in names:
            raise OptionError(f"cannot sort by {args.sort!r}, which is not among --scores {args.scores}")
    if args.top is not None and args.top < 1:
        raise OptionError(f"top must be a number of heads from 1, got {args.top}")
    limits = {name: getattr(args, name) for name in ("window", "epsilon") if getattr(args, name) is not None}
    check_limits(**limits)
    if args.load_attention_scores_path is not None and args.queries is not None:
        raise OptionError("--queries is for a model; a cache holds the queries that it was made with")
    progress = False if args.quiet else None
    with show_messages(args.quiet):
        scores = score_heads(_get_maps(args, progress), names, progress=progress, **limits)
        order = range(len(scores))
        if args.sort is not None:
            ranks = {head[:2]: place for place, head in enumerate(scores.top(args.sort, len(scores)))}
            where = [ranks.get(head, len(scores)) for head in zip(scores.layer, scores.head, strict=True)]
            order = sorted(order, key=where.__getitem__)
        log = logging.getLogger(__name__)
        for path in _write_files(scores, args, fmt):
            log.info("wrote %s", path)
    print(_format_table(scores, order[: args.top]))


def _get_maps(args, progress):
    if args.load_attention_scores_path is not None:
        from ..storage.pt import load_scores

        return load_scores(args.load_attention_scores_path).select(layers=args.layers, heads=args.heads)
    from ..analysis.repeats import repeated_tokens_prompt

    prompt, sampling = read_prompt(args), read_sampling(args)
    model, tokenizer = load_model(args, progress)
    if args.repeated is not None:
        prompt = repeated_tokens_prompt(tokenizer, args.repeated, seed=args.seed or 0)
    options = {name: getattr(args, name) for name in ("model_id", "layers", "heads", "queries")} | {"reduction": "auto"}
    if args.max_new_tokens is None:
        from ..capture.prefill import capture_attention

        return capture_attention(
            model, tokenizer, prompt, kind=args.kind, decoder_prompt=args.decoder_prompt, **options
        )
    from ..capture.generation import capture_generation

    options |= {"kind": args.kind} if args.kind else {}
    return capture_generation(
        model, tokenizer, prompt, max_new_tokens=args.max_new_tokens, generate_options=sampling, **options
    )


def _write_files(scores, args, fmt):
    """Yield the path of each file that was asked for, once it is written."""
    from pathlib import Path

    if args.csv is not None:
        yield scores.to_csv(args.csv)
    if args.json is not None:
        yield scores.to_json(args.json)
    if args.save_fig_path is None:
        return
    from ..analysis.scores import SCORES
    from ..figures.formats import render_figure
    from ..figures.heads import plot_atlas
    from ..files import check_model_id, make_folder, write_whole

    folder = make_folder(Path(args.save_fig_path) / check_model_id(scores.model_id))
    for name in scores.columns:
        figure = plot_atlas(
            scores.make_grid(name),
            layers=scores.layers,
            heads=scores.heads,
            label=SCORES[name].label,
            title=SCORES[name].label,
            model_id=scores.model_id,
            notes=[scores.about],
        )
        yield write_whole(folder / f"heads_{name}.{fmt}", render_figure(figure, fmt))


def _format_table(scores, rows):
    """Write a table with a row a head; names stand one word a line above their column."""
    columns = {"layer": scores.layer, "head": scores.head} | dict(scores.columns)
    heads = [name.split("_") for name in columns]
    depth = max(map(len, heads))
    lines = [[(["" for _ in range(depth - len(words))] + words)[i] for words in heads] for i in range(depth)]
    for row in rows:
        values = (column[row] for column in columns.values())
        lines.append([str(v) if i < 2 else "–" if v != v else f"{v:.3f}" for i, v in enumerate(values)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        " ".join(f"{text:>{width}}" for text, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
