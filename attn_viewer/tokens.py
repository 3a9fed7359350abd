"""Token ids to labels that a person reads.

Labels keep the token's text and make visible what print would hide: a space is ``␣``, a newline ``⏎``,
a tab ``⇥``, an invisible character its code point, bytes that are no character of their own ``<0xF09F>``.
"""

import contextlib
import itertools
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

import regex

from .errors import PromptError

SPACE, NEWLINE, TAB, RETURN = "␣", "⏎", "⇥", "↩"
_VISIBLE = str.maketrans({" ": SPACE, "\n": NEWLINE, "\t": TAB, "\r": RETURN})
_HIDDEN = {sign: chr(code) for code, sign in _VISIBLE.items()}
_BYTE_FALLBACK = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_BYTES = re.compile(r"<0x((?:[0-9A-Fa-f]{2})+)>")
_SIGN = re.compile(rf"<U\+([0-9A-F]{{4,6}})>|[{SPACE}{NEWLINE}{TAB}{RETURN}]|^◌(?=.)")
CONTINUES = re.compile(rf"##(?=[^#{SPACE}])")  # before a WordPiece token that goes on with a word


def _byte_alphabet() -> dict[str, int]:
    """Map the characters that byte-level tokenizers write for bytes back to the bytes.

    Printable Latin-1 characters stand for themselves, the other 68 bytes for the characters from U+0100
    on, in order (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners").
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(others)}


BYTE_ALPHABET = _byte_alphabet()


def show_text(text: str) -> str:
    """Make every character of a text visible, in one line.

    Spaces, newlines and tabs become signs; other characters without a picture of their own (controls, zero-width,
    directional marks, unassigned, lone surrogates) ``<U+200B>``; a combining mark that begins the text stands on a
    dotted circle.
    """
    text = text.translate(_VISIBLE)
    if text and unicodedata.category(text[0]).startswith("M"):
        text = "◌" + text
    return text.translate({ord(c): f"<U+{ord(c):04X}>" for c in set(text) if not _has_picture(c)})


def show_label(text: str) -> str:
    """Return a label as it is, or by `show_text` where print would hide a part of it."""
    is_seen = text.isprintable() and text == text.strip()
    return text if is_seen else _show_characters(regex.findall(r"\X", text))


def _show_characters(characters: Iterable[str]) -> str:
    """Make characters, as a person counts them, visible; what joins the parts of one is no sign of its own."""
    return "".join(show_text(c) if len(c) == 1 or not _has_picture(c[0]) else c for c in characters)


def _has_picture(character: str) -> bool:
    # Variation selectors are marks (Mn) that only change the look of what stands before them.
    return unicodedata.category(character)[0] not in "CZ" and not "\ufe00" <= character <= "\ufe0f"


def show_bytes(data: bytes) -> str:
    """Make the bytes of a token visible: by `show_text` where they are UTF-8, else in hexadecimal, ``<0xF09F>``."""
    try:
        return show_text(data.decode("utf-8"))
    except UnicodeDecodeError:
        return f"<0x{data.hex().upper()}>"


def read_label(label: str) -> bytes:
    """Return the bytes that a label of `show_text` or `show_bytes` stands for, without WordPiece's ``##``."""
    if data := _BYTES.fullmatch(label):
        return bytes.fromhex(data[1])

    def read(sign: re.Match[str]) -> str:
        # A dotted circle of the prompt's own stands before something else than a mark.
        circle = sign[0] if not unicodedata.category(label[1:2] or " ").startswith("M") else ""
        return chr(int(sign[1], 16)) if sign[1] else _HIDDEN.get(sign[0], circle)

    start = CONTINUES.match(label)
    try:
        return _SIGN.sub(read, label[start.end() if start else 0 :]).encode("utf-8", "surrogatepass")
    except (ValueError, OverflowError):  # text that only looks like a code point
        return label.encode("utf-8", "surrogatepass")


def find_character_starts(labels: Sequence[str]) -> list[int]:
    """Return the numbers of the tokens that do not begin inside of a character, ascending, from 0.

    A character, as a person counts them, may be spread over tokens: bytes of UTF-8, marks that combine with what stands
    before them, parts of a flag or of an emoji that joiners make one. No label is that of a special token.
    """
    data = [read_label(label) for label in labels]
    text = b"".join(data).decode("utf-8", "surrogateescape")
    sizes = (len(character.encode("utf-8", "surrogateescape")) for character in regex.findall(r"\X", text))
    starts = set(itertools.accumulate(sizes, initial=0))
    return [i for i, at in enumerate(itertools.accumulate(map(len, data[:-1]), initial=0)) if at in starts]


def join_labels(labels: Iterable[str]) -> str:
    """Write the labels of tokens side by side as one, characters that are spread over them whole."""
    text = b"".join(map(read_label, labels)).decode("utf-8", "surrogateescape")
    parts = []
    for is_byte, part in itertools.groupby(regex.findall(r"\X", text), lambda part: "\udc80" <= part <= "\udcff"):
        if is_byte:
            parts.append(show_bytes("".join(part).encode("utf-8", "surrogateescape")))
        else:
            parts.append(_show_characters(part))
    return "".join(parts)


def name_bytes(labels: Sequence[str]) -> list[str]:
    """Say of tokens that are bytes of a character which one that is: ``春 1/3``, ``春 2/3``, ``春 3/3``.

    Bytes that make no character with those beside them stay in hexadecimal.
    """
    named = list(labels)
    start, data = 0, b""
    for i, label in enumerate(labels):
        match = _BYTES.fullmatch(label)
        if match is None:
            start, data = i + 1, b""
            continue
        data += bytes.fromhex(match[1])
        try:
            character = show_text(data.decode("utf-8"))
        except UnicodeDecodeError:
            continue
        count = i + 1 - start
        named[start : i + 1] = [f"{character} {part}/{count}" for part in range(1, count + 1)]
        start, data = i + 1, b""
    return named


def show_raw_token(token: str) -> str:
    """Label an entry of a byte-level (``Ġcold``) or SentencePiece (``▁cold``) vocabulary without its tokenizer."""
    if "▁" in token:
        return show_text(token.replace("▁", " "))
    if token and max(token) >= "\u0100" and BYTE_ALPHABET.keys() >= set(token):
        return show_bytes(bytes(BYTE_ALPHABET[c] for c in token))
    return show_text(token)


def label_tokens(ids: Iterable[int], tokenizer: Any = None) -> list[str]:
    """Return one readable label a token, special ones by name; without a tokenizer, the ids themselves.

    Raises `PromptError` if an id is not in the tokenizer's vocabulary.
    """
    ids = [int(i) for i in ids]
    if tokenizer is None:
        return [str(i) for i in ids]
    special = set(getattr(tokenizer, "all_special_ids", ()))
    labels = {}
    for i in set(ids):
        raw = None
        with contextlib.suppress(IndexError, KeyError, OverflowError):
            raw = tokenizer.convert_ids_to_tokens(i)
        if raw is None:
            raise PromptError(
                f"token id {i} is not in the tokenizer's vocabulary of {len(tokenizer)} tokens; "
                "use the tokenizer that belongs to the model"
            )
        labels[i] = _label_token(i, raw, tokenizer, is_special=i in special)
    return [labels[i] for i in ids]


def _label_token(token_id: int, raw: str | bytes, tokenizer: Any, *, is_special: bool) -> str:
    if isinstance(raw, bytes):  # tiktoken-style vocabularies hold bytes
        return show_bytes(raw)
    if is_special or _BYTE_FALLBACK.fullmatch(raw):
        return show_text(raw)
    if "▁" in raw:  # decode() drops the space that begins a word
        return show_text(raw.replace("▁", " "))
    text: str = tokenizer.decode([token_id], clean_up_tokenization_spaces=False)
    if "\ufffd" in text and all(c in BYTE_ALPHABET for c in raw):
        return show_bytes(bytes(BYTE_ALPHABET[c] for c in raw))
    return show_text(text or raw)
