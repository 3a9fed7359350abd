"""Options: what the declarations say holds for calls, for stored values and for every command."""

import argparse
import contextlib
import copy
import dataclasses
import functools
import inspect
import pickle
import sys
from typing import get_args

import pytest
from conftest import PROMPT, make_maps
from PIL import Image
from starlette.testclient import TestClient

from attn_viewer import activations_main, capture_attention, save_scores, view_attention
from attn_viewer.capture_options import CaptureOptions, GenerationOptions
from attn_viewer.cli import main
from attn_viewer.commands import COMMANDS
from attn_viewer.commands.arguments import Command, add_options, read_options
from attn_viewer.declarations import Options, get_declaration, list_choices, read_type
from attn_viewer.errors import ArgumentError, OptionError
from attn_viewer.options import LookOptions, ViewOptions
from attn_viewer.selections import parse_heads


def list_commands():
    import importlib

    for name, (module, _) in COMMANDS.items():
        command = getattr(importlib.import_module(f"attn_viewer.commands.{module}"), name)
        if isinstance(command, Command):
            yield name, command
        else:
            yield from ((f"{name} {step}", one) for step, (_, one) in command.steps.items())


COMMAND_LIST = dict(list_commands())
OFFERED = [(name, option) for name, command in COMMAND_LIST.items() for option in command.options._fields]


def test_the_signature_is_made_of_the_declarations():
    signature = inspect.signature(view_attention)
    assert list(signature.parameters)[:11] == [
        "model", "model_id", "tokenizer", "prompt", "save_attention_scores", "save_attention_scores_path",
        "load_attention_scores_path", "save_fig_path", "plot_figs_per_head", "ignore_first_token", "num_figs_per_row",
    ]  # fmt: skip
    kinds = [one.kind for one in signature.parameters.values()]
    assert kinds == [inspect.Parameter.POSITIONAL_OR_KEYWORD] * 11 + [inspect.Parameter.KEYWORD_ONLY] * (
        len(kinds) - 11
    )
    for name, field in ViewOptions._fields.items():
        assert signature.parameters[name].default == field.default
        assert f"\n{name} : " in view_attention.__doc__
        assert get_declaration(field).help[1:].split()[0] in view_attention.__doc__


def test_unknown_options_are_named_with_the_nearest():
    for call in (view_attention, capture_attention, LookOptions):
        with pytest.raises(ArgumentError, match=r"'hedas'") as caught:
            call(hedas=[1])
        assert "__init__" not in str(caught.value)
    with pytest.raises(ArgumentError, match="did you mean 'weighting'"):
        CaptureOptions(weigthing="attention")
    with pytest.raises(ArgumentError, match="view_attention has no option 'vmix'; did you mean 'vmin'"):
        view_attention(vmix=1)


def test_options_are_values(tmp_path):
    paper = LookOptions(fig_format="svg", norm="log", save_fig_path=tmp_path)
    wide = dataclasses.replace(paper, norm="linear")
    assert (wide.norm, wide.fig_format, wide.save_fig_path) == ("linear", "svg", tmp_path)
    again = pickle.loads(pickle.dumps(paper))
    assert (again, hash(again), copy.deepcopy(paper)) == (paper, hash(paper), paper)
    assert paper not in (wide, ViewOptions(fig_format="svg", norm="log", save_fig_path=tmp_path), None)
    assert repr(wide) == f"LookOptions(fig_format='svg', save_fig_path={tmp_path!r})"
    assert [field.name for field in dataclasses.fields(paper)] == list(inspect.signature(LookOptions).parameters)
    for change in (lambda: setattr(paper, "norm", "power"), lambda: delattr(paper, "norm")):
        with pytest.raises(dataclasses.FrozenInstanceError, match="never change"):
            change()
    assert paper.norm == "log"
    with pytest.raises(ArgumentError, match=r"LookOptions takes options by name, as in LookOptions\(\w+=…\)"):
        LookOptions("svg")
    with pytest.raises(ArgumentError, match="needs first and second"):
        COMMAND_LIST["compare"].options()


def test_stored_options_are_passed_on(tmp_path):
    cache = save_scores(make_maps(), tmp_path)
    paper = LookOptions(fig_format="svg", norm="log", save_fig_path=tmp_path / "a")
    (one,) = view_attention(load_attention_scores_path=cache, options=paper)
    (two,) = view_attention(
        load_attention_scores_path=cache, save_fig_path=tmp_path / "b", fig_format="SVG", norm="log"
    )
    assert one.name == "all_layers_avg.svg"
    assert one.read_bytes() == two.read_bytes()
    (three,) = view_attention(load_attention_scores_path=cache, options=paper, norm="linear")
    assert three.read_bytes() != two.read_bytes()
    with pytest.raises(OptionError, match="weighting has no use beside load_attention_scores_path"):
        view_attention(
            load_attention_scores_path=cache, save_fig_path=tmp_path, options=CaptureOptions(weighting="value_norm")
        )
    with pytest.raises(ArgumentError, match="options must be ViewOptions or one of its parts"):
        view_attention(load_attention_scores_path=cache, save_fig_path=tmp_path, options={"norm": "log"})


def test_more_than_a_function_takes_is_refused(demo):
    model, tokenizer = demo
    with pytest.raises(OptionError, match="max_new_tokens"):
        capture_attention(model, tokenizer, PROMPT, options=GenerationOptions(max_new_tokens=3))
    kept = CaptureOptions(layers=[1], reduction="head_mean")
    maps = capture_attention(model, tokenizer, PROMPT, options=kept, heads=[0, 2])
    assert (maps.layers, maps.reduction) == ((1,), "head_mean")


def find_value(field):
    """Return what may be typed for an option, and is not its default."""
    declared, hint, choices = get_declaration(field), read_type(field), list_choices(field)
    if hint is bool:
        return []
    if choices:
        return [str(next(choice for choice in choices if choice != field.default))]
    name = field.name
    kinds = get_args(hint) or (hint,)
    special = {"group": "words", "spans": "words", "merge": "1.0,1.1", "num_figs_per_row": "2", "query": "1"}
    if name in special:
        return [special[name]]
    if declared.parse is parse_heads:
        return ["1.0"]
    number = 3 if (declared.at_most or 3) >= 3 else declared.at_most
    number = max(declared.at_least or 0, number)
    return [str(number)] if {int, float} & set(kinds) else ["1"]


MODEL = "--model_id m --model_path demo --dtype float32 --device_map cpu --revision x --trust_remote_code --quiet "
PAIR, FILE, CHAT = "--prompt a --pair b ", "--prompt_file p.txt ", "--chat --decoder_prompt x "
KEPT = "--layers 1 --heads 0-1 --queries 3 --kind self "
COARSE = "--reduction pooled --max_cells 2 --pooling mean --weighting value_norm --prompt_ids 5,6,7,8 "
MORE = "--max_new_tokens 2 --temperature 1.0 --seed 3 --when steps "
CACHE = "--load_attention_scores_path random_attn_scores.pt "
FIGURE = "--fig_format png --save_fig_path v --preset icml2024 --columns 2 "
COLOURS = "--cmap viridis --sink hide --norm log "
PAGE = "--max_mb 9 --fit split --state view=text --theme dark "
RUN = "--save_path d --n_samples 1 --quiet --parallel 1 "
# What is typed after each command; together it is everything that the command offers. What the demo model cannot do is
# refused when it is read, and has a mark.
TYPED = {
    "view": (
        MODEL + PAIR + KEPT + COLOURS + PAGE + "--html h.html --save_attention_scores --save_attention_scores_path s "
        "--plot_figs_per_head --parallel 2 --width 8 --dark --fontsize 5 --title t --num_figs_per_row 2 --vmin 0.1 "
        "--vmax 0.9 --panels 1.0 --group words --group_summary max --fig_format svg --text path --save_fig_path v",
        FILE + FIGURE + "--figures one_dot --figures_from f.py --ignore_first_token --scale panel --reduction full",
        COARSE + MORE,
        "!" + CHAT,
        "!--image i.png",
        CACHE + "--spans a:0:2",
    ),
    "html": (MODEL + PAIR + KEPT + PAGE + "--output o.html", FILE, COARSE + MORE, "!" + CHAT, "!--image i.png", CACHE),
    "overview": (
        MODEL + PAIR + KEPT + "--kinds birds_eye " + COLOURS + FIGURE,
        FILE,
        COARSE + MORE + "--kinds birds_eye",
        "!" + CHAT,
        CACHE,
    ),
    "overlay": (
        "i.png --load_attention_scores_path vit_attn_scores.pt --model_id m --layers 1 --head 0 --query 1 "
        "--cmap viridis " + FIGURE,
        "i.png --load_attention_scores_path vit_attn_scores.pt --panels 1.0,0.2 --query 0,1 --picture 0 --part whole "
        "--cover 0.5 --num_figs_per_row 2 --vmin 0.1 --vmax 0.5 --norm power --title t --width 6 --dark --fontsize 6",
        "!i.png --model_path ./none --quiet",
    ),
    "heads": (
        MODEL + PAIR + KEPT.replace("--queries 3 ", "") + FIGURE + "--scores entropy,local_mass,sink_rate --window 3 "
        "--epsilon 0.2 --sort entropy --top 2 --csv c.csv --json j.json --scatter entropy,sink_rate",
        "--repeated 5 --seed 1 --queries 3 --scores entropy",
        FILE,
        "!" + COARSE + "--scores entropy",
        MORE + "--scores entropy",
        "!" + CHAT,
        CACHE,
    ),
    "compare": ("random_attn_scores.pt random_attn_scores.pt --layers 1 --heads 0-1 --top 2 " + COLOURS + FIGURE,),
    "ablate": (
        MODEL + PAIR + FIGURE + "--heads 1.0 --mode mean --top 2 --json j.json",
        FILE + "--merge 1.0,1.1 --alpha 0.3",
        "--rank --top 1 --prompt_ids 5,6,7",
        "!--chat --heads 1.0",
    ),
    "completions save": (
        MODEL + PAIR + KEPT + "--output o --max_new_tokens 2",
        FILE + "--raw_tokens --max_new_tokens 2",
        COARSE + MORE,
        "--prompts p.jsonl --max_new_tokens 2",
        "!" + CHAT,
    ),
    "completions render": (
        "random " + PAGE + "--output r --average_heads --quiet",
        "random_attn_scores.pt --zero_first_token --output r2",
    ),
    "activations": (
        RUN + "--model demo --model_id m --prompts p.jsonl --raw_prompts --min_chars 1 --max_chars 50 --shuffle "
        "--seed 1 --stacked_heads --device cpu --force",
        "--scheduler none --prompts p.jsonl --save_path d2",
    ),
    "figures": (
        RUN + "--model demo --figure_funcs one_dot --figures_from f.py --force",
        "--scheduler none --save_path d --figure_funcs raw",
    ),
    "atlas": (
        RUN + "--model demo --scores entropy,local_mass --scatter entropy,local_mass --mean_maps 2 --fig_format svg "
        "--preset icml2024 --columns 2",
        RUN + "--prompts p.jsonl --raw_prompts --min_chars 1 --max_chars 50 --shuffle --seed 1 --device cpu --force "
        "--model_id m --scores entropy",
        "--scheduler none --save_path d --scores entropy",
    ),
    "serve": (
        "--path d --host 127.0.0.1 --port 0 --allow_host a,b",
        MODEL.replace("--quiet ", "")
        + "--token 0123456789abcdef --max_tokens 9 --max_new_tokens 2 --max_maps_mb 8 --more_models n",
    ),
    "site": ("--path d --output site --parallel 1 --quiet", "--path d --scheduler none"),
}
FUNCTION = """
from attn_viewer import register_attn_figure_func


@register_attn_figure_func
def one_dot(attn_matrix, save_dir):
    (save_dir / "one_dot.txt").write_text(str(attn_matrix.shape))
"""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, demo):
    """A folder with all files that the lines of `TYPED` name."""
    folder = tmp_path_factory.mktemp("typed")
    save_scores(make_maps(), folder)
    tokens = ["[CLS]", *(f"{row},{column}" for row in range(2) for column in range(3))]
    save_scores(make_maps(n_tokens=7, tokens=tokens, causal=False, grid=(2, 3), model_id="vit"), folder)
    Image.new("RGB", (6, 4)).save(folder / "i.png")
    (folder / "p.txt").write_text(PROMPT)
    (folder / "p.jsonl").write_text('{"text": "Summer is warm. Winter is cold."}\n')
    (folder / "f.py").write_text(FUNCTION)
    activations_main("demo", folder / "d", folder / "p.jsonl", progress=False)
    return folder


@pytest.fixture
def names_read(monkeypatch):
    """Names of options that were read by code that does something, and not by what only checks or copies them."""
    names = set()

    def read(self, name):
        caller = sys._getframe(1)
        module = caller.f_globals["__name__"]
        if module not in ("attn_viewer.declarations", "dataclasses") and caller.f_code.co_name != "__post_init__":
            names.update(type(self)._fields if name == "as_dict" else {name})
        return object.__getattribute__(self, name)

    monkeypatch.setattr(Options, "__getattribute__", read, raising=False)
    return names


def open_page(app, *address):
    """Open the page of a server once, in place of running it."""
    page = TestClient(app, base_url="http://127.0.0.1").get("/", params={"token": "0123456789abcdef"})
    assert page.status_code == 200, page.text


@pytest.mark.parametrize("line", [f"{name}: {line}" for name in TYPED for line in TYPED[name]])
def test_what_is_typed_is_read(line, workplace, demo, names_read, monkeypatch, capsys):
    """Every option that was typed reaches code that acts on it, also beside all others of the line."""
    name, _, words = line.partition(": ")
    command = COMMAND_LIST[name]
    monkeypatch.chdir(workplace)
    monkeypatch.setattr("attn_viewer.capture.loading.load_model", lambda *args, **kwargs: demo)
    monkeypatch.setattr("attn_viewer.web.server.serve", lambda *args, **kwargs: None)
    monkeypatch.setattr("attn_viewer.web.live.run_app", open_page)
    on_cluster = "attn_viewer.pipeline.work._run_on_cluster"
    monkeypatch.setattr(on_cluster, lambda run, batches, scheduler, n_jobs: map(run, batches))
    status = main([*name.split(), *words.removeprefix("!").split()])
    assert status == (2 if words.startswith("!") else 0), capsys.readouterr().err
    spelled = {word: key for key, field in command.options._fields.items() for word in list_words(key, field)}
    typed = [spelled[word] for word in words.removeprefix("!").split() if word.startswith("--")]
    assert [option for option in typed if option not in names_read] == []


def list_words(name, field):
    words = get_declaration(field).words
    return [f"--{word}" for word in ((name,) if words is None else words)]


@pytest.mark.parametrize("name", COMMAND_LIST)
def test_all_that_a_command_offers_is_tried(name):
    fields = COMMAND_LIST[name].options._fields
    firsts = {key for key, field in fields.items() if field.default is dataclasses.MISSING}
    offered = {word for key, field in fields.items() if key not in firsts for word in list_words(key, field)}
    assert offered == {word for line in TYPED[name] for word in line.removeprefix("!").split() if word[:2] == "--"}


@functools.cache
def make_parser(name):
    parser = argparse.ArgumentParser()
    add_options(parser, COMMAND_LIST[name])
    return parser


@pytest.mark.parametrize(("name", "option"), OFFERED)
def test_what_would_do_nothing_is_refused(name, option):
    """An option that needs another is refused without it, in every command that offers both."""
    command, parser = COMMAND_LIST[name], make_parser(name)
    field = command.options._fields[option]
    needs = [need for need in get_declaration(field).needs if need.partition("=")[0] in command.options._fields]
    words = list_words(option, field)
    if field.default is dataclasses.MISSING or not words:
        return
    firsts = ["x" for one in command.options._fields.values() if one.default is dataclasses.MISSING]
    for word in words:
        chosen = parser.parse_args([*firsts, word, *find_value(field)])
        is_met = not needs or any(is_there(command.options, need) for need in needs)
        with contextlib.nullcontext() if is_met else pytest.raises(OptionError, match=f"{option} has no use without"):
            values = read_options(command.options, chosen)
            assert getattr(values, option) != field.default


def is_there(kind, need):
    """Tell whether defaults alone meet a need."""
    name, _, value = need.partition("=")
    default = kind._fields[name].default
    return str(default) == value if value else bool(default)


@pytest.mark.parametrize(
    "name", [name for name, command in COMMAND_LIST.items() if "load_attention_scores_path" in command.options._fields]
)
def test_what_runs_a_model_is_refused_beside_a_cache(name, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cache = str(save_scores(make_maps(), tmp_path))
    command = COMMAND_LIST[name]
    refused = []
    for option, field in command.options._fields.items():
        declared = get_declaration(field)
        if "load_attention_scores_path" not in declared.apart or declared.words == ():
            continue
        word = (declared.words or (option,))[0]
        for spelled in {f"--{word}", f"--{word.replace('_', '-')}"}:
            image = ["none.png"] if name == "overlay" else []
            words = [name, *image, "--load-attention-scores-path", cache, spelled, *find_value(field)]
            assert main(words) == 2, words
            assert f"{option} has no use beside load_attention_scores_path" in capsys.readouterr().err
        refused.append(option)
    if name != "overlay":
        assert {"weighting", "kind", "queries", "reduction", "max_new_tokens", "temperature", "prompt"} <= set(refused)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["random_attn_scores.pt"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--vmax 0.5 --norm quantile", "vmax has no use beside norm=quantile"),
        ("--vmax 0.5 --scale panel", "vmax has no use beside scale=panel"),
        ("--vmax 0.5 --scale shared --norm log", None),
        ("--ignore_first_token --sink keep", "ignore_first_token has no use beside sink=keep"),
        ("--ignore_first_token --sink renormalise", None),
        ("--max_new_tokens 2 --temperature 1 --seed -1", "seed must be a whole number from 0"),
        ("--max_new_tokens 2 --temperature 1 --seed 18446744073709551616", "seed must be a whole number from 0"),
    ],
)
def test_words_that_contradict_each_other_are_refused(words, message):
    chosen = make_parser("view").parse_args(words.split())
    with contextlib.nullcontext() if message is None else pytest.raises(OptionError, match=message):
        read_options(COMMAND_LIST["view"].options, chosen)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--num_figs_per_row", "x"], "must be a whole number or 'auto', got 'x'"),
        (["--queries", "2-4"], "must be a range or a whole number, got '2-4'"),
        (["--parallel", "yes"], "must be True or False or a whole number, got 'yes'"),
        (["--vmax", "big"], "must be a number, got 'big'"),
    ],
)
def test_words_that_cannot_be_read_say_what_is_expected(words, message, capsys):
    with pytest.raises(SystemExit):
        make_parser("view").parse_args(words)
    assert message in capsys.readouterr().err


def test_ranges_and_cores_are_typed_as_the_help_says():
    chosen = make_parser("view").parse_args(["--queries", "2:5", "--parallel", "True"])
    assert (chosen.queries, chosen.parallel) == (slice(2, 5), True)


@pytest.mark.parametrize("name", COMMAND_LIST)
def test_help_shows_no_python(name):
    assert "(default: (" not in make_parser(name).format_help()
    assert "'(" not in make_parser(name).format_help()
