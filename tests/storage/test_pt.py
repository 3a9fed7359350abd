import os
import pickle
import subprocess
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
from archives import write_archive
from conftest import make_maps
from hypothesis import given
from hypothesis import strategies as st

from attn_viewer import (
    AttentionMaps,
    load_model,
    load_scores,
    save_scores,
)
from attn_viewer.errors import AttnViewerError, CacheError, ModelLoadError, OptionError, OutputError
from attn_viewer.experiments import list_experiments
from attn_viewer.figures import load_figure_funcs
from attn_viewer.files import describe_place, make_folder
from attn_viewer.pipeline.figures import figures_main
from attn_viewer.storage.pt import SUFFIX


def make_legacy(n_layers=2, n_heads=3, n=4):
    """Return what Attention-Viewer writes: no third key, raw tokens."""
    maps = make_maps(n_layers, n_heads, n)
    scores = [torch.from_numpy(layer[None].copy()) for layer in maps.weights]
    return {"attention_scores": scores, "tokens_list": ["<s>", "ĠSummer", "Ġis", "Ċ"][:n]}


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 6), st.sampled_from(["float16", "float32"]), st.booleans())
def test_what_is_written_is_read(tmp_path_factory, n_layers, n_heads, n, dtype, causal):
    maps = make_maps(n_layers, n_heads, n, causal=causal, prompt_length=n - 1, softcap=3.5, source="sdpa")
    maps = AttentionMaps(
        [w.astype(dtype) for w in maps.weights],
        maps.tokens_key,
        ids_key=range(7, 7 + n),
        layers=range(3, 3 + n_layers),
        causal=causal,
        prompt_length=n - 1,
        softcap=3.5,
        segments=[("system", 0, 1)],
        grouping=("words", "max"),
        model_id="org/name",
    )
    path = save_scores(maps, tmp_path_factory.mktemp("cache"))
    assert path.parts[-2:] == ("org", "name_attn_scores.pt")
    again = load_scores(path)
    names = "tokens_key tokens_query ids_key layers heads causal prompt_length softcap segments grouping model_id"
    for name in names.split():
        assert getattr(again, name) == getattr(maps, name)
    for ours, theirs in zip(again.weights, maps.weights, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


def test_the_layout_is_the_one_attention_viewer_reads(tmp_path):
    maps = make_maps(2, 3, 4)
    content = torch.load(save_scores(maps, tmp_path), weights_only=True)
    assert content["tokens_list"] == list(maps.tokens_key)
    assert [tuple(t.shape) for t in content["attention_scores"]] == [(1, 3, 4, 4)] * 2
    averages = [layer[0].mean(dim=0) for layer in content["attention_scores"]]  # what it does with them
    np.testing.assert_allclose(averages[1], maps.weights[1].mean(0), rtol=1e-6)


def test_a_file_of_attention_viewer_is_read(tmp_path):
    torch.save(make_legacy(), tmp_path / "llama2_attn_scores.pt")
    maps = load_scores(tmp_path / "llama2_attn_scores.pt")
    assert maps.model_id == "llama2"
    assert maps.tokens_key == ("<s>", "␣Summer", "␣is", "⏎")
    assert maps.causal


def test_old_caches_in_bfloat16_with_gradients_are_read(tmp_path):
    content = make_legacy()
    content["attention_scores"] = [t.bfloat16().requires_grad_() for t in content["attention_scores"]]
    torch.save(content, tmp_path / "a.pt")
    assert load_scores(tmp_path / "a.pt").weights[0].dtype == np.float32


@pytest.mark.parametrize("order", "<>")
def test_files_of_either_byte_order_are_read(tmp_path, order):
    write_archive(tmp_path / "a.pt", order=order)
    np.testing.assert_array_equal(load_scores(tmp_path / "a.pt").weights[0], [[[1, 0], [0.25, 0.75]]])


@given(st.sampled_from(["float64", "float32", "float16", "bfloat16"]), st.permutations(range(4)), st.integers(1, 5))
def test_tensors_are_read_as_torch_reads_them(tmp_path_factory, dtype, order, n):
    """Views of larger storages, with their axes in any order."""
    torch.manual_seed(n)
    shape = [1, 2, n, n]
    whole = torch.rand([shape[order.index(i)] + (i > 0) for i in range(4)]).to(getattr(torch, dtype))
    view = whole.permute(order)[-1:, :2, -n:, :n]
    path = tmp_path_factory.mktemp("cache") / "a.pt"
    # Rows of numbers with a sign need not sum to 1.
    content = {"attention_scores": [view, view], "tokens_list": ["a"] * n, "attn_viewer": {"signed": True}}
    torch.save(content, path)
    for weights in load_scores(path).weights:
        assert weights.dtype == (np.float16 if dtype == "float16" else np.float32)
        np.testing.assert_array_equal(weights, view[0].float().numpy())


@pytest.mark.parametrize(("causal", "expected"), [({}, False), ({"causal": False}, False), ({"causal": True}, None)])
def test_weights_on_later_keys_are_shown_or_refused(tmp_path, causal, expected):
    """A figure of causal maps leaves out what lies above the diagonal."""
    facts = {"attn_viewer": {"model_id": "m"} | causal}
    torch.save(
        {"attention_scores": [torch.full((1, 1, 2, 2), 0.5)], "tokens_list": ["a", "b"], **facts}, tmp_path / "a"
    )
    if expected is None:
        with pytest.raises(CacheError, match="causal, but queries have weight on later keys"):
            load_scores(tmp_path / "a")
    else:
        assert load_scores(tmp_path / "a").causal is expected


def test_layers_of_one_storage_are_views_of_it(tmp_path):
    one = torch.rand(1, 2, 3, 3).softmax(-1)
    torch.save({"attention_scores": [one] * 50, "tokens_list": list("abc")}, tmp_path / "a.pt")
    weights = load_scores(tmp_path / "a.pt").weights
    assert all(np.shares_memory(weights[0], layer) for layer in weights)
    np.testing.assert_array_equal(weights[-1], one[0])


@pytest.mark.parametrize("extra", [{}, {"attn_viewer": {"causal": False}}])
def test_rows_that_sum_to_two_are_no_weights(tmp_path, extra):
    torch.save({"attention_scores": [torch.ones(1, 1, 2, 2)], "tokens_list": ["a", "b"], **extra}, tmp_path / "a.pt")
    with pytest.raises(CacheError, match=r"row 0 of array 0, head 0 sums to 2"):
        load_scores(tmp_path / "a.pt")


def write_huge(path, kind="bfloat16"):
    torch.save({"attention_scores": [torch.zeros(1, dtype=getattr(torch, kind)).expand(1, 1, 9999, 9999)] * 9,
                "tokens_list": [str(i) for i in range(9999)]}, path)  # fmt: skip


def write_repeated(path):
    one = torch.rand(1, 4, 50, 50)
    torch.save({"attention_scores": [one] * 5000, "tokens_list": [str(i) for i in range(50)]}, path)


def write_many_layers(path):
    torch.save({"attention_scores": [ONE] * 20_000, "tokens_list": ["a"]}, path)


def write_long_token(path):
    torch.save({"attention_scores": [ONE], "tokens_list": ["Ġ" * 2_000_000]}, path)


def write_nested(path):
    nest = ["x"]
    for _ in range(40):
        nest = [nest] * 10
    torch.save({"attention_scores": [ONE], "tokens_list": ["a"], "attn_viewer": {"model_id": nest}}, path)


def write_long_texts(path):
    text = "x" * 200_000
    torch.save({"attention_scores": [ONE], "tokens_list": ["a"], "attn_viewer": {"grouping": [text] * 99_999}}, path)


def write_long_fact(path):
    torch.save({"attention_scores": [ONE], "tokens_list": ["a"], "attn_viewer": {"kind": "x" * 200_000}}, path)


def write_overlapping_entries(path):
    write_archive(path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.filelist[-1].file_size = archive.filelist[-1].compress_size = 2**40
        archive._didModify = True


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (write_huge, "claim 8.99"),
        (lambda path: write_huge(path, "float32"), "claim 8.99"),
        (lambda path: write_huge(path, "int8"), "claim 8.99"),
        (write_repeated, r"claim 5e\+07 numbers, and it holds 10,000"),
        (write_many_layers, "20,000 layers"),
        (write_long_token, "a token of 2,000,000 characters"),
        (write_nested, "list is repeated"),
        (write_long_texts, "str is repeated"),
        (write_long_fact, "kind must be one of"),
        (write_overlapping_entries, "larger than the file"),
    ],
)
def test_what_a_file_costs_is_bounded_by_its_size(tmp_path, write, words):
    write(tmp_path / "a.pt")
    tracemalloc.start()
    try:
        with pytest.raises(CacheError, match=words) as caught:
            load_scores(tmp_path / "a.pt")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20 * (tmp_path / "a.pt").stat().st_size + 2**20
    assert len(str(caught.value)) < 1000


def test_reading_loads_no_torch(tmp_path):
    path = save_scores(make_maps(), tmp_path)
    code = "import sys, attn_viewer; attn_viewer.load_scores(sys.argv[1]); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code, path], check=True)


class _Call:
    def __reduce__(self):
        return os.mkdir, ("hacked",)


def write_function(path):
    path.write_bytes(pickle.dumps(_Call()))


def write_function_inside(path):
    torch.save(make_legacy() | {"extra": _Call()}, path)


def write_truncated(path):
    torch.save(make_legacy(), path)
    path.write_bytes(path.read_bytes()[:-300])


def write_changed(**changes):
    def write(path):
        content = make_legacy() | changes
        torch.save({key: value for key, value in content.items() if value is not None}, path)

    return write


def write_pickle(data):
    def write(path):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/data.pkl", data)

    return write


ONE = torch.ones(1, 1, 1, 1)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (write_function, "nothing of it was run"),
        (write_function_inside, "nothing of it was run"),
        (write_truncated, "damaged"),
        (lambda path: path.write_bytes(b""), "damaged"),
        (lambda path: path.write_text("hello"), "damaged"),
        (lambda path: zipfile.ZipFile(path, "w").close(), "damaged"),
        (lambda path: torch.save([1, 2], path), "holds a list"),
        (write_changed(attention_scores=None), "no list under 'attention_scores'"),
        (write_changed(tokens_list=None), "no list under 'tokens_list'"),
        (write_changed(attention_scores=[]), "no list under 'attention_scores'"),
        (write_changed(attention_scores=[1]), "layer 0 is int"),
        (write_changed(attention_scores=[ONE[0]]), r"layer 0 is \(1, 1, 1\)"),
        (write_changed(attention_scores=[ONE, ONE.expand(1, 1, 2, 2)]), "layer 0 has 1 × 1"),
        (write_changed(attention_scores=[ONE.expand(2, 1, 1, 1)]), "layer 0 is"),
        (write_changed(attention_scores=[ONE * float("nan")], tokens_list=["a"]), "nan"),
        (write_changed(tokens_list=["a", "b"]), "2 query and 2 key tokens"),
        (write_changed(tokens_list=[1, 2, 3, 4]), "tokens_key must be str"),
        (write_changed(attn_viewer=7), "has a int under 'attn_viewer'"),
        (write_changed(attn_viewer={"layers": "ab"}), "does not fit together"),
        (write_changed(attn_viewer={"cell": "x"}), "does not fit together"),
        (write_changed(attn_viewer={"model_id": 5}), "model_id must be str"),
        (write_changed(attn_viewer={"prompt_length": 99}), "prompt_length"),
        (write_changed(attention_scores=[torch.ones(1, 1, 4, 4).to_sparse()]), "nothing of it was run"),
        (write_pickle(b"\x80\x02}}b."), "BUILD"),
        (write_pickle(b"\x80\x02]r\xff\xff\xff\x7f]j\xff\xff\xff\x7fa."), "list is repeated"),
        (write_pickle(b"\x80\x02}K\x01K\x01\x86Ns."), "a key is a tuple"),
        (write_pickle(b"\x80\x02X\x80\x96\x98\0" + b"a" * 10_000_000 + b"q\0h\0."), "a str is repeated"),
        (write_pickle(b"\x80\x02a."), "damaged"),
        (write_pickle(b"\x80\x02\x86."), "more is taken"),
        (write_pickle(b"\x80\x02cbuiltins\neval\nX\x01\0\0\x001\x85R."), "builtins.eval"),
        (lambda path: write_archive(path, compression=zipfile.ZIP_DEFLATED), "compressed"),
        (lambda path: write_archive(path, shape=(1, 1, 1, 9)), "reaches past its storage"),
        (lambda path: write_archive(path, offset=-1), "other things than numbers"),
        (lambda path: write_archive(path, kind="O"), "no kind of number"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: None, "does not exist"),
    ],
)
def test_bad_files_are_refused(tmp_path, monkeypatch, write, words):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bad.pt"
    write(path)
    with pytest.raises(CacheError, match=words):
        load_scores(path)
    assert not (tmp_path / "hacked").exists()


def test_nothing_is_written_outside_the_folder(tmp_path):
    with pytest.raises(OptionError):
        save_scores(make_maps(model_id="../x"), tmp_path / "in")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        save_scores(make_maps(), tmp_path / "file")


@pytest.mark.parametrize("path", ["x" * 300, "y" * 5_000, "~nobody-of-that-name/x.pt", "a\0b"])
def test_a_name_that_no_file_can_have_is_that_of_none(path):
    with pytest.raises(CacheError, match="does not exist"):
        load_scores(path)
    for name in (f"/{path}", f"/{path}.gguf"):
        with pytest.raises(ModelLoadError, match="does not exist"):
            load_model(name)
    with pytest.raises(OptionError, match="is none"):
        load_figure_funcs(f"{path}.py")
    assert list_experiments(path) == []
    assert describe_place(path) == "does not exist"
    with pytest.raises(AttnViewerError):
        figures_main("m", save_path=path)
    if "~" not in path:
        with pytest.raises(OutputError, match="cannot write to folder"):
            make_folder(path)


def test_a_tensor_whose_numbers_are_others_than_stored_is_refused(tmp_path):
    path = tmp_path / f"m{SUFFIX}"
    torch.save({"attention_scores": [torch._neg_view(torch.eye(2)[None, None])], "tokens_list": ["a", "b"]}, path)
    with pytest.raises(CacheError, match="others than stored"):
        load_scores(path)
