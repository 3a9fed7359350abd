"""Options of runs over many prompts: a data folder, its workers, and what is made of it."""

from collections.abc import Collection, Sequence
from typing import Any

from .capture_options import ProgressOptions
from .declarations import Options, option
from .errors import OptionError
from .options import FilePath, ScatterOptions, VenueOptions
from .selections import parse_names, parse_workers


def placed(**more: Any) -> Any:
    """Declare where a model runs."""
    return option(None, "where the model runs, such as cpu or cuda:0", metavar="NAME", **more)


class FolderOptions(ProgressOptions):
    """The data folder."""

    save_path: FilePath = option("attn_data", "the data folder", metavar="DIR")
    n_samples: int | None = option(None, "only the first N prompts; left out, all", metavar="N", at_least=1)


class WorkerOptions(Options):
    """How the work is shared among processes."""

    parallel: bool | int = option(1, "processes, True for one a core", metavar="N", parse=parse_workers, at_least=1)
    scheduler: str | None = option(
        None, "address of a dask scheduler, or 'local' to start one", metavar="tcp://HOST:PORT"
    )

    def check_use(self, given: Collection[str]) -> None:
        """Refuse what does nothing; a scheduler that runs elsewhere has its own workers."""
        super().check_use(given)
        if "parallel" in given and self.scheduler not in (None, "local"):
            raise OptionError(f"parallel has no use beside scheduler {self.scheduler!r}, which has its own workers")


class SiteOptions(WorkerOptions, ProgressOptions):
    """How a data folder becomes a site."""


class PromptsOptions(FolderOptions, WorkerOptions):
    """The prompts, and the model that runs on them."""

    prompts_path: FilePath | None = option(
        None,
        "texts: JSON lines or Parquet with 'text', or a folder of such files or of a Hugging Face data set; left out, "
        "the prompts of the data folder",
        words="prompts",
        metavar="FILE",
    )
    raw_prompts: bool = option(False, "bring texts to size, by the next two", needs="prompts_path")
    min_chars: int = option(100, "leave out shorter ones", metavar="N", at_least=0, needs="raw_prompts")
    max_chars: int = option(1000, "split longer ones", metavar="N", at_least=1, needs="raw_prompts")
    shuffle: bool = option(False, "shuffle the prompts")
    seed: int = option(0, "of the shuffle", metavar="N", needs="shuffle")
    device: str | None = placed()
    force: bool = option(False, "compute what is there already")
    model_id: str | None = option(None, "name of the model in the folder; left out, its own", metavar="NAME")


class ActivationsOptions(PromptsOptions):
    """The prompts, and what is stored of them."""

    stacked_heads: bool = option(
        False, "one .npy a prompt, which can be memory-mapped: axes (n_layers, n_heads, n_query, n_key)"
    )


class FolderFiguresOptions(FolderOptions, WorkerOptions, parallel=True):
    """The figures of every head."""

    figure_funcs_select: str | Collection[str] | None = option(
        None,
        "names or patterns of figure functions; left out, all",
        words="figure_funcs",
        metavar="'svd*,raw'",
        parse=parse_names,
    )
    figures_from: FilePath | None = option(
        None, "Python file that registers figure functions; it is run", metavar="FILE"
    )
    force: bool = option(False, "draw what is there already")


class AtlasOptions(PromptsOptions, ScatterOptions, VenueOptions, fig_format="png"):
    """The scores."""

    scores: str | Sequence[str] | None = option(
        None,
        "names of scores; left out, all that these weights can have but the slow effective_rank and nuclear_norm",
        metavar="entropy,…",
        parse=parse_names,
    )
    mean_maps: int | None = option(
        None,
        "also average the attention by position, over the first so many tokens of each prompt that has them",
        metavar="TOKENS",
        at_least=1,
        apart="prompts_path",
    )
    device: str | None = placed(needs="prompts_path")  # stored weights need no model
