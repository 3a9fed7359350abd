import concurrent.futures

import pytest
import torch

from attn_viewer.capture import threads
from attn_viewer.capture.kernels import Scores, pool_weights


@pytest.fixture
def torch_threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def make_scores():
    generator = torch.Generator().manual_seed(3)
    query, key = torch.randn(6, 700, 16, generator=generator), torch.randn(2, 700, 16, generator=generator)
    return Scores(query, key, is_causal=True)


@pytest.mark.parametrize("pooling", ["max", "mean"])
def test_pooling_gives_the_same_bits_in_any_number_of_threads(torch_threads, pooling):
    results = []
    for n_threads in (1, 2, 5):
        torch_threads(n_threads)
        results.append(pool_weights(make_scores(), (7, 3), pooling))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_each_thread_computes_alone_and_the_number_stays_for_all_others(torch_threads):
    torch_threads(3)
    inside = []

    def look():
        torch.randn(64, 64) @ torch.randn(64, 64)
        inside.append((torch.get_num_threads(), torch.is_grad_enabled()))

    threads.run_parallel(look, [()] * 12)
    assert inside == [(1, False)] * 12
    assert torch.get_num_threads() == 3
    with concurrent.futures.ThreadPoolExecutor(1) as other:
        assert other.submit(torch.get_num_threads).result() == 3


def test_an_error_in_a_thread_reaches_the_caller(torch_threads):
    torch_threads(2)
    with pytest.raises(ZeroDivisionError):
        threads.run_parallel(lambda divisor: 1 / divisor, [(1,), (0,), (2,)])
