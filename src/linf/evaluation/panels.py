"""Panels that show the same detail of an image by several systems, side by side."""

from collections.abc import Mapping, Sequence

import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from linf.evaluation.fonts import font_families
from linf.images.pixels import shown_channels

Row = tuple[str, dict[str, Tensor]]
"""One row of a panel: a label, and images (C,H,W) in [0, 1] by the names of the systems that made them."""


def fullest_square(weight: Tensor, side: int) -> tuple[slice, slice]:
    """Find the square of ``side`` pixels with the largest sum of a map (H,W), to an eighth of its side."""
    side = min(side, *weight.shape)
    means = F.avg_pool2d(weight[None, None], side, stride=max(side // 8, 1))[0, 0]
    y, x = (int(n) * max(side // 8, 1) for n in torch.unravel_index(means.argmax(), means.shape))
    return slice(y, y + side), slice(x, x + side)


def detail_row(label: str, lr: Tensor, hr: Tensor, systems: dict[str, Tensor], side: int = 96) -> Row:
    """Crop the detail where the first system's error is largest from LR, every system and HR.

    Args:
        label: of the row.
        lr: (C,h,w) in [0, 1].
        hr: (C,H,W) in [0, 1].
        systems: images (C,H,W) by their system's name; the first one chooses the detail.
        side: of the detail, in HR pixels.
    """
    y, x = fullest_square((next(iter(systems.values())) - hr).square().mean(0), side)
    nearest = F.interpolate(lr[None], hr.shape[-2:], mode="nearest-exact")[0]
    named = {"LR": nearest, **systems, "HR": hr}
    return label, {name: shown_channels(image[:, y, x]).clamp(0, 1).cpu() for name, image in named.items()}


@rc_context({"font.family": font_families()})
def panel(rows: Sequence[Row], captions: Sequence[Mapping[str, str]] = ()) -> Figure:
    """Draw a figure with one line per row and one column per system that all rows have.

    Args:
        rows: each with its systems, of which some may be its own, such as the best of many temperatures.
        captions: for each row, what stands below the images of some systems.
    """
    columns = [name for name in rows[0][1] if all(name in images for _, images in rows)]
    height = 2.05 + 0.3 * bool(captions)
    figure = Figure(
        figsize=(2.0 * len(columns) + 0.4, height * len(rows) + 0.3), dpi=110, layout="constrained"
    )
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    for (label, images), below, line in zip(rows, captions or [{}] * len(rows), axes, strict=True):
        for name, axis in zip(columns, line, strict=True):
            axis.imshow(images[name].permute(1, 2, 0).float().numpy(), interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            axis.set_xlabel(below.get(name, ""), fontsize=8)
            if images is rows[0][1]:
                axis.set_title(name, fontsize=10)
        line[0].set_ylabel(label, fontsize=10)
    return figure
