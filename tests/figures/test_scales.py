import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import colors
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from attn_viewer.errors import OptionError
from attn_viewer.figures import scales
from attn_viewer.figures.style import LIGHT, PageStyle


def measure_lightness(rgb):
    """Return CIELAB L* of sRGB colours (IEC 61966-2-1)."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126729, 0.7151522, 0.0721750]
    return np.where(luminance > 216 / 24389, 116 * np.cbrt(luminance) - 16, luminance * 24389 / 27)


def test_the_colour_map_is_even_in_lightness():
    lightness = measure_lightness(scales.get_colormap()(np.arange(256))[:, :3])
    steps = -np.diff(lightness)
    assert steps.min() > 0
    assert steps.max() < 1.6 * steps.mean()
    assert lightness[0] > 95
    assert lightness[-1] < 20


def test_masked_cells_have_a_colour_of_their_own():
    cmap = scales.get_colormap()
    masked = np.array(colors.to_rgb(LIGHT.masked))
    distance = np.abs(cmap(np.arange(256))[:, :3] - masked).max(1)
    assert distance.min() > 0.04
    np.testing.assert_allclose(cmap(np.ma.masked)[:3], masked)


def test_norms():
    assert scales.make_norm("linear", 0, 2)(1) == 0.5
    assert scales.make_norm("power", 0, 1)(0.25) == pytest.approx(0.5)
    log = scales.make_norm("log", 0, 1)
    assert log(0) == 0
    assert log(1e-2) == pytest.approx(0.5)
    with pytest.raises(OptionError, match="linear, power, log"):
        scales.make_norm("cubic", 0, 1)
    with pytest.raises(OptionError, match="end above its start"):
        scales.make_norm("linear", 1, 1)


@given(st.floats(1e-6, 1e6), st.floats(0, 1), st.sampled_from(["linear", "power", "signed"]), st.floats(20, 400))
def test_numbers_of_a_bar_do_not_touch_and_its_ends_are_there(end, start, kind, length):
    low = -end if kind == "signed" else start * end * (kind == "linear") * 0.9
    style, bar = PageStyle(), Figure().colorbar(ScalarMappable(), cax=Figure().add_subplot())
    norm = scales.make_norm("power" if kind == "power" else "linear", low, end)
    bar.norm = norm
    scales.set_bar_ticks(bar, scales.Scale(norm, scales.get_colormap()), length, style)
    ticks = bar.get_ticks()
    np.testing.assert_allclose(ticks[[0, -1]], [low, end], rtol=1e-9)
    widths = [style.measure(label.get_text(), style.label)[0] for label in bar.ax.get_yticklabels()]
    room = np.diff(norm(ticks)) * length - np.add(widths[1:], widths[:-1]) / 2
    assert len(ticks) == 2 or room.min() >= 5


def test_an_unknown_colour_map_is_named():
    with pytest.raises(OptionError, match="'jett'"):
        scales.get_colormap("jett")
    assert scales.get_colormap("viridis").name == "viridis"


@pytest.mark.parametrize(("norm", "vmin", "vmax"), [("linear", 0, np.inf), ("power", -np.inf, 1), ("log", -1, 1)])
def test_scales_without_an_end_are_refused(norm, vmin, vmax):
    with pytest.raises(OptionError, match="scale"):
        scales.make_norm(norm, vmin, vmax)
