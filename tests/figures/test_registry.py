import importlib
import itertools
import subprocess
import sys

import pytest

from attn_viewer import register_attn_figure_func
from attn_viewer.errors import OptionError
from attn_viewer.figures import (
    get_all_figure_names,
    load_figure_funcs,
    register_attn_figure_multifunc,
    registry,
    select_attn_figure_funcs,
)


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    """What a test registers is forgotten after it."""
    select_attn_figure_funcs()
    monkeypatch.setattr(registry, "_functions", dict(registry._functions))
    monkeypatch.setattr(registry, "_specs", dict(registry._specs))


def make_func(name="mine", source="def {}(matrix, folder): pass", file="<cell>", module="__main__", line=1):
    space = {"__name__": module}
    exec(compile("\n" * (line - 1) + source.format(name), file, "exec"), space)
    return space[name]


def names():
    return [func.__name__ for func in select_attn_figure_funcs()]


def test_registered_functions_come_after_the_built_in_ones():
    before, all_before = names(), get_all_figure_names()
    first, second = make_func("zebra"), make_func("ape")
    assert register_attn_figure_func(first) is first
    assert register_attn_figure_multifunc(["left", "right"])(second) is second
    assert names() == [*before, "zebra", "ape"]
    assert get_all_figure_names() == [*all_before, "zebra", "ape.left", "ape.right"]
    assert select_attn_figure_funcs("*e*r*")[-1] is first
    assert select_attn_figure_funcs({"ape", "raw"}) == [*select_attn_figure_funcs("raw"), second]
    assert select_attn_figure_funcs(["zebra", "z*"]) == [first]


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ("svd_spectre", "there is no figure function 'svd_spectre'; did you mean 'svd_spectra'"),
        ({"raw", "zzz*"}, r"'zzz\*'; there are raw"),
        (["raw", 3], "must be text or a sequence"),
        (7, "got 7"),
        ("", "figure function ''"),
    ],
)
def test_a_choice_that_fits_nothing(chosen, message):
    with pytest.raises(OptionError, match=message):
        select_attn_figure_funcs(chosen)


def test_a_cell_run_again_replaces_its_function():
    register_attn_figure_func(make_func())
    changed = make_func(source="def {}(matrix, folder): return 1", file="<other cell>", line=3)
    register_attn_figure_func(changed)
    assert select_attn_figure_funcs("mine") == [changed]
    assert names().count("mine") == 1


def test_two_functions_of_one_name_are_an_error():
    first = make_func(file=__file__)
    register_attn_figure_func(first)
    register_attn_figure_func(make_func(file=__file__))  # the same definition
    with pytest.raises(OptionError, match=r"'mine' is registered already.*test_registry.py', 1.*test_registry.py', 9"):
        register_attn_figure_func(make_func(file=__file__, line=9))
    with pytest.raises(OptionError, match="rename"):
        register_attn_figure_func(make_func(module="elsewhere"))
    assert len(select_attn_figure_funcs("mine")) == 1


def test_a_function_takes_the_place_of_a_built_in_one():
    before = names()
    mine = make_func("raw")
    register_attn_figure_func(mine)
    assert select_attn_figure_funcs("raw") == [mine]
    assert sorted(names()) == sorted(before)


def test_a_function_registered_before_the_built_in_ones_stays():
    code = (
        "from attn_viewer import register_attn_figure_func as register\n"
        "from attn_viewer.figures import select_attn_figure_funcs as select\n"
        "def raw(matrix, folder): pass\n"
        "register(raw)\n"
        "assert select('raw') == [raw]\n"
        "assert select()[-1] is raw\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("func", [lambda matrix, folder: None, print, "raw", None, make_func])
def test_what_cannot_name_a_file_is_refused(func):
    if func is make_func:
        func = make_func()
        func.__name__ = "../mine"
    with pytest.raises(OptionError, match=r"made with def|must be a function"):
        register_attn_figure_func(func)


@pytest.mark.parametrize("wrong", [[], ["a", "a"], ["a/b"], ["a.b"], [""], [3], ["*"]])
def test_figure_names_that_cannot_be_files(wrong):
    with pytest.raises(OptionError, match=r"distinct names|each text"):
        register_attn_figure_multifunc(wrong)


FILE = """
from attn_viewer import register_attn_figure_func

{}
@register_attn_figure_func
def from_file(matrix, folder):
    (folder / "from_file.txt").write_text("1")
"""


def test_a_file_registers_its_functions_again_and_again(tmp_path):
    path = tmp_path / "my figures.py"
    path.write_text(FILE.format(""))
    assert load_figure_funcs(path) == ["from_file"]
    path.write_text(FILE.format("# moved down a line\n"))
    assert load_figure_funcs(str(path)) == ["from_file"]
    assert names().count("from_file") == 1
    (tmp_path / "other.py").write_text(FILE.format(""))
    with pytest.raises(OptionError, match="registered already"):
        load_figure_funcs(tmp_path / "other.py")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "is none"),
        ("x = 1", "registers no figure function"),
        (FILE.format("") + "1 / 0", "cannot be run: ZeroDivisionError"),
        ("def (", "cannot be run: SyntaxError"),
        (FILE.format("") + "raise SystemExit(0)", "cannot be run: SystemExit"),
    ],
)
def test_a_file_that_fails_registers_nothing(tmp_path, text, message):
    before = names()
    path = tmp_path / "mine.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(OptionError, match=message):
        load_figure_funcs(path)
    assert names() == before


def test_the_registry_loads_nothing_heavy():
    code = "import sys\nfrom attn_viewer import register_attn_figure_func\nprint(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"torch", "matplotlib", "numpy"} & set(out.split())


def test_reloading_a_module_replaces_its_functions(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "reloaded_figures.py"
    path.write_text(FILE.format(""))
    module = importlib.import_module("reloaded_figures")
    path.write_text(FILE.format("# one line more, and so another size\n"))
    importlib.reload(module)
    assert select_attn_figure_funcs("from_file") == [module.from_file]
    assert len([*itertools.chain(*map(registry.get_figure_names, select_attn_figure_funcs("from_f*")))]) == 1
