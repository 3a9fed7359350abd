import dataclasses
import inspect
import json
import pickle

import numpy as np
import pytest
from conftest import make_maps
from hypothesis import given
from hypothesis import strategies as st

from attn_viewer import AttentionMaps
from attn_viewer.errors import InvalidMapsError
from attn_viewer.facts import MapFacts
from attn_viewer.spans import Span

NAMES = [field.name for field in dataclasses.fields(MapFacts)]
EYE = np.eye(4, dtype=np.float32)[None]
TOKENS = list("abcd")
# Another value than the one that holds where a fact is not said, so that a fact that is lost shows.
SAID = {
    "tokens_key": list("abcdef"),
    "tokens_query": ["x", "y"],
    "ids_key": [9, 8, 7, 6, 5, 4],
    "layers": [3],
    "heads": [[7]],
    "kind": "decoder",
    "causal": False,
    "first_query": 2,
    "queries_after": 1,
    "prompt_length": 3,
    "segments": [("user", 0, 2)],
    "grouping": ("words", "max"),
    "spans": [("image", 0, "whole", 2, 2, 2, 2, 0.0)],
    "spans_query": [("image", 0, "whole", 1, 2, 2, 2, 0.0)],
    "crops": [(0.25, 0.0, 0.75, 1.5)],
    "step": 4,
    "model_id": "org/name",
    "reduction": "pooled",
    "cell": (2, 3),
    "pooling": "mean",
    "has_sinks": True,
    "softcap": 3.5,
    "source": "eager",
    "weighting": "rollout",
    "signed": True,
    "n_prompts": 7,
    "interventions": ["head 0.1 ablated"],
    "not_shown": ["tower: it has windows"],
    "averaged_heads": [0, 5],
}


def test_every_fact_is_kept_by_plain_types_and_maps():
    assert list(SAID) == NAMES
    facts = MapFacts(**SAID)
    bare = MapFacts(TOKENS, layers=[0], heads=[[0]])
    assert [name for name in NAMES if getattr(facts, name) == getattr(bare, name)] == []
    again = MapFacts.from_plain(json.loads(json.dumps(facts.to_plain())))
    assert again == facts
    maps = AttentionMaps([np.full((1, 1, 2), 0.5, np.float32)], facts)
    assert maps.facts == pickle.loads(pickle.dumps(maps)).facts == facts
    assert AttentionMaps(maps.weights, **SAID).facts == facts
    assert maps != AttentionMaps(maps.weights, facts)
    assert AttentionMaps(maps.weights, facts, model_id="other").facts == dataclasses.replace(facts, model_id="other")


def test_nothing_in_a_label_is_hidden():
    tokens = ["\n", " ", " cat", "New York", "\u200b", "a\tb", "\udc80", "e\u0301"]
    shown = ("⏎", "␣", "␣cat", "New York", "<U+200B>", "a⇥b", "<U+DC80>", "e\u0301")
    made = [MapFacts(labels, layers=[0], heads=[[0]]) for labels in (tokens, shown)]
    assert made[0].tokens_key == made[1].tokens_key == shown


def test_what_is_unknown_is_named():
    with pytest.raises(InvalidMapsError, match=r"no fact 'casual' .* did you mean 'causal'"):
        AttentionMaps([EYE], TOKENS, casual=True)
    with pytest.raises(InvalidMapsError, match="dictionary with tokens_key"):
        MapFacts.from_plain([1])


def test_help_names_every_fact():
    for kind in (MapFacts, AttentionMaps):
        assert [name for name in inspect.signature(kind).parameters if name != "weights"] == NAMES
        assert all(f"\n{name} : " in kind.__doc__ for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
@given(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.binary(max_size=5),
        st.just("\ud800"), st.just(2**63), st.just(object()), st.just(np.ones((2, 2))), st.just(range(10**12)),
        st.recursive(
            st.one_of(st.integers(-1, 9), st.text(max_size=3), st.booleans(), st.just("\ud800")),
            lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
            max_leaves=6,
        ),
    )
)  # fmt: skip
def test_any_value_is_a_fact_or_a_typed_error(name, value):
    given = {"tokens_key": TOKENS, name: value}
    try:
        maps = AttentionMaps([EYE], **given)
    except InvalidMapsError as error:
        assert "\n" not in str(error)  # noqa: PT017
        assert len(str(error)) < 500  # noqa: PT017
        return
    assert MapFacts.from_plain(json.loads(json.dumps(maps.to_plain()))) == maps.facts
    assert repr(maps)
    assert maps.shape == (4, 4)


@pytest.mark.parametrize("crop", [(0, 0, 0, 1), (1, 0, 2, 1), (0, -2, 1, 0), (0, 0, 1, 1001), (0, 0, float("nan"), 1)])
def test_crops_hold_a_part_of_the_picture(crop):
    with pytest.raises(InvalidMapsError, match="crops"):
        make_maps(crops=[crop])


def test_a_grid_is_short_for_the_patches_of_one_picture():
    maps = make_maps(n_tokens=7, causal=False, grid=(2, 3))
    assert maps.spans == (Span("image", 0, "whole", 1, 2, 3, 3, 0.0),)
    assert maps.spans[0].positions.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert MapFacts.from_plain(json.loads(json.dumps(maps.facts.to_plain()))).spans == maps.spans
    with pytest.raises(InvalidMapsError, match="among 7 key tokens"):
        make_maps(n_tokens=7, causal=False, grid=(3, 3))


@pytest.mark.parametrize(
    "change",
    [{"sense": "smell"}, {"start": -1}, {"start": 3}, {"rows": 0}, {"columns": 0}, {"stride": 2}, {"number": -1},
     {"seconds": -1.0}, {"rows": 2.5}, {"part": None}],
)  # fmt: skip
def test_spans_lie_among_the_keys(change):
    span = Span("image", 0, "whole", 1, 2, 3, 3, 0.0)
    make_maps(n_tokens=7, causal=False, spans=[span])
    with pytest.raises(InvalidMapsError, match="spans must be"):
        make_maps(n_tokens=7, causal=False, spans=[span._replace(**change)])
