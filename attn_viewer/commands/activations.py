"""``attn-viewer activations``: attention weights of many prompts into a data folder."""

from ..words import add_folder_arguments, add_worker_arguments, report_run

HELP = "compute and store the attention weights of many prompts"


def add_arguments(parser):
    """Declare the words of ``attn-viewer activations``."""
    parser.add_argument("--model", default="demo", metavar="PATH", help="hub name, folder or .gguf file (%(default)s)")
    parser.add_argument("--model-id", metavar="NAME", help="its name in the data folder (default: the model's)")
    add_folder_arguments(parser)
    prompts = parser.add_argument_group("prompts")
    prompts.add_argument(
        "--prompts", metavar="FILE", help="JSON lines with 'text' (left out: the prompts of the data folder)"
    )
    prompts.add_argument("--raw-prompts", action="store_true", help="bring texts to size, by the next two")
    prompts.add_argument("--min-chars", type=int, default=100, metavar="N", help="leave out shorter ones (%(default)s)")
    prompts.add_argument("--max-chars", type=int, default=1000, metavar="N", help="split longer ones (%(default)s)")
    prompts.add_argument("--shuffle", action="store_true", help="shuffle the prompts")
    prompts.add_argument("--seed", type=int, default=0, metavar="N", help="of the shuffle (%(default)s)")
    parser.add_argument("--stacked-heads", action="store_true", help="one .npy a prompt, which can be memory-mapped")
    parser.add_argument("--device", help="where the model runs, such as cpu or cuda:0")
    parser.add_argument("--force", action="store_true", help="compute what is there already")
    add_worker_arguments(parser, parallel=1)


def run(args):
    """Compute what is missing."""
    from ..pipeline.activations import activations_main

    report = activations_main(
        args.model,
        args.save_path,
        args.prompts,
        args.raw_prompts,
        args.min_chars,
        args.max_chars,
        args.force,
        args.n_samples,
        args.shuffle,
        args.stacked_heads,
        args.device,
        model_id=args.model_id,
        seed=args.seed,
        parallel=args.parallel,
        scheduler=args.scheduler,
        progress=False if args.quiet else None,
    )
    return report_run(report, "prompts")
