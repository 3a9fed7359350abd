import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from attn_viewer.cells import choose_cell, pool_cells
from attn_viewer.errors import OptionError


@given(
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=3, max_dims=3, max_side=9), elements=st.floats(0, 1, width=32)),
    st.tuples(st.integers(1, 10), st.integers(1, 10)),
    st.booleans(),
)
def test_a_cell_is_the_largest_of_its_weights(weights, cell, is_masked):
    if is_masked:
        weights = np.ma.masked_less(weights, 0.5)
    pooled = pool_cells(weights, cell)
    down, across = cell
    for row in range(pooled.shape[1]):
        for column in range(pooled.shape[2]):
            block = weights[:, row * down : (row + 1) * down, column * across : (column + 1) * across]
            assert np.ma.allequal(pooled[:, row, column], block.max(axis=(1, 2)))
            assert (np.ma.getmaskarray(pooled)[:, row, column] == np.ma.getmaskarray(block).all(axis=(1, 2))).all()


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 600))
def test_the_smallest_cell_that_fits(n_query, n_key, most):
    for n, size in zip((n_query, n_key), choose_cell(n_query, n_key, most), strict=True):
        assert -(-n // size) <= most
        assert size == 1 or -(-n // (size - 1)) > most


@pytest.mark.parametrize("most", [0, -1, 2.5, True, "8", None])
def test_cells_are_counted_in_whole_numbers(most):
    with pytest.raises(OptionError, match="max_cells"):
        choose_cell(3, 3, most)
