import concurrent.futures
import functools

import pytest
import torch

from attn_viewer.capture import threads
from attn_viewer.capture.kernels import Scores, average_heads, pool_weights


@pytest.fixture
def torch_threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def make_scores(n_tokens):
    generator = torch.Generator().manual_seed(3)
    query, key = torch.randn(6, n_tokens, 16, generator=generator), torch.randn(2, n_tokens, 16, generator=generator)
    return Scores(query, key, is_causal=True)


def average(scores):
    result = torch.zeros(scores.shape[1:])
    average_heads(scores, result)
    return result


@pytest.mark.parametrize("n_tokens", [640, 700])
@pytest.mark.parametrize(
    "reduce", [average, *(functools.partial(pool_weights, cell=(7, 3), pooling=p) for p in ("max", "mean"))]
)
def test_reductions_give_the_same_bits_in_any_number_of_threads(torch_threads, reduce, n_tokens):
    results = []
    for n_threads in (1, 2, 3, 5):
        torch_threads(n_threads)
        results.append(reduce(make_scores(n_tokens)))
    assert all(torch.equal(results[0], result) for result in results[1:])


def test_each_thread_computes_alone_and_the_number_stays_for_all_others(torch_threads):
    torch_threads(3)
    inside = []

    def look():
        torch.randn(64, 64) @ torch.randn(64, 64)
        inside.append((torch.get_num_threads(), torch.is_grad_enabled()))

    threads.run_parallel(look, [()] * 12, device=torch.device("cpu"))
    assert inside == [(1, False)] * 12
    assert torch.get_num_threads() == 3
    with concurrent.futures.ThreadPoolExecutor(1) as other:
        assert other.submit(torch.get_num_threads).result() == 3


def test_an_error_in_a_thread_reaches_the_caller(torch_threads):
    torch_threads(2)
    with pytest.raises(ZeroDivisionError):
        threads.run_parallel(lambda divisor: 1 / divisor, [(1,), (0,), (2,)], device=torch.device("cpu"))
