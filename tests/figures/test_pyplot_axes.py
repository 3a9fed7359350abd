import pytest
from matplotlib import pyplot

from attn_viewer.errors import OptionError
from attn_viewer.figures import pyplot_axes

SIDES = {"left": 0.2, "right": 0.9, "bottom": 0.2, "top": 0.9}


@pytest.mark.parametrize("has_private_names", [True, False])
def test_pyplot_draws_into_lent_axes_and_forgets_them(monkeypatch, has_private_names):
    if not has_private_names:
        monkeypatch.setattr(pyplot_axes, "Gcf", None)
    mine = pyplot.figure()
    try:
        with pyplot_axes.open_figures(2, (3, 2), 72, SIDES) as figures:
            axes = [figure.axes[0] for figure in figures]
            assert pyplot.gcf() is axes[0].figure
            pyplot.plot([1, 2])
            pyplot.sca(axes[1])
            pyplot.title("second")
        assert axes[0].lines
        assert axes[1].get_title() == "second"
        assert pyplot.gcf() is mine
        with (
            pytest.raises(OptionError, match="figure of its own"),
            pyplot_axes.open_figures(1, (3, 2), 72, SIDES),
        ):
            pyplot.figure()
        assert pyplot.get_fignums() == [mine.number]
        axes[0].figure.canvas.draw()
    finally:
        pyplot.close("all")
