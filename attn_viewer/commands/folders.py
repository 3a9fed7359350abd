"""``attn-viewer activations``, ``figures``, ``atlas``, ``serve`` and ``site``: many prompts, in a data folder."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from ..declarations import Options, option
from ..options import VenueOptions
from .arguments import Command, FolderOptions, WorkerOptions, report_run


@dataclass(frozen=True, kw_only=True)
class ActivationsWords(FolderOptions, WorkerOptions):
    """Model and prompts."""

    model: str = option("demo", "hub name, folder or .gguf file", metavar="PATH")
    model_id: str | None = option(None, "its name in the data folder; left out, the model's", metavar="NAME")
    prompts: str | None = option(
        None, "JSON lines with 'text'; left out, the prompts of the data folder", metavar="FILE"
    )
    raw_prompts: bool = option(False, "bring texts to size, by the next two", needs="prompts")
    min_chars: int = option(100, "leave out shorter ones", metavar="N", at_least=0, needs="raw_prompts")
    max_chars: int = option(1000, "split longer ones", metavar="N", at_least=1, needs="raw_prompts")
    shuffle: bool = option(False, "shuffle the prompts")
    seed: int = option(0, "of the shuffle", metavar="N", needs="shuffle")
    stacked_heads: bool = option(False, "one .npy a prompt, which can be memory-mapped")
    device: str | None = option(None, "where the model runs, such as cpu or cuda:0", metavar="NAME")
    force: bool = option(False, "compute what is there already")


def _activations(asked: ActivationsWords) -> int:
    from ..pipeline.activations import activations_main

    report = activations_main(
        asked.model,
        asked.save_path,
        asked.prompts,
        asked.raw_prompts,
        asked.min_chars,
        asked.max_chars,
        asked.force,
        asked.n_samples,
        asked.shuffle,
        asked.stacked_heads,
        asked.device,
        model_id=asked.model_id,
        seed=asked.seed,
        parallel=asked.parallel,
        scheduler=asked.scheduler,
        progress=asked.bars,
    )
    return report_run(report, "prompts")


activations = Command(ActivationsWords, _activations)


@dataclass(frozen=True, kw_only=True)
class FiguresWords(FolderOptions, WorkerOptions, parallel=os.cpu_count() or 1):
    """Model and figures."""

    model: str = option("demo", "its name in the data folder", metavar="NAME")
    figure_funcs: Sequence[str] | None = option(
        None, "names or patterns of figure functions; left out, all", metavar="'svd*,raw'"
    )
    figures_from: str | None = option(None, "Python file that registers figure functions; it is run", metavar="FILE")
    force: bool = option(False, "draw what is there already")


def _figures(asked: FiguresWords) -> int:
    from ..pipeline.activations import name_model
    from ..pipeline.figures import figures_main

    report = figures_main(
        name_model(asked.model),
        asked.save_path,
        asked.n_samples,
        asked.force,
        asked.figure_funcs,
        asked.parallel,
        figures_from=asked.figures_from,
        scheduler=asked.scheduler,
        progress=asked.bars,
    )
    return report_run(report, "prompts")


figures = Command(FiguresWords, _figures)


@dataclass(frozen=True, kw_only=True)
class AtlasWords(FolderOptions, WorkerOptions, VenueOptions, fig_format="png"):
    """Model and scores."""

    model: str = option("demo", "its name in the data folder", metavar="NAME")
    scores: Sequence[str] | None = option(None, "names of scores; left out, all", metavar="entropy,sink_mass")
    mean_maps: int | None = option(
        None,
        "also average the attention by position, over the first so many tokens of each prompt that has them",
        metavar="TOKENS",
        at_least=1,
    )


def _atlas(asked: AtlasWords) -> int:
    from ..figures.venues import use_preset
    from ..pipeline.activations import name_model
    from ..pipeline.atlas import atlas_main

    with use_preset(asked.preset, columns=asked.columns):
        report, paths = atlas_main(
            name_model(asked.model),
            asked.save_path,
            asked.n_samples,
            asked.scores,
            fmt=asked.fig_format,
            mean_maps=asked.mean_maps,
            parallel=asked.parallel,
            scheduler=asked.scheduler,
            progress=asked.bars,
        )
    for path in paths:
        print(path)
    return report_run(report, "prompts")


atlas = Command(AtlasWords, _atlas)


@dataclass(frozen=True, kw_only=True)
class ServeWords(Options):
    """The server."""

    path: str = option("attn_data", "the data folder", metavar="DIR")
    host: str = option("127.0.0.1", "address to listen on", metavar="ADDRESS")
    port: int = option(8000, "0 takes a free one", metavar="N", at_least=0)
    allow_host: Sequence[str] = option(
        (), "names by which browsers may address the server, besides localhost and plain addresses", metavar="NAME,…"
    )


def _serve(asked: ServeWords) -> None:
    from ..web.server import serve

    def ready(url: str) -> None:
        print(url, flush=True)
        print("Ctrl-C stops the server", file=sys.stderr)

    serve(asked.path, host=asked.host, port=asked.port, allowed_hosts=asked.allow_host, ready=ready)


serve = Command(ServeWords, _serve)


@dataclass(frozen=True, kw_only=True)
class SiteWords(WorkerOptions):
    """The site."""

    path: str = option("attn_data", "the data folder", metavar="DIR")
    output: str = option("site", "folder; an older site there is replaced when all is written", metavar="DIR")


def _site(asked: SiteWords) -> int:
    from ..web.site import write_site

    report = write_site(
        asked.path, asked.output, parallel=asked.parallel, scheduler=asked.scheduler, progress=asked.bars
    )
    print(asked.output)
    return report_run(report, "prompts")


site = Command(SiteWords, _site)
