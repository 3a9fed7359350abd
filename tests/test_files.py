import contextlib
import functools
import os
import resource
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import make_maps, store_prompt
from hypothesis import given
from hypothesis import strategies as st

from attn_viewer import export_html, files, load_scores, render_completions, save_scores, score_heads, view_attention
from attn_viewer.errors import OptionError, OutputError
from attn_viewer.files import (
    check_folder,
    check_model_id,
    describe_place,
    make_folder,
    name_temporary,
    open_whole,
    remove_leftovers,
    write_whole,
)
from attn_viewer.pipeline.prompts import load_text_data
from attn_viewer.storage.objects import dump_object
from attn_viewer.storage.pt import SUFFIX


def test_what_is_interrupted_as_it_is_made_is_removed(tmp_path, monkeypatch):
    class Interrupted(files._Temporary):
        def __init__(self, *args):
            super().__init__(*args)
            self.close()
            raise KeyboardInterrupt

    monkeypatch.setattr(files, "_Temporary", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "a", b"b")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/../b", "/etc/x", "a//b", "a/", "C:/x", "a\\b", "a\nb", "a\0b", None, 3, "x" * 201],
)
def test_names_that_leave_the_folder_are_refused(name):
    with pytest.raises(OptionError, match="model_id"):
        check_model_id(name)


@given(st.text())
def test_an_accepted_name_stays_below_the_folder(name):
    try:
        check_model_id(name)
    except OptionError:
        return
    inside = os.path.normpath(os.path.join("out", name))
    assert inside.startswith("out" + os.sep)


def test_a_file_is_complete_or_absent(tmp_path):
    target = tmp_path / "a.bin"
    write_whole(target, b"old")
    with pytest.raises(KeyboardInterrupt), open_whole(target) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_result_has_the_rights_of_any_new_file(tmp_path):
    (tmp_path / "plain").touch()
    write_whole(tmp_path / "whole", b"")
    assert stat.S_IMODE((tmp_path / "whole").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_folders_that_cannot_be_are_told_before_writing(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is not a folder"):
        check_folder(tmp_path / "file" / "below")
    with pytest.raises(OutputError, match="cannot write to folder"):
        make_folder(tmp_path / "file" / "below")
    with pytest.raises(OutputError, match="cannot write to folder"):
        check_folder("a\0b")
    assert check_folder(tmp_path / "new" / "deep") == tmp_path / "new" / "deep"
    assert os.listdir(tmp_path) == ["file"]


def test_a_missing_folder_is_an_output_error(tmp_path):
    with pytest.raises(OutputError, match="cannot write"):
        write_whole(tmp_path / "none" / "a", b"")


def test_what_a_dead_process_left_is_removed_and_what_a_living_one_writes_stays(tmp_path):
    def place(pid):
        words = name_temporary("a.npz")
        return tmp_path / (words["prefix"].replace(f"-{os.getpid()}-", f"-{pid}-") + "abcd" + words["suffix"])

    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    place(dead.pid).touch()
    place(f"{dead.pid}").with_name(place(dead.pid).name.replace("a.npz", "folder")).mkdir()
    place(os.getpid()).touch()
    place(99**20).touch()
    old = place(os.getppid())
    old.touch()
    os.utime(old, (0, 0))
    (tmp_path / ".hidden").touch()
    (tmp_path / "a.npz").touch()
    assert remove_leftovers(tmp_path) == ["a.npz"]
    assert sorted(os.listdir(tmp_path)) == sorted([".hidden", "a.npz", place(os.getpid()).name])
    assert remove_leftovers(tmp_path / "none") == []


def test_many_threads_and_leftovers_of_the_same_name_do_not_meet(tmp_path):
    words = name_temporary("a")
    start = next(files._numbers) + 1
    for number in range(start, start + 5):
        (tmp_path / f"{words['prefix']}{number}{words['suffix']}").write_bytes(b"left")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: write_whole(tmp_path / "a", bytes([i]) * 1000), range(200)))
    assert len(set((tmp_path / "a").read_bytes())) == 1
    left = [path.read_bytes() for path in tmp_path.iterdir() if path.suffix == ".part"]
    assert left == [b"left"] * 5


@contextlib.contextmanager
def limit_files(size):
    """Let no file of this process grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def save_table(maps, _cache, folder):
    score_heads(maps, ["sink_mass"]).to_csv(folder / "table.csv")


def save_prompt(maps, _cache, folder, **options):
    store_prompt(maps, {"text": "A text."}, folder, **options)


WRITERS = {
    "cache": lambda maps, _, folder: save_scores(maps, folder),
    "page": lambda maps, _, folder: export_html(maps, folder / "page.html"),
    "completion": lambda _, cache, folder: render_completions([str(cache).removesuffix(SUFFIX)], folder),
    "table": save_table,
    "npz": save_prompt,
    "npy": functools.partial(save_prompt, stacked=True),
    "json": lambda maps, _, folder: write_whole(folder / "a.json", dump_object({"a": "x" * maps.nbytes})),
    "view": lambda _, cache, folder: view_attention(load_attention_scores_path=cache, save_fig_path=folder),
}


@pytest.fixture
def caches(tmp_path):
    """A small and a large prompt of one model, with their caches."""
    made = [make_maps(2, 30, n) for n in (3, 60)]
    return [(maps, save_scores(maps, tmp_path / str(i))) for i, maps in enumerate(made)]


def read_all(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", WRITERS)
def test_a_disk_that_fills_up_while_writing_leaves_what_was_there(tmp_path, caches, name):
    """Libraries that write have errors of their own for it, some not even of the system's."""
    folder = make_folder(tmp_path / "out")
    WRITERS[name](*caches[0], folder)
    before = read_all(folder)
    assert before
    with limit_files(1_000), pytest.raises(OutputError, match="cannot write"):
        WRITERS[name](*caches[1], folder)
    assert read_all(folder) == before


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "json"])  # whose folder is there
def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path, caches, name):
    folder = make_folder(tmp_path / "out")
    WRITERS[name](*caches[0], folder)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    words = name_temporary("a")
    left = f"{words['prefix'].replace(str(os.getpid()), str(dead.pid))}0{words['suffix']}"
    places = {path.parent for path in read_all(folder)}
    for place in places:
        (place / left).touch()
    WRITERS[name](*caches[0], folder)
    kept = {place for place in places if (place / left).exists()}
    # The folder of a model is cleared by the run over all its prompts.
    assert kept == ({folder / "random"} if name.startswith("np") else set())


def test_what_is_at_a_path(tmp_path):
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "circle").symlink_to("circle")
    expected = {"": "is a folder", "file": "is a file", "link": "is a file", "pipe": "is neither file nor folder"}
    expected |= dict.fromkeys(("circle", "a\0b", "x" * 300), "does not exist")
    assert {name: describe_place(tmp_path / name) for name in expected} == expected


def test_a_home_is_the_same_wherever_a_path_is_typed(tmp_path, monkeypatch):
    """What was saved by a path is loaded by it, and no folder of the name ~ appears."""
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    monkeypatch.chdir(here)
    maps = make_maps(1, 1, 3)
    view_attention(load_attention_scores_path=save_scores(maps, "~/scores"), save_fig_path="~/figures")
    name = f"{maps.model_id}{SUFFIX}"
    assert load_scores(f"~/scores/{name}").tokens_key == maps.tokens_key
    export_html(maps, "~/pages/one.html")
    render_completions([f"~/scores/{maps.model_id}"], "~/completions")
    score_heads(maps).to_csv("~/tables/heads.csv")
    files.write_whole(home / "prompts.jsonl", b'{"text": "a"}\n')
    assert len(load_text_data("~/prompts.jsonl")) == 1
    assert sorted(path.name for path in home.iterdir()) == [
        "completions", "figures", "pages", "prompts.jsonl", "scores", "tables",
    ]  # fmt: skip
    assert not [*here.iterdir()]
