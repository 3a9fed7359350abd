import base64
import hashlib
import io
import json
import zipfile

import numpy as np
import pytest
import torch
from conftest import make_maps, store_prompt
from hypothesis import given
from hypothesis import strategies as st

from attn_viewer import AttentionMaps
from attn_viewer.errors import (
    ActivationsDamagedError,
    ActivationsMismatchError,
    ActivationsMissingError,
    GetActivationsError,
    InvalidPromptError,
    OptionError,
)
from attn_viewer.storage import load_activations, load_prompt_maps
from attn_viewer.storage.arrays import KEY
from attn_viewer.storage.folder import DataFolder, find_folder
from attn_viewer.storage.hashes import augment_prompt_with_hash


def store(tmp_path, maps=None, text="A text.", **options):
    maps = make_maps() if maps is None else maps
    prompt = {"text": text}
    return maps, prompt, store_prompt(maps, prompt, tmp_path, **options)


def is_whole(name, prompt, folder, **options):
    return DataFolder(folder).get_model(name).get_prompt(prompt).is_whole(**options)


def list_prompts(name, folder):
    return DataFolder(folder).get_model(name).list_prompts()


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 6), st.booleans(), st.booleans())
def test_what_is_written_is_read(tmp_path_factory, n_layers, n_heads, n, stacked, causal):
    tmp_path = tmp_path_factory.mktemp("data")
    made = make_maps(n_layers, n_heads, n, causal=causal)
    facts = {"layers": range(2, 2 + n_layers), "ids_key": range(n), "model_id": "org/name", "prompt_length": n - 1}
    maps = AttentionMaps(made.weights, made.tokens_key, causal=causal, softcap=3.5, **facts)
    _, prompt, path = store(tmp_path, maps, stacked=stacked)
    assert path.parent == tmp_path / "org--name" / "prompts" / prompt["hash"]
    again = load_prompt_maps("org/name", {"hash": prompt["hash"]}, tmp_path)
    for name in ("tokens_key", "tokens_query", "ids_key", "layers", "heads", "causal", "prompt_length", "model_id"):
        assert getattr(again, name) == getattr(maps, name)
    for ours, theirs in zip(again.weights, maps.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    one = load_prompt_maps("org/name", prompt, tmp_path, layers=[2])
    assert one.layers == (2,)
    assert is_whole("org/name", prompt, tmp_path, stacked=stacked)
    assert not is_whole("org/name", prompt, tmp_path, stacked=not stacked)


def test_the_layout_is_pattern_lenss(tmp_path):
    maps, prompt, path = store(tmp_path)
    assert prompt["hash"] == base64.urlsafe_b64encode(hashlib.md5(b"A text.").digest()).decode().rstrip("=")
    assert path == tmp_path / "random" / "prompts" / prompt["hash"] / "activations.npz"
    with np.load(path) as content:
        assert content.files == ["blocks.0.attn.hook_pattern", "blocks.1.attn.hook_pattern"]
        np.testing.assert_array_equal(content["blocks.1.attn.hook_pattern"], maps.weights[1][None])
    stored = json.loads((path.parent / "prompt.json").read_text())
    assert (stored["text"], stored["hash"], stored["n_tokens"], stored["meta"]) == ("A text.", prompt["hash"], 5, {})
    config = json.loads((tmp_path / "random" / "model_cfg.json").read_text())
    assert (config["model_name"], config["n_layers"], config["n_heads"]) == ("random", 2, 3)


def test_the_same_weights_are_the_same_bytes(tmp_path):
    one, other = store(tmp_path / "a")[2], store(tmp_path / "b")[2]
    assert one.read_bytes() == other.read_bytes()


def test_weights_as_tensors_and_mapped(tmp_path):
    maps, prompt, _ = store(tmp_path)
    path, tensors = load_activations("random", prompt, tmp_path, return_fmt="torch")
    assert path.suffix == ".npz"
    assert torch.equal(tensors["blocks.0.attn.hook_pattern"][0], torch.from_numpy(maps.weights[0].copy()))
    store_prompt(maps, prompt, tmp_path, stacked=True)
    path, arrays = load_activations("random", prompt, tmp_path)
    assert path.suffix == ".npy"
    assert not path.with_name("activations.npz").exists()
    assert isinstance(arrays["blocks.1.attn.hook_pattern"].base, np.memmap)
    with pytest.raises(OptionError, match="'jax'"):
        load_activations("random", prompt, tmp_path, return_fmt="jax")


def test_pooled_weights_say_so(tmp_path):
    cells = [np.full((3, 2, 2), 0.5, np.float32)]
    maps = AttentionMaps(cells, list("abc"), reduction="pooled", cell=(2, 2), pooling="max")
    _, prompt, path = store(tmp_path, maps)
    assert json.loads((path.parent / "prompt.json").read_text())["attn_viewer"]["reduction"] == "pooled"
    assert load_prompt_maps("model", prompt, tmp_path).cell == (2, 2)


def write_pattern_lens(tmp_path, tokens, n=4, name="gpt2"):
    folder = tmp_path / name / "prompts" / augment_prompt_with_hash({"text": "T"})["hash"]
    folder.mkdir(parents=True)
    arrays = {f"blocks.{i}.attn.hook_pattern": w[None] for i, w in enumerate(make_maps(12, 2, n).weights)}
    np.savez_compressed(folder / "activations.npz", **arrays)
    prompt = {"text": "T", "hash": folder.name, "n_tokens": len(tokens), "tokens": tokens}
    (folder / "prompt.json").write_text(json.dumps(prompt))
    config = {"n_layers": 12, "n_heads": 2, "model_name": name, "act_fn": "gelu"}
    (folder.parent.parent / "model_cfg.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("name", ["gpt2", "org/gpt2"])
def test_a_folder_of_pattern_lens_is_read(tmp_path, name):
    write_pattern_lens(tmp_path, ["ĠSummer", "Ġis", "Ċ"], name=name)
    assert [model.name for model in DataFolder(tmp_path).list_models()] == [name]
    prompts, errors = list_prompts(name, tmp_path)
    assert not errors
    maps = load_prompt_maps(name, prompts[0], tmp_path)
    assert maps.tokens_key == ("<bos>", "␣Summer", "␣is", "⏎")
    assert (maps.layers, maps.causal, maps.model_id) == (tuple(range(12)), True, name)


def test_tokens_that_do_not_fit_are_told(tmp_path):
    write_pattern_lens(tmp_path, ["a"])
    with pytest.raises(ActivationsMismatchError, match="do not fit together"):
        load_prompt_maps("gpt2", {"text": "T"}, tmp_path)


def damage(path, how):
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-40])
    elif how == "middle":
        data = bytearray(path.read_bytes())
        data[len(data) // 4 : len(data) // 3] = bytes(len(data) // 3 - len(data) // 4)
        path.write_bytes(bytes(data))
    elif how == "objects":
        np.savez(path, **{"blocks.0.attn.hook_pattern": np.array([print], dtype=object)})
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "no patterns":
        np.savez(path, other=np.zeros(3))
    elif how == "integers":
        np.savez(path, **{"blocks.0.attn.hook_pattern": np.zeros((1, 3, 5, 5), int)})
    elif how == "negative":
        header = io.BytesIO()
        facts = {"descr": "<f4", "fortran_order": False, "shape": (1, 3, -5, -5)}
        np.lib.format.write_array_header_1_0(header, facts)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("blocks.0.attn.hook_pattern.npy", header.getvalue() + bytes(300))
    elif how == "short":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("blocks.0.attn.hook_pattern.npy", b"\x93NUMPY")
    else:
        np.savez(path, **{"blocks.0.attn.hook_pattern": np.zeros((3, 5, 5), np.float32)})


def write_bomb(path, compression=zipfile.ZIP_DEFLATED, shape=(1, 30, 2000, 2000)):
    """One layer of zeros, which deflates to a thousandth: half a gigabyte in half a megabyte."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "w", compression) as archive, archive.open(KEY.format(0) + ".npy", "w") as member:
        member.write(header.getvalue())
        for _ in range(shape[1]):
            member.write(bytes(4 * shape[2] * shape[3]))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "bytes claim to be 480,000,"),
        ({"compression": zipfile.ZIP_LZMA, "shape": (1, 3, 5, 5)}, "in a way that numpy does not use"),
    ],
)
def test_what_an_archive_unpacks_to_is_bounded_by_its_size(tmp_path, options, words):
    _, prompt, path = store(tmp_path, make_maps(2, 3, 5))
    write_bomb(path, **options)
    with pytest.raises(ActivationsDamagedError, match=words):
        load_prompt_maps("random", prompt, tmp_path)


@pytest.mark.parametrize(
    "how", ["truncated", "middle", "objects", "empty", "no patterns", "integers", "negative", "short", "three axes"]
)
def test_damaged_files_are_told(tmp_path, how):
    _, prompt, path = store(tmp_path, make_maps(2, 3, 5))
    damage(path, how)
    with pytest.raises(ActivationsDamagedError, match=r"activations\.npz"):
        load_prompt_maps("random", prompt, tmp_path)
    if how != "middle":  # which the headers do not show
        assert not is_whole("random", prompt, tmp_path)


def test_weights_of_another_prompt_are_to_be_computed_again(tmp_path):
    maps, prompt, path = store(tmp_path, make_maps(2, 3, 5))
    first, second = (w[None] for w in maps.weights)
    key = "blocks.{}.attn.hook_pattern".format
    for arrays in (
        {key(0): first},
        {key(0): first, "blocks.01.attn.hook_pattern": second},
        {key(0): first, key(1): second[:, :2]},
        {key(0): first[..., :4, :4], key(1): second[..., :4, :4]},
        {key(0): first, key(1): second, key(2): second},
    ):
        np.savez(path, **arrays)
        assert not is_whole("random", prompt, tmp_path)
        with pytest.raises(ActivationsMismatchError, match="do not fit together"):
            load_prompt_maps("random", prompt, tmp_path)


def test_a_layer_that_pattern_lens_did_not_write_is_missed(tmp_path):
    folder = write_pattern_lens(tmp_path, ["a", "b", "c"])
    with np.load(folder / "activations.npz") as content:
        arrays = dict(content)
    del arrays["blocks.11.attn.hook_pattern"]
    np.savez(folder / "activations.npz", **arrays)
    with pytest.raises(ActivationsMismatchError, match=r"\{11: 0\}"):
        load_prompt_maps("gpt2", {"text": "T"}, tmp_path)


def test_what_stands_in_the_place_of_weights_is_told(tmp_path):
    _, prompt, path = store(tmp_path)
    path.unlink()
    path.symlink_to(path)
    assert not is_whole("random", prompt, tmp_path)
    path.unlink()
    path.mkdir()
    assert not is_whole("random", prompt, tmp_path)


def test_bytes_in_another_order_become_tensors(tmp_path):
    maps, prompt, path = store(tmp_path)
    np.savez(path, **{f"blocks.{i}.attn.hook_pattern": w[None].astype(">f4") for i, w in enumerate(maps.weights)})
    tensors = load_activations("random", prompt, tmp_path, "torch")[1]
    assert torch.equal(tensors["blocks.1.attn.hook_pattern"][0], torch.from_numpy(maps.weights[1].copy()))


@pytest.mark.parametrize("change", [lambda w: 5 * w, lambda w: w.swapaxes(1, 2), lambda w: w[:, ::-1, ::-1]])
def test_weights_that_are_not_as_the_facts_say_are_refused(tmp_path, change):
    """Scores before the softmax, keys on rows, weight on later keys of causal maps."""
    maps, prompt, path = store(tmp_path)
    arrays = {KEY.format(i): change(w)[None] for i, w in zip(maps.layers, maps.weights, strict=True)}
    np.savez(path, **arrays)
    with pytest.raises(ActivationsDamagedError, match="are no attention weights"):
        load_prompt_maps(maps.model_id, prompt, tmp_path)


def test_a_damaged_prompt_is_replaced(tmp_path):
    maps, prompt, path = store(tmp_path)
    whole = (path.parent / "prompt.json").read_bytes()
    (path.parent / "prompt.json").write_bytes(b"")
    assert not is_whole("random", prompt, tmp_path)
    store_prompt(maps, prompt, tmp_path)
    assert (path.parent / "prompt.json").read_bytes() == whole


def test_facts_about_a_prompt_that_are_of_another_kind(tmp_path):
    maps, _, path = store(tmp_path)
    store_prompt(maps, {"text": "B", "tokens": 5, "n_tokens": "x", "meta": None}, tmp_path)
    stored = list_prompts("random", tmp_path)[0]
    assert [(p["n_tokens"], p["tokens"], p["meta"]) for p in stored] == [(5, list(maps.tokens_key), {})] * 2
    with pytest.raises(InvalidPromptError, match="keys must be str"):
        store_prompt(maps, {"text": "C", "meta": {(1, 2): 3}}, tmp_path)
    assert {p.name for p in path.parent.parent.iterdir()} == {p["hash"] for p in stored}


def test_a_stacked_file_cut_short(tmp_path):
    _, prompt, path = store(tmp_path, stacked=True)
    path.write_bytes(path.read_bytes()[:-8])
    assert not is_whole("random", prompt, tmp_path, stacked=True)
    with pytest.raises(ActivationsDamagedError):
        load_activations("random", prompt, tmp_path)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"n_heads": 4}, ActivationsDamagedError),
        ({"n_layers": "two"}, ActivationsDamagedError),
        ({"attn_viewer": {}, "n_heads": 4}, ActivationsMismatchError),
        ({"attn_viewer": {}, "n_layers": 1}, ActivationsMismatchError),
        ({"attn_viewer": 3}, ActivationsDamagedError),
        ({"attn_viewer": {"layers": 5, "n_heads": None}}, ActivationsDamagedError),
        ({"model_name": None}, ActivationsDamagedError),
    ],
)
def test_a_config_that_lies_is_found_out(tmp_path, change, error):
    _, prompt, _ = store(tmp_path)
    path = tmp_path / "random" / "model_cfg.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(error):
        load_prompt_maps("random", prompt, tmp_path)


def test_another_model_of_the_same_name_is_refused(tmp_path):
    store(tmp_path)
    with pytest.raises(ActivationsMismatchError, match="another model"):
        store_prompt(make_maps(2, 4, 5), {"text": "B"}, tmp_path)


def test_another_text_under_the_hash_is_refused(tmp_path):
    maps, prompt, path = store(tmp_path)
    before = path.read_bytes()
    other = {"text": "B", "hash": prompt["hash"]}
    for call in (
        lambda: store_prompt(maps, other, tmp_path),
        lambda: load_activations("random", other, tmp_path),
        lambda: is_whole("random", other, tmp_path),
    ):
        with pytest.raises(ActivationsMismatchError, match="another text"):
            call()
    assert path.read_bytes() == before


def test_what_is_missing_is_a_file_not_found(tmp_path):
    assert issubclass(ActivationsMissingError, FileNotFoundError)
    assert issubclass(ActivationsMissingError, GetActivationsError)
    with pytest.raises(FileNotFoundError, match="run attn-viewer activations"):
        load_activations("none", {"text": "a"}, tmp_path)
    _, prompt, path = store(tmp_path)
    path.unlink()
    with pytest.raises(ActivationsMissingError, match="Activations file"):
        load_activations("random", prompt, tmp_path)


@pytest.mark.parametrize(
    "prompt", [{}, [], {"text": 3}, {"hash": "../../x"}, {"hash": "a/b"}, {"hash": 3}, {"hash": ""}]
)
def test_prompts_that_are_none(prompt):
    with pytest.raises(InvalidPromptError):
        augment_prompt_with_hash(prompt)


def test_only_folders_of_this_machine(tmp_path):
    assert find_folder(tmp_path.as_uri()) == tmp_path
    assert find_folder("file:///a%20b").as_posix() == "/a b"
    for url in (
        "memory://x",
        "s3://bucket/x",
        "file://host/x",
        "http://[x",
        "file:///a%00",
        "",
        "a\0",
        "~nobody-/x",
        5,
        None,
    ):
        with pytest.raises(OptionError, match="no folder of this machine"):
            find_folder(url)


def test_one_bad_prompt_does_not_hide_the_others(tmp_path):
    _, prompt, path = store(tmp_path)
    for name in ("other", "copy"):
        (path.parent.parent / name).mkdir()
    (path.parent.parent / "other" / "prompt.json").write_text("{")
    (path.parent.parent / "copy" / "prompt.json").write_bytes((path.parent / "prompt.json").read_bytes())
    prompts, errors = list_prompts("random", tmp_path)
    assert [p["hash"] for p in prompts] == [prompt["hash"]]
    assert len(errors) == 2
