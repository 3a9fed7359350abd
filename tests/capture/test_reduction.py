from pathlib import Path

import pytest
import torch

from attn_viewer.capture import reduction


def read_resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads resident memory from Linux")
@pytest.mark.skipif(
    reduction._find_trim().__name__ != "malloc_trim", reason="the C library keeps freed memory or gives it back itself"
)
def test_freed_memory_between_what_is_kept_goes_back_after_many_queries():
    blocks = [torch.ones(16 * 1024) for _ in range(2048)]  # 64 kB each, on the heap
    kept = blocks[::16]
    del blocks
    before = read_resident()
    passed = reduction.release_freed(torch.empty(9, 16, 64), 0)
    assert passed == 9 * 16 * 64 * 4
    assert before - read_resident() < 16 * 2**20
    assert reduction.release_freed(torch.empty(reduction.RELEASE_SIZE // 4), passed) == 0
    assert before - read_resident() > 64 * 2**20
    assert all((block == 1).all() for block in kept)


def test_memory_is_given_back_once_enough_queries_have_passed(monkeypatch, demo):
    from attn_viewer import capture_attention

    calls = []
    monkeypatch.setattr(reduction, "_find_trim", lambda: calls.append)
    model, _ = demo
    capture_attention(model, prompt=[5] * 64, reduction="pooled", max_cells=16)
    assert calls == []
    attention = model.get_submodule("model.layers.0.self_attn.q_proj")
    monkeypatch.setattr(reduction, "RELEASE_SIZE", 2 * 64 * 4 * attention.out_features)  # the queries of two layers
    maps = capture_attention(model, prompt=[5] * 64, reduction="pooled", max_cells=16)
    assert calls == [0] * (len(maps.layers) // 2)
