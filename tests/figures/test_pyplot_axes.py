import matplotlib
from matplotlib import pyplot

from attn_viewer.figures import pyplot_axes

SIDES = {"left": 0.2, "right": 0.9, "bottom": 0.2, "top": 0.9}


def test_pyplot_draws_into_axes_and_forgets_them():
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
        with pyplot_axes.open_figures(1, (3, 2), 72, SIDES):
            pyplot.figure()
        assert pyplot.get_fignums() == [mine.number]
        axes[0].figure.canvas.draw()
    finally:
        pyplot.close("all")


def test_no_window_opens_and_the_backend_is_as_before():
    before = matplotlib.get_backend()
    pyplot.switch_backend("svg")
    try:
        with pyplot_axes.open_figures(1, (3, 2), 72, SIDES) as (figure,):
            assert matplotlib.get_backend() == "agg"
            assert pyplot.gcf() is figure
        assert matplotlib.get_backend() == "svg"
        assert pyplot.get_fignums() == []
    finally:
        pyplot.switch_backend(before)
