"""Public names: where they come from, and what they say to arguments of the wrong type."""

import ast
import collections
import inspect
import pickle
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PROMPT, make_maps, store_prompt

import attn_viewer
from attn_viewer.analysis import HeadScores
from attn_viewer.errors import ArgumentError, AttnViewerError
from attn_viewer.figures import registry
from attn_viewer.hints import check_value, describe_hint, fits_hint

WRONG = (None, 3.7, object(), "x", [], {}, b"x", 10**40, float("nan"))
ROOMS = ("analysis", "figures", "interventions", "pipeline", "storage")
PLACES = [attn_viewer, *(getattr(attn_viewer, room) for room in ROOMS)]
PUBLIC = {name: getattr(place, name) for place in PLACES for name in place.__all__}
PUBLIC |= {name: getattr(attn_viewer.experiments, name) for name in ("list_experiments", "load_experiment")}
FUNCTIONS = [name for name, value in PUBLIC.items() if isinstance(value, types.FunctionType)]


@pytest.mark.parametrize("place", PLACES)
def test_the_stub_and_the_code_name_the_same(place):
    stub = ast.parse(Path(place.__file__).with_suffix(".pyi").read_text())
    named = {alias.name: node for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    modules = [name for name, node in named.items() if node.module is None]
    assert sorted(named) == sorted([*place.__all__, *modules])
    assert set(named) <= set(dir(place))
    assert all(isinstance(getattr(place, name), types.ModuleType) for name in modules)
    for name, node in named.items():
        assert [alias.asname for alias in node.names] == [
            alias.name for alias in node.names
        ]  # so that types are public
        if node.module:
            assert inspect.unwrap(getattr(place, name)).__module__ == f"{place.__name__}.{node.module}"


def test_names_of_the_top_are_few_and_each_stands_in_one_place():
    assert len(attn_viewer.__all__) <= 50
    names = [name for place in PLACES for name in place.__all__]
    assert sorted(names) == sorted(set(names))
    assert (Path(attn_viewer.__file__).parent / "py.typed").is_file()


def test_functions_are_pickled_by_their_public_names():
    for name in FUNCTIONS:
        assert pickle.loads(pickle.dumps(PUBLIC[name])) is PUBLIC[name]


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
    return known


def draw_nothing(attn_matrix, save_dir):
    """Figure function that draws nothing."""


@pytest.fixture(scope="module")
def special(demo, demo_maps, tmp_path_factory):
    """Arguments that work and go beyond what a function must have, or differ from those of other functions."""
    folder = tmp_path_factory.mktemp("special")
    model, tokenizer = demo
    prompts, code = folder / "prompts.jsonl", folder / "functions.py"
    prompts.write_text('{"text": "Summer is warm."}\n')
    code.write_text(
        "import attn_viewer\n\n\n@attn_viewer.register_attn_figure_func\ndef draw(matrix, folder):\n    pass\n"
    )
    cache = attn_viewer.save_scores(make_maps(1, 1, 4), folder)
    text = {"text": "Summer is warm."}
    store_prompt(make_maps(1, 1, 4, model_id="demo"), text, folder)
    stored = {"model_name": "demo", "save_path": folder}
    tokens = ["[CLS]", *(f"{row},{column}" for row in range(2) for column in range(3))]
    patches = make_maps(n_tokens=7, tokens=tokens, causal=False, grid=(2, 3))
    effect = attn_viewer.measure_effect(model, tokenizer, PROMPT, attn_viewer.ablate_heads(model, [(1, 0)]))
    run = attn_viewer.experiment(folder / "runs")(draw_nothing)
    run(None, None)
    record = attn_viewer.experiments.list_experiments(folder / "runs")[0].path
    return {
        "activations_main": {"model_name": "demo", "save_path": folder / "made", "prompts_path": prompts},
        "atlas_main": stored | {"scores": ["entropy"]},
        "figures_main": stored | {"figure_funcs_select": "raw", "parallel": 1},
        "run_figure_funcs": {"maps": make_maps(1, 1, 4)},
        "register_attention": {"module_class": type("Mixer", (torch.nn.Module,), {}), "weights_from": len},
        "average_maps": {"maps": [demo_maps]},
        "capture_attention": {"prompt": PROMPT, "tokenizer": tokenizer},
        "capture_generation": {"max_new_tokens": 1},
        "save_completions": {"max_new_tokens": 1, "tokenizer": tokenizer},
        "compute_activations": {"prompt": text, "save_path": folder / "made"},
        "get_activations": {"prompt": text, "save_path": folder, "tokenizer": tokenizer},
        "load_activations": stored | {"prompt": text},
        "load_prompt_maps": stored | {"prompt": text},
        "compute_attention_flow": {"maps": demo_maps},
        "roll_out_attention": {"maps": demo_maps},
        "draw_atlas": {"values": np.ones((2, 3))},
        "plot_atlas": {"values": np.ones((2, 3))},
        "plot_overview": {"kind": "birds_eye"},
        "export_html": {"path": folder / "page.html"},
        "write_site": {"path": folder},
        "load_experiment": {"path": record},
        "load_figure_funcs": {"path": code},
        "load_text_data": {"fname": prompts},
        "matplotlib_multifigure_saver": {"names": ["one"]},
        "matrix2drgb_to_png_bytes": {"matrix": np.zeros((3, 3, 3), np.uint8)},
        "overlay_attention": {"maps": patches, "image": np.eye(4, dtype=np.float32)},
        "plot_effect": {"effect": effect},
        "plot_head_scatter": {"scores": HeadScores(*np.zeros((2, 1), int), {"a": np.ones(1)}), "x": "a", "y": "a"},
        "plot_similarity": {"similarity": np.eye(2), "names": ["a", "b"]},
        "register_attn_figure_func": {"func": draw_nothing},
        "register_attn_figure_multifunc": {},
        "render_completions": {"prefixes": [folder / "random"]},
        "view_attention": {"load_attention_scores_path": cache, "save_fig_path": folder},
    }  # fmt: skip


NEEDS_VISION = ("capture_image_attention", "load_image_model")  # and a model of that kind, which their own tests build


def _call(function, arguments):
    result = function(**arguments)
    if inspect.isgenerator(result):
        next(result, None)


def _try(function, needed, name, wrong):
    """Return what a call raised that is no error of ours."""
    try:
        _call(function, needed | {name: wrong})
    except AttnViewerError:
        return None
    except Exception as error:
        return f"{name}={wrong!r:.30}: {type(error).__name__}: {error!s:.100}"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_wrong_types_are_typed_errors(name, good, special, tmp_path, monkeypatch):
    """Each parameter in turn, all others as they should be: it works, or says what is wrong in an error of ours."""
    monkeypatch.chdir(tmp_path)
    registry.select_attn_figure_funcs()  # which registers those of this package
    monkeypatch.setattr(registry, "_functions", dict(registry._functions))
    function = PUBLIC[name]
    parameters = [
        one
        for one in inspect.signature(function).parameters.values()
        if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)
    ]
    needed = {one.name: good.get(one.name) for one in parameters if one.default is one.empty} | special.get(name, {})
    if name not in NEEDS_VISION:
        _call(function, needed)
    assert list(filter(None, (_try(function, needed, one.name, wrong) for one in parameters for wrong in WRONG))) == []


@pytest.mark.parametrize(
    ("name", "came", "words"),
    [
        (
            "plot_lines",
            (),
            r"plot_lines: missing a required argument: 'maps'; it is called as plot_lines\(maps, layer, …\)",
        ),
        (
            "capture_attention",
            (1, 2, 3, 4),
            r"too many positional arguments; .* capture_attention\(model, tokenizer, prompt, …",
        ),
        ("load_model", (None, "auto"), r"too many positional arguments; .* load_model\(model_path, …\)"),
        ("draw_heatmap", (), r"'weights'; it is called as draw_heatmap\(weights, \*which, …\)"),
    ],
)
def test_missing_arguments_and_those_too_many_are_typed_errors(name, came, words):
    with pytest.raises(ArgumentError, match=words):
        getattr(attn_viewer, name)(*came)


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


def test_the_guide_names_what_the_rooms_hand_out():
    guide = Path(__file__).parent.parent / "docs" / "guide.md"
    if not guide.exists():
        pytest.skip("installed without its pages")
    text = guide.read_text(encoding="utf-8")
    assert [name for name in PUBLIC if name not in attn_viewer.__all__ and f"`{name}`" not in text] == []
