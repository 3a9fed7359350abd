import numpy as np
import pytest
from conftest import make_maps

from attn_viewer import AttentionMaps, group_attention, roll_out_attention, top_attended
from attn_viewer.analysis import attention_pattern
from attn_viewer.errors import OptionError, UnsuitableMapsError

WEIGHTS = np.float32([[[0.5, 0.5, 0], [0.2, 0.7, 0.1]], [[1, 0, 0], [0, 1, 0]]])
MAPS = AttentionMaps(
    [WEIGHTS], ["a", "b", "c"], tokens_query=["b", "c"], layers=[4], heads=[[2, 6]], first_query=1, causal=True
)


def test_a_pattern_is_found_by_true_numbers():
    np.testing.assert_array_equal(attention_pattern(MAPS, 4, 6), WEIGHTS[1])
    with pytest.raises(ValueError, match="read-only"):
        attention_pattern(MAPS, 4, 6)[0, 0] = 1


def test_what_a_token_looks_at():
    assert top_attended(MAPS, 4, 2) == [
        (1, "b", pytest.approx(0.7)),
        (0, "a", pytest.approx(0.2)),
        (2, "c", pytest.approx(0.1)),
    ]
    assert top_attended(MAPS, 4, 2, query=0) == [(0, "a", 0.5), (1, "b", 0.5)]  # c has no weight
    assert top_attended(MAPS, 4, 2, k=1)[0].token == "b"
    assert top_attended(MAPS, 4, 6, query=-2) == [(0, "a", 1.0)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((3, 2), "there is no layer 3; there are 4"),
        ((4, 0), "there is no head 0 in layer 4; there are 2, 6"),
        ((4, 2, 2), "there is no query 2; the maps have queries 0 to 1, or -2 to -1"),
        ((4, 2, -3), "there is no query -3"),
        ((4, 2, 0.5), r"query must be a whole number, got 0\.5"),
        ((4, 2, 0, 0), "k must be"),
        ((4, 2, 0, "3"), "k must be"),
    ],
)
def test_what_is_not_there_is_refused(arguments, words):
    with pytest.raises(OptionError, match=words):
        top_attended(MAPS, *arguments)


def test_a_mean_over_heads_is_no_head():
    with pytest.raises(UnsuitableMapsError, match="reduced"):
        attention_pattern(make_maps().average_heads(), 0, 0)


def test_the_induction_head_of_the_demo_model_finds_what_followed(demo):
    from attn_viewer import capture_attention
    from attn_viewer.analysis import repeated_tokens_prompt

    ids = repeated_tokens_prompt(demo[1], 20)
    (found,) = top_attended(capture_attention(*demo, ids), 1, 2, k=1)
    assert found.position == 21  # said last, first said at 20


def test_words_are_no_tokens():
    words = group_attention(make_maps(1, 1, 4, tokens=["a", "b", "␣c", "␣d"]))
    with pytest.raises(UnsuitableMapsError, match="needs maps of tokens, not grouped by words"):
        attention_pattern(words, 0, 0)
    with pytest.raises(UnsuitableMapsError, match="need maps of tokens"):
        roll_out_attention(words)
