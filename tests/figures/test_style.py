from matplotlib.font_manager import findfont, get_font

from attn_viewer.figures import style


def test_fonts_have_what_they_are_chosen_for():
    signs = "␣⏎⇥↩◌…·"
    fitted = style.PageStyle().fit_fonts([signs, "абвγδ", "$x_{"])
    assert fitted == style.PageStyle()
    fitted = style.PageStyle().fit_fonts(["中\U000e0001"])
    family, missing = fitted.family, fitted.missing
    assert "\U000e0001" in missing
    assert "中" in missing or any(ord("中") in get_font(findfont(name)).get_charmap() for name in family[1:])


def test_missing_characters_are_spelled():
    assert style.spell_missing("a中", {"中"}) == "a<U+4E2D>"
    assert style.spell_missing("a中", ()) == "a中"


def test_long_labels_keep_both_ends():
    assert style.shorten_label("abc", 3) == "abc"
    short = style.shorten_label("".join(map(chr, range(65, 91))), 10)
    assert short == "ABCDEF…XYZ"
