"""Figures whose rows are systems or jobs, and whose panels show a figure of merit of each as a dot."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from linf.report.style import GREY, STYLE


def row_panels(
    heading: str, labels: Sequence[str], panels: int, texts: Mapping[str, Sequence[str]]
) -> tuple[Figure, list[Axes]]:
    """A figure with a row for each label, the first at the top, in which panels and columns of text stand side by side.

    Args:
        heading: what the labels are; see `plain_label` for it and for them.
        labels: of the rows.
        panels: number of panels, of which each has a figure of merit across and the rows' numbers down.
        texts: the columns' titles, with a text for each row.

    Returns:
        The figure and its panels.
    """
    panels = max(panels, 1)
    wide, narrow = 2.1 if panels > 1 else 2.8, 0.75
    longest = max(map(len, [heading, *labels]))
    width = 0.3 + 0.068 * longest + wide * panels + narrow * len(texts)
    figure = Figure(figsize=(width, 0.55 + 0.2 * max(len(labels), 2)), dpi=150, layout="constrained")
    ratios = [wide] * panels + [narrow] * len(texts)
    axes = figure.subplots(1, len(ratios), sharey=True, squeeze=False, width_ratios=ratios)[0].tolist()
    for axis in axes:
        # Ticks are made as late as they are drawn, perhaps under other settings.
        axis.tick_params(labelsize=STYLE["font.size"], grid_color=STYLE["grid.color"], left=False)
        axis.spines["left"].set_visible(False)
    axes[0].set(yticks=range(len(labels)), ylim=(len(labels) - 0.4, -0.6))
    axes[0].set_yticklabels(labels)
    # In line with the titles of the panels.
    axes[0].annotate(heading, (0, 1), (-9, 6), "axes fraction", "offset points", ha="right", color=GREY)
    for axis in axes[:panels]:
        axis.locator_params(axis="x", nbins=4)
        axis.ticklabel_format(axis="x", useOffset=False)
        axis.margins(x=0.08)
    for axis, (title, column) in zip(axes[panels:], texts.items(), strict=True):
        axis.axis("off")
        axis.set_title(title, loc="right")
        for row, words in enumerate(column):
            across = axis.get_yaxis_transform()
            axis.text(1, row, words, ha="right", va="center_baseline", transform=across)
    return figure, axes[:panels]
