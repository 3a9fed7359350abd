"""What the demo model has learned, measured on its attention; the figures of the README rest on it."""

import numpy as np
import pytest
import torch

from attn_viewer import capture_attention

PERIOD, ROWS = 48, 6
TEXTS = (
    "And God said unto the children of Israel, I am the LORD your God.",
    "In the beginning God created the heaven and the earth.",
    "Summer is warm. Winter is cold.",
)


@pytest.fixture(scope="module")
def repeated(demo):
    """Maps of random tokens said twice after the first token: one a row."""
    model, tokenizer = demo
    generator = torch.Generator().manual_seed(7)
    rows = torch.randint(1, len(tokenizer), (ROWS, PERIOD), generator=generator).tolist()
    return [capture_attention(model, tokenizer, [tokenizer.bos_token_id, *row, *row]) for row in rows]


def average(maps, measure):
    """Return a score of axes (layer, head), the mean over the rows."""
    return np.mean([[measure(layer) for layer in m.weights] for m in maps], axis=0)


def test_a_head_looks_at_the_previous_token(repeated):
    scores = average(repeated, lambda w: np.diagonal(w, -1, 1, 2).mean(1))
    assert scores.max() >= 0.6


def test_a_head_looks_behind_the_previous_occurrence(repeated):
    queries = np.arange(1 + PERIOD, 1 + 2 * PERIOD)
    scores = average(repeated, lambda w: w[:, queries, queries - PERIOD + 1].mean(1))
    assert scores.max() >= 0.4


def test_the_first_token_is_a_sink(demo):
    """On text, where heads often find nothing to look for."""
    maps = [capture_attention(*demo, text) for text in TEXTS]
    masses = average(maps, lambda w: w[:, 1:, 0].mean(1))
    assert masses.max() >= 0.7
    assert (masses > 0.3).sum() >= 3


def test_text_is_predicted(demo):
    """A loss far below chance (ln 2,048 = 7.6 nats a token) says that the model has really learned to read."""
    model, tokenizer = demo
    ids = tokenizer(TEXTS[0], return_tensors="pt")
    with torch.no_grad():
        assert model(**ids, labels=ids["input_ids"]).loss < 3
