"""Runs that meet a system that will not have it: Ctrl-C, no permission, a full disk."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from attn_viewer.cli import main
from attn_viewer.storage.folder import DataFolder

pytestmark = pytest.mark.slow
TEXTS = ("Summer is warm.", "Winter is cold.", "The sea is deep.", "One day a dog came home.", "The sky is high.")
NOBODY = 65534
needs_root = pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another")


def make_words(folder, data="d", *, times=1):
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps({"text": " ".join([text] * times)}) + "\n" for text in TEXTS))
    place = ["--save-path", str(folder / data), "--quiet"]
    activations = ["activations", "--prompts", str(path), *place]
    return activations, ["figures", "--figure-funcs", "raw,svd_spectra", *place]


def list_files(folder):
    return {os.path.join(place, name) for place, _, names in os.walk(folder) for name in names}


def list_whole(folder):
    return {path for path in list_files(folder) if ".part" not in path}


def read_tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.skipif(os.name != "posix", reason="Ctrl-C is a signal to a group of processes")
def test_ctrl_c_stops_a_run_and_the_next_one_goes_on(tmp_path):
    times = 25  # too long to run all together, so that Ctrl-C comes between
    for words, n_files in zip(make_words(tmp_path, times=times), (3, 40), strict=True):
        words = [*words, "--parallel", "1"]
        before = list_whole(tmp_path)
        process = subprocess.Popen(
            [sys.executable, "-m", "attn_viewer", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        while process.poll() is None and len(list_whole(tmp_path) - before) < n_files:
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=120)
        assert (process.returncode, out) == (130, "")
        assert err == "attn-viewer: interrupted; files written so far are complete\n"
        assert len(list_whole(tmp_path) - before) >= n_files
        assert main(words) == 0
    whole = tmp_path / "whole"
    whole.mkdir()
    for words in make_words(whole, times=times):
        assert main([*words, "--parallel", "1"]) == 0
    ours, theirs = read_tree(tmp_path / "d"), read_tree(whole / "d")
    assert set(ours) == set(theirs)
    differing = [name for name in theirs if ours[name].replace(b"/whole", b"") != theirs[name].replace(b"/whole", b"")]
    assert differing == []


@pytest.mark.skipif(os.name != "posix", reason="Ctrl-C is a signal to a group of processes")
def test_ctrl_c_leaves_nothing_of_workers_half_done(tmp_path):
    activations, figures = make_words(tmp_path, times=5)
    assert main(activations) == 0
    before = list_whole(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-m", "attn_viewer", *figures, "--parallel", "2"], stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    while process.poll() is None and len(list_whole(tmp_path) - before) < 20:
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=120)[1] == "attn-viewer: interrupted; files written so far are complete\n"
    assert process.returncode == 130
    assert list(tmp_path.rglob("*.part")) == []


@pytest.mark.skipif(os.name != "posix", reason="SIGHUP is posix's")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_a_run_ends_its_workers(tmp_path, number):
    activations, figures = make_words(tmp_path, times=5)
    assert main(activations) == 0
    before = list_whole(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-m", "attn_viewer", *figures, "--parallel", "2"], stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    while process.poll() is None and len(list_whole(tmp_path) - before) < 20:
        time.sleep(0.002)
    process.send_signal(number)  # to it alone, as a scheduler or a closed terminal does
    assert process.communicate(timeout=120)[1] == ""  # which would wait for workers, who write there too
    assert process.returncode == 128 + number
    with pytest.raises(ProcessLookupError):
        while time.sleep(0.01) is None:  # joblib's own process that counts its files goes last
            os.killpg(process.pid, 0)
    assert list(tmp_path.rglob("*.part")) == []


@pytest.fixture
def open_folder():
    """A folder whose path another user may walk, which none of pytest's is."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def become_nobody():
    """Make this process one of a user without rights, who has all modules loaded."""

    def become(*owned):
        for path in owned:
            for each in (path, *path.rglob("*")):
                os.chown(each, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, 0)

    yield become
    os.setresuid(0, 0, 0)


@needs_root
def test_without_permission_nothing_is_written_and_the_rest_goes_on(open_folder, become_nobody, capsys):
    activations, figures = make_words(open_folder)
    figures[2] = "raw"
    theirs, mixed = open_folder / "d", open_folder / "mixed"
    atlas = ["atlas", "--save-path", str(theirs), "--quiet"]
    assert main(activations) == main([*figures, "--parallel", "1"]) == main(atlas) == 0
    shutil.copytree(theirs, mixed)
    locked = sorted((mixed / "demo" / "prompts").iterdir())[1]
    capsys.readouterr()
    become_nobody(mixed)
    os.setresuid(0, 0, 0)
    for path in (locked, *locked.rglob("*")):
        os.chown(path, 0, 0)
    become_nobody()
    # The source of a function is known to those alone who may read where the package is installed.
    before = read_tree(open_folder)
    del before["mixed/figures.jsonl"]
    for words in (activations, figures, atlas):
        assert main([*words, "--parallel", "1"]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert "no permission" in err
    for words in (activations, figures):
        assert main([*words, "--save-path", str(mixed), "--force", "--parallel", "1"]) == 1
        out, err = capsys.readouterr()
        assert out == "prompts: 4 done, 0 there already, 1 failures\n"
        assert err.count("\n") == 1
        assert locked.name in err
        assert "Permission denied" in err
    after = read_tree(open_folder)
    del after["mixed/figures.jsonl"]
    assert after == before


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(words, capture_output=True).returncode:
        pytest.skip("file systems cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_full_and_is_not_any_more(small_disk, tmp_path, capsys):
    words = make_words(small_disk.parent, "disk/d")[0]
    filler = small_disk / "filler"
    filler.write_bytes(bytes((256 - 24) * 1024))
    assert main(words) == 1
    out, err = capsys.readouterr()
    assert "No space left on device; free some space" in err
    assert "not tried: " in err
    model = DataFolder(small_disk / "d").get_model("demo")
    stored, errors = model.list_prompts()
    assert (len(stored) < len(TEXTS), errors) == (True, [])
    assert f"prompts: {len(stored)} done, 0 there already" in out
    for prompt in stored:
        model.get_prompt(prompt).read_maps()
    assert [name for name in list_files(small_disk) if name.endswith(".part")] == []
    filler.unlink()
    assert main(words) == 0
    whole = tmp_path / "whole"
    whole.mkdir()
    assert main(make_words(whole)[0]) == 0
    ours, theirs = read_tree(small_disk / "d"), read_tree(whole / "d")
    assert set(ours) == set(theirs)
    assert [name for name in ours if name.endswith(".npz") and ours[name] != theirs[name]] == []
