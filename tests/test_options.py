"""Options: what the declarations say holds for calls, for stored values and for every command."""

import argparse
import contextlib
import dataclasses
import inspect
from typing import get_args

import pytest
from conftest import PROMPT, make_maps

from attn_viewer import LookOptions, capture_attention, save_scores, view_attention
from attn_viewer.cli import main
from attn_viewer.commands import COMMANDS
from attn_viewer.commands.arguments import Command, add_options, read_options
from attn_viewer.declarations import get_declaration, list_choices, read_type
from attn_viewer.errors import ArgumentError, OptionError
from attn_viewer.options import CaptureOptions, GenerationOptions, ViewOptions


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
        assert f"    {name} : " in view_attention.__doc__
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
    if name == "heads" and declared.metavar == "5.3,7.1":
        return ["1.0"]
    number = max(declared.at_least or 0, 3)
    return [str(number)] if {int, float} & set(kinds) else ["1"]


@pytest.mark.parametrize(("name", "option"), OFFERED)
def test_every_option_of_every_command_is_read_or_refused(name, option):
    """An option of a command reaches the values that the command acts on; if it would do nothing, it is refused."""
    command = COMMAND_LIST[name]
    field = command.options._fields[option]
    declared = get_declaration(field)
    words = (option,) if declared.words is None else declared.words
    parser = argparse.ArgumentParser()
    add_options(parser, command)
    firsts = [key for key, one in command.options._fields.items() if one.default is dataclasses.MISSING]
    given = ["x"] * len(firsts)
    if option in firsts or not words:
        return
    for word in words:
        typed = parser.parse_args([*given, f"--{word}", *find_value(field)])
        needs = [need for need in declared.needs if need.partition("=")[0] in command.options._fields]
        values = None
        if needs:
            with contextlib.suppress(OptionError):  # the other one is not there
                values = read_options(command.options, typed)
        else:
            values = read_options(command.options, typed)
        assert values is None or getattr(values, option) != field.default
        # The command's code names it, or hands it on with the class that declares it.
        source = inspect.getsource(inspect.getmodule(command.run))
        names_it = f".{option}" in source or f'"{option}"' in source
        assert names_it or any(
            option in base._fields for base in command.options.__mro__[1:] if hasattr(base, "_fields")
        )


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
