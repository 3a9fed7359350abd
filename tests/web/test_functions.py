import json

import pytest

from attn_viewer.web.functions import parse_functions


@pytest.mark.parametrize(
    ("doc", "shown"),
    [
        (
            "A first sentence that is too long for its line, since it goes on to\nthe second and ends there.\n\nB.",
            "A first sentence that is too long for its line, since it goes on to the second and ends there.\n\nB.",
        ),
        (
            "Raises\n------\nE\n    If there is no room at all for what is drawn beside it: it goes\n    below.\n",
            "Raises\n------\nE\n    If there is no room at all for what is drawn beside it: it goes below.",
        ),
        ("Short lines\nare meant\nas they are.", None),
        ("- one item of a list that is as long as any line of this text is, yes\n- another", None),
        (">>> draw(what_has_a_long_name, and_more_of_it, and_more_of_it_and_more)\narray([1, 2])", None),
        ("", None),
    ],
)
def test_docstrings_can_be_wrapped_anew(doc, shown):
    (function,) = parse_functions(json.dumps({"name": "f", "doc": doc, "code": doc}).encode())
    assert (function["doc"], function["code"]) == (doc if shown is None else shown, doc.strip("\n"))


def test_lines_that_describe_no_function_are_left_out():
    lines = [b"not json", b"[1]", b'"text"', b"\xff", b"[" * 100_000, b'{"name": "../f"}', b'{"name": 3}', b"{}"]
    fine = [b'{"name": "g", "doc": 7}', b'{"name": "f", "doc": "old"}', b'{"name": "f", "doc": "new"}']
    found = parse_functions(b"\n".join(lines + fine))
    assert [(function["name"], function["doc"]) for function in found] == [("f", "new"), ("g", "")]
