import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn_viewer import files
from attn_viewer.errors import OptionError, OutputError
from attn_viewer.files import (
    check_folder,
    check_model_id,
    make_folder,
    name_temporary,
    open_whole,
    remove_leftovers,
    write_whole,
)


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
