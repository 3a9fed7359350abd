import itertools
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn_viewer.errors import PromptError
from attn_viewer.tokens import (
    BYTE_ALPHABET,
    find_character_starts,
    join_labels,
    label_tokens,
    name_bytes,
    read_label,
    show_bytes,
    show_raw_token,
    show_text,
)


def test_the_byte_alphabet_is_a_bijection():
    assert sorted(BYTE_ALPHABET.values()) == list(range(256))
    assert BYTE_ALPHABET["Ġ"] == 0x20
    assert BYTE_ALPHABET["Ċ"] == 0x0A


@pytest.mark.parametrize(
    ("text", "label"),
    [
        (" cold", "␣cold"),
        ("\n", "⏎"),
        ("\t\r\n", "⇥↩⏎"),
        ("\u200b", "<U+200B>"),
        ("\x00", "<U+0000>"),
        ("\u0301", "◌\u0301"),
        ("$x_{\\frac}^%", "$x_{\\frac}^%"),
        ("中文", "中文"),
        ("\u202eabc", "<U+202E>abc"),
        ("", ""),
    ],
)
def test_text_is_made_visible(text, label):
    assert show_text(text) == label


@given(st.text())
def test_labels_are_one_line_of_visible_characters(text):
    label = show_text(text)
    assert all(unicodedata.category(c)[0] not in "CZ" for c in label)
    assert bool(label) == bool(text)


@given(st.binary(min_size=1, max_size=8))
def test_bytes_are_text_or_hexadecimal(data):
    label = show_bytes(data)
    try:
        assert label == show_text(data.decode())
    except UnicodeDecodeError:
        assert bytes.fromhex(label[3:-1]) == data


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="␣⏎⇥↩◌<#"), min_size=1)


@given(TEXTS)
def test_labels_are_read_back(text):
    assert read_label(show_text(text)).decode() == text


@given(TEXTS, st.data())
def test_characters_over_tokens_are_joined(text, data):
    whole = text.encode()
    cuts = sorted({0, *data.draw(st.lists(st.integers(0, len(whole) - 1))), len(whole)})
    labels = [show_bytes(whole[a:b]) for a, b in itertools.pairwise(cuts)]
    assert b"".join(map(read_label, labels)) == whole
    starts = find_character_starts(labels)
    assert starts[0] == 0
    for start in starts:  # no character is divided
        assert whole[: cuts[start]].decode() + whole[cuts[start] :].decode() == text
    assert "<0x" not in join_labels(labels)


def test_a_joined_character_is_written_as_one():
    assert join_labels(["␣", "<0xF09F>", "<0x91A8>", "<U+200D>", "👩"]) == "␣👨\u200d👩"
    assert join_labels(["e", "◌\u0301", "⏎"]) == "e\u0301⏎"
    assert join_labels(["sum", "##mer"]) == "summer"
    assert join_labels(["<0xF0>", "<0x9F>", "a"]) == "<0xF09F>a"
    assert join_labels(["##", "<U+110000>"]) == "##<U+110000>"


@pytest.mark.parametrize(
    ("raw", "label"),
    [("Ġcold", "␣cold"), ("Ċ", "⏎"), ("▁cold", "␣cold"), ("cold", "cold"), ("ðŁĺ", "<0xF09F98>"), ("naïve", "naïve")],
)
def test_raw_tokens_of_old_caches_become_readable(raw, label):
    assert show_raw_token(raw) == label


def test_labels_say_the_whole_prompt(demo):
    _, tokenizer = demo
    prompt = "In the beginning\tGod created: $x_{1}$ 中 😀\n"
    labels = label_tokens(tokenizer(prompt)["input_ids"], tokenizer)
    assert labels[0] == "<s>"
    data = b""
    for label in labels[1:]:
        plain = label.replace("␣", " ").replace("⏎", "\n").replace("⇥", "\t")
        data += bytes.fromhex(plain[3:-1]) if plain.startswith("<0x") else plain.encode()
    assert data.decode() == prompt


def test_labels_without_a_tokenizer_are_the_ids():
    assert label_tokens([5, 17]) == ["5", "17"]


def test_an_id_outside_the_vocabulary_is_named(demo):
    with pytest.raises(PromptError, match="token id 99999 is not in the tokenizer's vocabulary"):
        label_tokens([1, 99999], demo[1])


def test_smollm2_labels(smollm2):
    _, tokenizer = smollm2
    labels = label_tokens(tokenizer("<|im_start|>Summer is\n", add_special_tokens=False)["input_ids"], tokenizer)
    assert labels == ["<|im_start|>", "Summer", "␣is", "⏎"]


class _PieceTokenizer:
    """A SentencePiece vocabulary with byte fallback, as Llama 2 and Gemma have it."""

    all_special_ids = (0,)
    pieces = ("<s>", "▁cold", "<0x0A>", "ness", "▁")

    def convert_ids_to_tokens(self, i):
        return self.pieces[i]

    def decode(self, ids, **options):
        return "".join(self.pieces[i] for i in ids).replace("▁", " ").lstrip()

    def __len__(self):
        return len(self.pieces)


def test_sentencepiece_labels_keep_their_spaces():
    assert label_tokens(range(5), _PieceTokenizer()) == ["<s>", "␣cold", "<0x0A>", "ness", "␣"]


def test_bytes_of_a_character_are_named_by_it():
    labels = ["a", "<0xE6>", "<0x98>", "<0xA5>", "<0xE5A4>", "<0xA9>", "<0xE6>", "b", "<0xFF>"]
    named = ["a", "春 1/3", "春 2/3", "春 3/3", "天 1/2", "天 2/2", "<0xE6>", "b", "<0xFF>"]
    assert name_bytes(labels) == named
