import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn_viewer.analysis import repeated_tokens_prompt
from attn_viewer.errors import OptionError


@given(st.integers(2, 60), st.integers(2, 4), st.integers(0, 2**32))
def test_different_plain_tokens_said_again(demo, length, repeats, seed):
    tokenizer = demo[1]
    start, *ids = repeated_tokens_prompt(tokenizer, length, repeats=repeats, seed=seed)
    assert start == tokenizer.bos_token_id
    assert ids == ids[:length] * repeats
    assert len(set(ids)) == length
    assert not set(ids) & {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    assert all(0 <= i < len(tokenizer) and type(i) is int for i in ids)
    assert repeated_tokens_prompt(tokenizer, length, repeats=repeats, seed=seed) == [start, *ids]


def test_the_seed_decides(demo):
    assert repeated_tokens_prompt(demo[1], seed=1) != repeated_tokens_prompt(demo[1], seed=2)


@pytest.mark.parametrize(
    "options", [{"length": 1}, {"length": 2.0}, {"length": True}, {"length": 10**6}, {"repeats": 1}, {"seed": -1}]
)
def test_what_cannot_be_said_is_refused(demo, options):
    with pytest.raises(OptionError, match=next(iter(options))):
        repeated_tokens_prompt(demo[1], **options)
