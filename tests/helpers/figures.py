"""What can be wrong with a figure that is read."""

from itertools import combinations

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text


def overlapping(figure: Figure) -> list[str]:
    """Words that hide each other or reach beyond the canvas."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    found = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    hidden = {id(child) for axis in figure.axes if not axis.get_visible() for child in axis.findobj(Text)}
    # An axis keeps ticks beyond its limits, which are not drawn.
    for axis in figure.findobj(Axes):
        for one in (axis.xaxis, axis.yaxis):
            low, high = sorted(one.get_view_interval())
            hidden |= {id(tick.label1) for tick in one.get_major_ticks() if not low <= tick.get_loc() <= high}
    renderer = canvas.get_renderer()
    boxes = [(t.get_text(), Text.get_window_extent(t, renderer)) for t in found if id(t) not in hidden]
    whole = figure.bbox.padded(1)
    bad = [words for words, box in boxes if not (whole.contains(*box.min) and whole.contains(*box.max))]
    for (words, box), (others, other) in combinations(boxes, 2):
        if box.padded(-1).overlaps(other.padded(-1)):
            bad.append(f"{words!r} on {others!r}")
    return bad
