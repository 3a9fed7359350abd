"""The browser over a data folder as files for any web host: `write_site`.

::

    site/
      index.html  static/…
      data/folder.json
      data/{model}/prompts-{n}.json    so many prompts each, sorted by text
      data/{model}/atlas/…             as `storage.atlas_files` declares them
      data/{model}/{hash}/prompt.json  scores.json  figures.json  L{l}.bin  L{l}/H{h}/{figure}.{format}

What ends in ``.bin`` is deflated: the heads of a layer one after another, each as `encode` has it, and figures that a
browser would run if they were opened by themselves (SVG, HTML). A host serves those as mere data.
"""

import contextlib
import functools
import json
import os
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..declarations import takes_options
from ..errors import ActivationsMissingError, GetActivationsError, OptionError, OutputError
from ..files import check_folder, expand_home, make_folder, name_temporary, write_whole
from ..folder_options import SiteOptions
from ..options import FilePath
from ..pipeline.work import RunReport, note_untried, run_parts
from ..storage.atlas_files import ATLAS, list_entries, read_entry
from ..storage.folder import MAX_BYTES, Prompt
from .encode import Meta
from .listing import Listing, open_figure
from .replies import TEXT_LENGTH, describe_folder, describe_prompt, encode_stored, score_layer
from .scripts import STATIC

# Prompts of a part of the index.
PART = 100
# Longer prompts are kept as 8-bit codes, a quarter as large.
EXACT_SIDE = 32
# What a browser would run if a host served it as what it is.
_RUN = ("svg", "html")
_PARTS = {"data", "index.html", "static"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src blob: data: 'self'; "
    "font-src data:; connect-src 'self'; frame-src blob:; base-uri 'none'; form-action 'none'"
)
_ADVICE = "<p>Loading. If this stays, open the site through a web server, such as python -m http.server.</p>"


@takes_options(SiteOptions)
def write_site(path: FilePath, output: FilePath = "site", *, options: SiteOptions) -> RunReport:
    """Write the browser over a data folder as files that any web host can serve, below any address.

    Parameters
    ----------
    path : path-like
        The data folder.
    output : path-like
        Folder of the site: a new one, an empty one, or an older site, which stays until the new one is whole.
    **options
        As `SiteOptions` declares them.

    Returns
    -------
    RunReport
        Prompts written, and those that have no weights that can be read, which the site says too.

    Raises
    ------
    OptionError
        If there is no data folder, or no model in it.
    OutputError
        If something else is in `output`, or it cannot be written.
    """
    listing = Listing(path)
    models = listing.list_models()
    if not models:
        raise OptionError(f"{str(path)!r} holds no model; make one with attn-viewer activations")
    output = Path(os.path.abspath(expand_home(output)))
    _check_output(output, Path(os.path.abspath(expand_home(path))))
    report = RunReport()
    with _make_aside(output) as aside:
        _write_frame(listing, aside)
        items = [(model.name, name) for model in models for name in listing.read_prompts(model)]
        write = functools.partial(_write_prompt, os.fspath(path), aside)
        outcomes = run_parts(write, items, options, options.progress, "site")
        for outcome in note_untried(report, outcomes, len(items)):
            reason = outcome.error or outcome.value
            report.done += reason is None
            report.failures += [f"prompt {outcome.item[1]} of {outcome.item[0]}: {reason}"] if reason else []
            if outcome.error:
                raise OutputError(f"no site was written: {report.failures[-1]}")
    return report


def _check_output(output: Path, source: Path) -> None:
    """Refuse a place where something else is: an older site is deleted in the end, with all that is in it."""
    check_folder(output.parent)
    if os.path.lexists(output) and not output.is_dir():
        raise OutputError(f"{str(output)!r} is a file; give a folder for the site")
    there = {entry.name for entry in output.iterdir()} if output.is_dir() else set()
    others = there - _PARTS if (output / "data" / "folder.json").is_file() else there
    if others:
        raise OutputError(f"{str(output)!r} holds other files than a site, {min(others)!r}; give a new folder")
    if source.resolve().is_relative_to(output.resolve()):
        raise OutputError(
            f"the data folder {str(source)!r} lies in {str(output)!r}, which is replaced; give a new folder"
        )


@contextlib.contextmanager
def _make_aside(output: Path) -> Iterator[Path]:
    """Make a folder that takes the place of `output` when the block ends well."""
    make_folder(output.parent)
    words = name_temporary(output.name)
    aside, old = (output.with_name(f"{words['prefix']}{which}{words['suffix']}") for which in ("new", "old"))
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        yield aside
        if output.exists():
            os.rename(output, old)
        os.rename(aside, output)
    except OSError as error:
        raise OutputError(f"cannot write {str(output)!r}: {error.strerror or error}") from error
    finally:
        if old.exists() and not output.exists():
            os.rename(old, output)
        for left in (aside, old):
            shutil.rmtree(left, ignore_errors=True)


def _write_frame(listing: Listing, site: Path) -> None:
    """Write all but the prompts."""
    make_folder(site / "static")
    for file in STATIC.iterdir():
        if file.suffix in (".js", ".css", ".svg"):
            write_whole(site / "static" / file.name, file.read_bytes())
    page = (STATIC / "browser.html").read_text(encoding="utf-8")
    page = page.replace('<div id="browser">', f'<div id="browser" data-files="data">{_ADVICE}')
    page = page.replace(
        '<meta charset="utf-8">',
        f'<meta charset="utf-8">\n<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
    )
    write_whole(site / "index.html", page.encode())
    data = make_folder(site / "data")
    _write_json(data / "folder.json", describe_folder(listing) | {"part": PART})
    for model in listing.list_models():
        rows = [row | {"text": row["text"][:TEXT_LENGTH]} for row in listing.read_prompts(model).values()]
        rows.sort(key=lambda row: (row["text"], row["hash"]))
        place = make_folder(data / model.name)
        for number, start in enumerate(range(0, len(rows), PART)):
            _write_json(place / f"prompts-{number}.json", rows[start : start + PART])
        for name in list_entries(model):
            with contextlib.suppress(GetActivationsError):
                _write_json(make_folder(place / ATLAS) / f"{name}.json", read_entry(model, name).to_plain())


def _write_prompt(path: str, site: Path, item: tuple[str, str]) -> str | None:
    """Write what is seen of a prompt, and return why there are no weights, if so."""
    listing = Listing(path)
    prompt = listing.get_prompt(*item)
    place = make_folder(site / "data" / item[0] / item[1])
    try:
        reply = describe_prompt(listing, prompt, exact_side=EXACT_SIDE)
    except GetActivationsError as error:  # prompt.json itself
        reply = {"text": "", "figures": [], "meta": None, "error": str(error)}
    if reply["meta"]:
        try:
            _write_weights(prompt, reply["meta"], place)
        except GetActivationsError as error:
            reply |= {"meta": None, "error": str(error)}
    _write_json(place / "figures.json", _write_figures(prompt, reply["figures"], place))
    _write_json(place / "prompt.json", reply)
    reason: str | None = reply["error"]
    return reason


def _write_weights(prompt: Prompt, meta: Meta, place: Path) -> None:
    scores = {}
    with prompt.open_maps() as opened:
        for layer in meta["layers"]:
            maps = opened.read_layers([layer])
            heads = b"".join(encode_stored(head, meta) for head in maps.weights[0])
            write_whole(place / f"L{layer}.bin", zlib.compress(heads))
            if meta["scores"]:
                scores[layer] = score_layer(maps)
    _write_json(place / "scores.json", scores)


def _write_figures(prompt: Prompt, names: list[str], place: Path) -> dict[str, dict[str, Any]]:
    """Copy the figures of a prompt; return for each name what became of it by head: a format, or why there is none."""
    found: dict[str, dict[str, Any]] = {}
    heads = [(layer, head) for layer, count in prompt.model.heads.items() for head in range(count)]
    for name in names:
        found[name] = {"formats": {}, "reasons": {}}
        for layer, head in heads:
            try:
                data, ending = _read_figure(prompt, layer, head, name)
            except GetActivationsError as error:
                found[name]["reasons"][f"{layer}.{head}"] = str(error)
                continue
            if ending in _RUN:
                data, ending = zlib.compress(data), f"{ending}.bin"
            write_whole(make_folder(place / f"L{layer}" / f"H{head}") / f"{name}.{ending}", data)
            found[name]["formats"][f"{layer}.{head}"] = ending
    return found


def _read_figure(prompt: Prompt, layer: int, head: int, name: str) -> tuple[bytes, str]:
    """Read a figure, unpacked: few hosts say of an ``.svgz`` that it is packed."""
    file, ending = open_figure(prompt, layer, head, name)
    with file:
        data = file.read(MAX_BYTES + 1)
    if ending == "svgz":
        unpacker = zlib.decompressobj(31)
        try:
            data, ending = unpacker.decompress(data, MAX_BYTES + 1), "svg"
        except zlib.error as error:
            raise ActivationsMissingError("this figure is damaged") from error
    if len(data) > MAX_BYTES:
        raise ActivationsMissingError("this figure is too large to be shown")
    return data, ending


def _write_json(path: Path, content: object) -> None:
    write_whole(path, json.dumps(content, separators=(",", ":"), allow_nan=False).encode())
