"""Public names: where they come from, and what they say to arguments of the wrong type."""

import ast
import collections
import inspect
import pickle
import types
from pathlib import Path

import numpy as np
import pytest
from conftest import PROMPT, make_maps

import attn_viewer
from attn_viewer.errors import AttnViewerError
from attn_viewer.hints import check_value, describe_hint, fits_hint

WRONG = (None, 3.7, object(), "x", [], {}, b"x", 10**40, float("nan"))
FUNCTIONS = [name for name in attn_viewer.__all__ if isinstance(getattr(attn_viewer, name), types.FunctionType)]


def test_the_stub_and_the_code_name_the_same():
    stub = ast.parse(Path(attn_viewer.__file__).with_suffix(".pyi").read_text())
    named = [alias.name for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert sorted(named) == sorted(set(named)) == attn_viewer.__all__
    assert set(named) <= set(dir(attn_viewer))
    assert (Path(attn_viewer.__file__).parent / "py.typed").is_file()
    for node in stub.body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                assert alias.asname == alias.name  # else it is no public name to a type checker
                assert inspect.unwrap(getattr(attn_viewer, alias.name)).__module__ in (f"attn_viewer.{node.module}",)


def test_functions_are_pickled_by_their_public_names():
    for name in FUNCTIONS:
        assert pickle.loads(pickle.dumps(getattr(attn_viewer, name))).__name__ == name


@pytest.fixture(scope="module")
def good(demo, demo_maps, tmp_path_factory):
    """Arguments that work, by the name of the parameter."""
    folder = tmp_path_factory.mktemp("good")
    model, tokenizer = demo
    cache = attn_viewer.save_scores(make_maps(), folder)
    table = attn_viewer.score_heads(demo_maps, ["entropy"], progress=False)
    known = {
        "model": model,
        "tokenizer": tokenizer,
        "prompt": PROMPT,
        "maps": demo_maps.select(layers=[1], heads=[0, 1]),
        "first": demo_maps,
        "second": demo_maps,
        "path": cache,
        "folder": folder,
        "save_path": folder,
        "run": lambda: model(input_ids=tokenizer("a b", return_tensors="pt")["input_ids"]),
        "layer": 1,
        "head": 1,
        "query": 3,
        "heads": [(1, 0)],
        "head1": 0,
        "head2": 1,
        "intervention": attn_viewer.ablate_heads(model, [(1, 0)]),
        "length": 5,
        "tables": [table],
        "prompts": [PROMPT],
        "prefixes": [folder / "a"],
        "max_new_tokens": 1,
        "save_fig_path": folder,
        "model_name": "none",
        "func": print,
        "names": "one",
        "matrix": np.eye(3),
        "weights": np.eye(3, dtype=np.float32),
        "max_mb": 25.0,
    }
    return collections.defaultdict(lambda: None, known)


def _try(function, needed, name, wrong):
    """Return what a call raised that is no error of ours."""
    if (wrong == "x" and name == "model_path") or name == "max_new_tokens":
        return None  # a name on the hub; as many tokens as that
    try:
        result = function(**(needed | {name: wrong}))
        if inspect.isgenerator(result):
            next(result, None)
    except AttnViewerError:
        return None
    except Exception as error:
        return f"{name}={wrong!r:.30}: {type(error).__name__}: {error!s:.100}"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_wrong_types_are_typed_errors(name, good, tmp_path, monkeypatch):
    """Each parameter in turn, all others as they should be: it works, or says what is wrong in an error of ours."""
    monkeypatch.chdir(tmp_path)
    function = getattr(attn_viewer, name)
    raw = []
    parameters = inspect.signature(function).parameters.values()
    needed = {one.name: good[one.name] for one in parameters if one.default is one.empty and one.kind < one.VAR_KEYWORD}
    needed = {key: value for key, value in needed.items() if inspect.signature(function).parameters[key].kind != 2}
    for one in parameters:
        if one.kind in (one.VAR_KEYWORD, one.VAR_POSITIONAL):
            continue
        raw += filter(None, (_try(function, needed, one.name, wrong) for wrong in WRONG))
    assert raw == []


def test_hints_in_words():
    assert describe_hint(int | None) == "a whole number"
    assert describe_hint(collections.abc.Sequence[int] | str) == "a sequence, each a whole number or text"
    for value, hint, fits in (
        (np.int64(3), int, True),
        (True, int, False),
        (3, float, True),
        ("ab", collections.abc.Sequence[str], False),
        ([1, "a"], collections.abc.Iterable[int], False),
        ((1, 2), tuple[int, int], True),
        ((1, 2, 3), tuple[int, int], False),
        (print, collections.abc.Callable[..., None], True),
        (slice(1), slice | int | None, True),
    ):
        assert fits_hint(value, hint) is fits
    for wrong in (0, float("nan"), float("inf"), "1"):
        with pytest.raises(AttnViewerError, match="size must be a number above 0, got"):
            check_value("size", wrong, float, above=0)
