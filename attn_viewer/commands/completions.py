"""``attn-viewer completions``: capture completions where the model is, and make pages of them elsewhere."""

from ..words import add_model_arguments, add_prompt_arguments, add_weight_arguments, load_model, read_prompt

HELP = "save completions of many prompts where the model is; render pages of them elsewhere, without it"


def add_arguments(parser):
    """Declare the words of ``attn-viewer completions``."""
    steps = parser.add_subparsers(title="steps", dest="step", required=True, metavar="STEP")
    save = steps.add_parser("save", help="complete prompts and save the attention over them, one file each")
    add_model_arguments(save)
    add_prompt_arguments(save)
    save.add_argument(
        "--prompts", metavar="FILE", help="in place of one prompt: JSON lines with 'text', and 'name' if wanted"
    )
    save.add_argument(
        "--output", default="completions", metavar="DIR", help="files are DIR/{name}_attn_scores.pt (%(default)s)"
    )
    save.add_argument("--raw_tokens", action="store_true", help="labels are the vocabulary's entries, such as Ġcold")
    add_weight_arguments(save)
    save.set_defaults(max_new_tokens=40, work=_save)
    render = steps.add_parser("render", help="write a page for each saved completion; no model is loaded")
    render.add_argument("prefixes", nargs="+", metavar="FILE", help="what save wrote, with or without _attn_scores.pt")
    render.add_argument("--output", metavar="DIR", help="where the pages go (left out: beside the files)")
    render.add_argument("--average_heads", action="store_true", help="show the mean over the heads of each layer")
    render.add_argument("--zero_first_token", action="store_true", help="open without the weights on the first token")
    render.add_argument("--max_mb", type=float, default=25.0, metavar="MB", help="most megabytes a page (%(default)g)")
    render.add_argument(
        "--fit",
        default="pool",
        choices=("pool", "split"),
        help="past that: larger cells, or a file for each few layers (%(default)s)",
    )
    render.add_argument("--theme", default="auto", choices=("auto", "light", "dark"), help="colours (%(default)s)")
    render.set_defaults(work=_render)
    for step in (save, render):
        step.add_argument("--quiet", action="store_true", help="no progress bars on stderr")


def run(args):
    """Do the step that `args` ask for and print the paths of what was written."""
    for path in args.work(args, False if args.quiet else None):
        print(path)


def _save(args, progress):
    from pathlib import Path

    from ..files import check_folder, check_model_id
    from ..web.completions import save_completions
    from ..words import read_sampling

    names, prompts = _read_prompts(args)
    for name in names:
        check_model_id(name)
    check_folder(args.output)
    options = {name: getattr(args, name) for name in ("layers", "heads", "reduction", "max_cells", "pooling")}
    options |= {name: getattr(args, name) for name in ("queries", "kind") if getattr(args, name) is not None}
    sampling = read_sampling(args)
    model, tokenizer = load_model(args, progress)
    return save_completions(
        model,
        prompts,
        [Path(args.output) / name for name in names],
        args.max_new_tokens,
        tokenizer=tokenizer,
        prettify_tokens=not args.raw_tokens,
        model_id=args.model_id,
        generate_options=sampling,
        progress=progress,
        **options,
    )


def _read_prompts(args):
    """Return names and prompts; those of a file are numbered where they have no name."""
    if args.prompts is None:
        return ["completion"], [read_prompt(args)]
    from ..errors import InvalidPromptError
    from ..pipeline.prompts import load_text_data

    found = load_text_data(args.prompts)
    if not found:
        raise InvalidPromptError(f"{args.prompts!r} holds no prompt; write a JSON object with 'text' on each line")
    width = len(str(len(found)))
    names = [str(prompt.get("name", f"{number:0{width}}")) for number, prompt in enumerate(found, 1)]
    texts = [prompt["text"] for prompt in found]
    return names, [[{"role": "user", "content": text}] if args.chat else text for text in texts]


def _render(args, progress):
    from ..web.completions import render_completions

    return render_completions(
        [prefix.removesuffix("_attn_scores.pt") for prefix in args.prefixes],
        args.output,
        average_heads=args.average_heads,
        zero_first_token=args.zero_first_token,
        max_mb=args.max_mb,
        fit=args.fit,
        theme=args.theme,
        progress=progress,
    )
