import numpy as np
import pytest
from conftest import make_maps
from hypothesis import given
from hypothesis import strategies as st

from attn_viewer import AttentionMaps, capture_attention, capture_generation, group_attention
from attn_viewer.analysis.grouping import find_sentences, find_words
from attn_viewer.errors import OptionError, UnsuitableMapsError

LABELS = st.lists(
    st.one_of(
        st.sampled_from(["␣the", "dog", "'s", ".", "⏎", "␣", "##ing", "<s>", '?"', "", "水", "<0xF0>"]), st.text()
    ),
    min_size=1,
    max_size=30,
)


def cut(tokens, starts):
    return [tokens[a:b] for a, b in zip(starts, [*starts[1:], len(tokens)], strict=True)]


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (["<s>", "Sum", "mer", "␣is", "n", "'t", "."], ["<s>", "Summer", "␣isn't", "."]),
        (["[CLS]", "sum", "##mer", ".", "warm"], ["[CLS]", "sum##mer", ".", "warm"]),
        (["␣a", "⏎", "b", "(", "c", ")"], ["␣a", "⏎", "b", "(", "c", ")"]),
        (["␣a", "日", "本"], ["␣a", "日", "本"]),
        (["a"], ["a"]),
        (["<0x20F09F>", "<0x8D>", "<0x95>", "s"], ["<0x20F09F><0x8D><0x95>", "s"]),
        (["␣", "<0xE6>", "<0x98>", "<0xA5>", "<0xE5A4A9>"], ["␣<0xE6><0x98><0xA5>", "<0xE5A4A9>"]),
        (["␣👨", "<U+200D>", "👩", "!"], ["␣👨<U+200D>👩", "!"]),
        (["␣nai", "◌\u0308", "ve"], ["␣nai◌\u0308ve"]),
        (["␣of␣the", "␣end"], ["␣of␣the", "␣end"]),
        (["a␣", "b", "c", "d␣e", "f", "␣g"], ["a␣", "bcd␣e", "f", "␣g"]),
        (["␣", "␣", "x", "␣", "=", "⏎", "␣y"], ["␣␣x", "␣=", "⏎", "␣y"]),
        (["⏎", "##", "␣Head"], ["⏎", "##", "␣Head"]),
        (["<0xE6>", "<0x98>", "<0xA5>"], ["<0xE6><0x98><0xA5>"]),
    ],
)
def test_words(tokens, words):
    assert ["".join(word) for word in cut(tokens, find_words(tokens))] == words


@pytest.mark.parametrize(
    ("tokens", "sentences"),
    [
        (["Summer", ".", "␣Winter", "!", '"', "⏎", "␣Spring"], ["Summer.", '␣Winter!"⏎', "␣Spring"]),
        (["<s>", "␣It", "␣costs", "␣5", ".", "0"], ["<s>", "␣It␣costs␣5.0"]),
        (["日", "。", "本"], ["日。", "本"]),
        (["a", "⏎", "⏎", "b"], ["a⏎⏎", "b"]),
    ],
)
def test_sentences(tokens, sentences):
    assert ["".join(sentence) for sentence in cut(tokens, find_sentences(tokens))] == sentences


@given(LABELS, st.sampled_from(["words", "sentences"]), st.data())
def test_rows_of_groups_still_sum_to_one(tokens, by, data):
    n = len(tokens)
    whole = make_maps(1, 2, n, tokens=tokens, prompt_length=data.draw(st.integers(0, n)))
    first = data.draw(st.integers(0, n - 1))
    maps = AttentionMaps(
        [w[:, first:] for w in whole.weights],
        tokens,
        tokens_query=tokens[first:],
        first_query=first,
        prompt_length=whole.prompt_length,
    )
    groups = group_attention(maps, by)
    np.testing.assert_allclose(groups.weights[0].sum(-1), 1, rtol=1e-5)
    assert not groups.weights[0][:, groups.future].any()
    assert groups.tokens_query == groups.tokens_key[groups.first_query :]
    largest = group_attention(maps, by, summary="max")
    np.testing.assert_array_equal(largest.weights[0].max((1, 2)), maps.weights[0].max((1, 2)))


@given(st.integers(1, 12), st.data())
def test_spans_by_their_definition(n, data):
    start = data.draw(st.integers(0, n - 1))
    stop = data.draw(st.integers(start + 1, n))
    maps = make_maps(2, 2, n)
    groups = group_attention(maps, [("span", start, stop)])
    assert groups.tokens_key == (*maps.tokens_key[:start], "span", *maps.tokens_key[stop:])
    assert groups.unit == "part"  # what stands outside of spans is none
    for ours, tokens in zip(groups.weights, maps.weights, strict=True):
        block = tokens[:, start:stop, start:stop].sum(2).mean(1)
        np.testing.assert_allclose(ours[:, start, start], block, rtol=1e-5)
        np.testing.assert_allclose(ours[:, :start, :start], tokens[:, :start, :start])


def test_characters_spread_over_tokens_are_whole_in_words(demo):
    maps = capture_attention(*demo, "I love 🍕 and 春天 too, naïve 👨‍👩‍👧 🇩🇪", layers=[0])
    assert any("<0x" in label for label in maps.tokens_key)
    words = ("<s>", "I", "love", "🍕", "and", "春", "天", "too", ",", "naïve", "👨‍👩‍👧", "🇩🇪")
    assert group_attention(maps, "words").tokens_key == words


def test_a_full_stop_of_three_bytes_ends_a_sentence(demo):
    maps = capture_attention(*demo, "春天。夏天。", layers=[0])
    assert group_attention(maps, "sentences").tokens_key == ("<s>", "春天。", "夏天。")


def test_groups_end_where_the_prompt_and_segments_do():
    maps = make_maps(1, 1, 4, tokens=["␣a", "b", "c", "d"], prompt_length=3, segments=[("user", 0, 1), ("x", 1, 4)])
    groups = group_attention(maps, "words")
    assert groups.tokens_key == ("a", "bc", "d")
    assert groups.prompt_length == 2
    assert groups.segments == (("user", 0, 1), ("x", 1, 3))
    assert groups.grouping == ("words", "sum")
    assert groups.unit == "word"
    assert group_attention(maps, "segments").tokens_key == ("user", "x")


def test_cross_attention_keeps_its_queries_for_spans():
    maps = AttentionMaps([np.full((1, 2, 3), 1 / 3, np.float32)], list("abc"), tokens_query=["x", "␣y"], kind="cross",
                         causal=False)  # fmt: skip
    groups = group_attention(maps, [("ab", 0, 2)])
    assert groups.tokens_query == ("x", "␣y")
    np.testing.assert_allclose(groups.weights[0], [[[2 / 3, 1 / 3]] * 2], rtol=1e-6)
    assert group_attention(maps, "words").tokens_query == ("x", "y")


def test_what_cannot_be_grouped_is_refused():
    maps = make_maps(1, 1, 4)
    for by in ("letters", [("a", 0, 9)], [("a", 2, 3), ("b", 1, 2)], [1], 3):
        with pytest.raises(OptionError):
            group_attention(maps, by)
    with pytest.raises(OptionError, match="segments"):
        group_attention(maps, "segments")
    with pytest.raises(OptionError, match="mean"):
        group_attention(maps, "words", summary="mean")
    with pytest.raises(UnsuitableMapsError, match="already"):
        group_attention(group_attention(maps, "words"), "words")
    pooled = AttentionMaps([np.ones((1, 2, 2), np.float32)], list("abcd"), reduction="pooled", cell=(2, 2),
                           pooling="max")  # fmt: skip
    with pytest.raises(UnsuitableMapsError, match="pooled"):
        group_attention(pooled, "words")


def test_a_chat_with_smollm2_has_a_segment_a_message(smollm2):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is warm?"}]
    maps = capture_attention(*smollm2, messages, layers=[0])
    assert [name for name, *_ in maps.segments] == ["system", "user", "assistant"]
    texts = ["".join(maps.tokens_key[start:stop]) for _, start, stop in maps.segments]
    assert texts[0] == "<|im_start|>system⏎Be␣brief.<|im_end|>⏎"
    assert texts[1] == "<|im_start|>user⏎What␣is␣warm?<|im_end|>⏎"
    assert texts[2] == "<|im_start|>assistant⏎"
    groups = group_attention(maps, "segments")
    assert groups.tokens_key == ("system", "user", "assistant")
    np.testing.assert_allclose(groups.weights[0].sum(-1), 1, atol=1e-4)


def test_a_completion_belongs_to_the_assistant(demo, monkeypatch):
    model, tokenizer = demo
    turns = "{% for m in messages %}{{ m.role + ':' + m.content + '\n' }}{% endfor %}"
    monkeypatch.setattr(tokenizer, "chat_template", turns + "{% if add_generation_prompt %}A{% endif %}")
    maps = capture_generation(model, tokenizer, [{"role": "user", "content": "Why"}], max_new_tokens=3)
    (_, start, middle), last = maps.segments
    assert "".join(maps.tokens_key[start:middle]) == "user:Why⏎"
    assert last == ("assistant", middle, len(maps.tokens_key))
    assert middle < maps.prompt_length < len(maps.tokens_key)


def test_text_has_no_segments(demo_maps):
    assert demo_maps.segments == ()
