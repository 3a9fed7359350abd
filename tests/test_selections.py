import pytest
from hypothesis import given
from hypothesis import strategies as st

from attn_viewer.commands.arguments import unescape
from attn_viewer.errors import OptionError
from attn_viewer.selections import parse_numbers


def test_numbers_and_ranges():
    assert parse_numbers("0,4-7") == [0, 4, 5, 6, 7]
    assert parse_numbers(" 3 , 1-1,3") == [1, 3]


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "3-1", "1,,2", "0-999999999"])
def test_what_is_no_number(text):
    with pytest.raises(OptionError, match="0,4-7"):
        parse_numbers(text)


@given(st.sets(st.integers(0, 500), min_size=1))
def test_numbers_survive_being_written(numbers):
    assert parse_numbers(",".join(map(str, numbers))) == sorted(numbers)


def test_only_newline_and_tab_are_unescaped():
    assert unescape(r"a\nb\tc \frac \\x $x_{") == "a\nb\tc \\frac \\\\x $x_{"
