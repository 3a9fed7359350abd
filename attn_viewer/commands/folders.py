"""``attn-viewer activations``, ``figures``, ``atlas``, ``serve`` and ``site``: many prompts, in a data folder."""

import dataclasses
import functools
import sys
from collections.abc import Sequence

from ..declarations import option
from ..errors import OptionError
from ..folder_options import ActivationsOptions, AtlasOptions, FolderFiguresOptions, SiteOptions
from ..web.live_options import LiveOptions
from .arguments import Command, LoadOptions, QuietOptions, load_model, report_run


class ActivationsWords(ActivationsOptions, QuietOptions):
    """The model."""

    model: str = option("demo", "hub name, folder or .gguf file", metavar="PATH")


def _activations(asked: ActivationsWords) -> int:
    from ..pipeline.activations import activations_main

    options = ActivationsOptions.pick(asked)
    return report_run(activations_main(asked.model, options=options, progress=asked.bars), "prompts")


activations = Command(ActivationsWords, _activations)


class StoredOptions(QuietOptions):
    """The model."""

    model: str = option("demo", "its name in the data folder", metavar="NAME")

    @property
    def name(self) -> str:
        """The model's name in the data folder, also where a path was typed."""
        from ..pipeline.activations import name_model

        return name_model(self.model)


class FiguresWords(FolderFiguresOptions, StoredOptions):
    """Which figures."""


def _figures(asked: FiguresWords) -> int:
    from ..pipeline.figures import figures_main

    options = FolderFiguresOptions.pick(asked)
    return report_run(figures_main(asked.name, options=options, progress=asked.bars), "prompts")


figures = Command(FiguresWords, _figures)


class AtlasWords(AtlasOptions, QuietOptions):
    """Which scores."""

    model: str = option("demo", "its name in the data folder; with prompts as activations takes it", metavar="NAME")


def _atlas(asked: AtlasWords) -> int:
    from ..pipeline.atlas import atlas_main

    report, paths = atlas_main(asked.model, options=AtlasOptions.pick(asked), progress=asked.bars)
    for path in paths:
        print(path)
    return report_run(report, "prompts")


atlas = Command(AtlasWords, _atlas)


class ServeWords(LoadOptions, LiveOptions):
    """The server."""

    path: str = option("attn_data", "the data folder; beside model_path, where prompts are saved to", metavar="DIR")
    model_path: str | None = option(
        None,
        "in place of a data folder, a page with a prompt box over this model: folder, .gguf file or hub name org/name; "
        "the word alone is the demo model",
        metavar="PATH",
        alone="demo",
    )
    more_models: Sequence[str] = option(
        (), "models that the page may switch to, named as model_path is", metavar="PATH,…", needs="model_path"
    )
    host: str = option("127.0.0.1", "address to listen on", metavar="ADDRESS")
    port: int = option(8000, "0 takes a free one", metavar="N", at_least=0)
    allow_host: Sequence[str] = option(
        (), "names by which browsers may address the server, besides localhost and plain addresses", metavar="NAME,…"
    )
    token: str | None = option(
        None,
        "secret in the page's address, needed where other machines can reach it",
        metavar="TEXT",
        needs="model_path",
    )


def _serve(asked: ServeWords) -> None:
    def ready(url: str) -> None:
        print(url, flush=True)
        print("Ctrl-C stops the server", file=sys.stderr)

    if asked.model_path is None:
        if idle := LoadOptions.pick(asked).changes():
            raise OptionError(f"{', '.join(idle)} has no use without model_path")
        from ..web.server import serve

        serve(asked.path, host=asked.host, port=asked.port, allowed_hosts=asked.allow_host, ready=ready)
        return
    from ..web.live import serve_live

    model, tokenizer = load_model(asked, None)
    loads = {path: dataclasses.replace(asked, model_path=path) for path in asked.more_models}
    serve_live(
        model,
        tokenizer,
        model_id=asked.model_id,
        others={path: functools.partial(load_model, words, None) for path, words in loads.items()},
        folder=asked.path,
        limits=LiveOptions.pick(asked),
        host=asked.host,
        port=asked.port,
        ready=ready,
        token=asked.token,
        allowed_hosts=asked.allow_host,
    )


serve = Command(ServeWords, _serve)


class SiteWords(SiteOptions, QuietOptions):
    """The site."""

    path: str = option("attn_data", "the data folder", metavar="DIR")
    output: str = option("site", "folder; an older site there is replaced when all is written", metavar="DIR")


def _site(asked: SiteWords) -> int:
    from ..web.site import write_site

    report = write_site(asked.path, asked.output, options=SiteOptions.pick(asked), progress=asked.bars)
    print(asked.output)
    return report_run(report, "prompts")


site = Command(SiteWords, _site)
