import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from attn_viewer.figures import layout
from attn_viewer.figures.venues import SMALLEST_LABEL, get_venue


@given(
    st.integers(1, 40),
    st.integers(1, 45),
    st.integers(1, 400),
    st.integers(1, 400),
    st.floats(0, 120),
    st.floats(0, 120),
    st.booleans(),
)
def test_nothing_overlaps_and_nothing_leaves_the_page(n_panels, columns, n_query, n_key, wide, deep, has_bar):
    width, height, _ = layout.fit_panel(n_query, n_key, is_lone=n_panels == 1)
    notes = ["mean over 9 heads", "12 tokens", "first token hidden, rows renormalised"]
    page = layout.lay_out_page(
        n_panels, columns, (width, height), label_width=wide, label_depth=deep, notes=notes, has_bar=has_bar
    )
    assert len(page.panels) == n_panels
    # A panel with its labels and title is a box; the boxes, heading, notes and bar lie apart and on the page.
    boxes = [(x - wide, y - deep, width + wide, height + deep + layout.measure_title()) for x, y, *_ in page.panels]
    boxes += [(layout.MARGIN, y - 2, 1, get_venue().note) for _, y in page.notes]
    boxes += [(*page.heading, 1, get_venue().heading)]
    if has_bar:
        x, y, w, h = page.bar
        boxes.append((x, y - get_venue().label - 4, w, h + get_venue().label + 4 + get_venue().note))
    boxes = np.array(boxes)
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= np.array(page.size) + 1e-6).all()
    for i, (x, y, w, h) in enumerate(boxes):
        for a, b, c, d in boxes[i + 1 :]:
            assert x + w <= a + 1e-6 or a + c <= x + 1e-6 or y + h <= b + 1e-6 or b + d <= y + 1e-6
    rows = -(-n_panels // min(columns, n_panels))
    assert len(page.queries) == rows
    assert len(page.keys) == n_panels - (rows - 1) * min(columns, n_panels)


@given(st.integers(1, 400), st.booleans())
def test_labels_fit_beside_their_cells_or_there_are_none(n, is_lone):
    width, height, size = layout.fit_panel(n, n, is_lone=is_lone)
    assert width == height
    if size is not None:
        assert SMALLEST_LABEL <= size <= get_venue().label
        assert height / n >= size * layout.ROW_HEIGHT - 1e-6
    assert max(width, height) <= layout.LARGEST_LONE_PANEL * 1.2


def test_phrases_are_set_in_lines():
    assert layout.wrap_phrases(["one", "two", "three"], 1000) == ["one  ·  two  ·  three"]
    assert layout.wrap_phrases(["one", "two", "three"], 1) == ["one", "two", "three"]
    assert layout.wrap_phrases([], 100) == []
