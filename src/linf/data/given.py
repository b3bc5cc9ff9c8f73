"""Data box of the figure: the given LR images of the scales that are evaluated."""

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from linf.coordinates import AxisScales, Scale, axis_scales
from linf.data.cache import ImageCache
from linf.data.layouts import ImageSet
from linf.errors import UsageError

log = logging.getLogger(__name__)


def given_pairs(
    images: ImageSet, scales: Sequence[Scale], cached: Callable[[Sequence[Path]], ImageCache]
) -> dict[Scale, tuple[ImageCache, ImageCache]]:
    """The HR and the given LR images of each scale that has LR given, those included whose scale only sizes tell.

    Args:
        images: a dataset.
        scales: those that are evaluated.
        cached: opens images.

    Raises:
        UsageError: the given LR images of one of the scales do not match the HR images one to one.
    """
    for scale in scales:
        if scale in images.faults:
            raise UsageError(images.faults[scale])

    def pair(scale: Scale | None) -> tuple[ImageCache, ImageCache]:
        return cached(images.hr_at.get(scale, images.hr)), cached(images.lr[scale])

    given = {scale: pair(scale) for scale in scales if scale in images.lr}
    there = [scale for scale in images.lr if scale is not None]
    if None in images.faults:
        log.warning("not used: %s", images.faults[None])
    if None in images.lr:
        hr, lr = pair(None)
        fitting = scale_by_size(hr.shapes, lr.shapes, [s for s in scales if s not in given])
        if fitting is not None:
            return given | {fitting: (hr, lr)}
        common, ratios = _common_scale(hr, lr), _ratios(hr, lr)
        if common is not None:
            there.append(common)
        else:
            log.warning(
                "%s: LR is made, for the scale of the given LR in %s differs by image, from ×%.3g to ×%.3g; put the "
                "images of each scale into a folder of their own to use it",
                *(images.name, images.lr[None][0].parent, min(ratios), max(ratios)),
            )
    if there and not given:
        log.warning(
            "%s: LR is made, for the given LR in %s is of %s and not of the scales %s; add its scale to use it",
            images.name,
            next(iter(images.lr.values()))[0].parent,
            " and ".join(f"×{scale:.3g}" for scale in there),
            list(scales),
        )
    return given


def scale_by_size(
    hr: Sequence[tuple[int, int]], lr: Sequence[tuple[int, int]], scales: Sequence[Scale]
) -> Scale | None:
    """The scale at which all LR images fit their HR images to a pixel; the best of several, None if there is none."""

    def error(scale: Scale) -> float:
        """The largest misfit, in LR pixels."""
        sides = (zip(*of, axis_scales(scale), strict=True) for of in zip(hr, lr, strict=True))
        return max(abs(large / factor - small) for of in sides for large, small, factor in of)

    fitting = [scale for scale in scales if error(scale) < 1]
    return min(fitting, key=error, default=None)


def covers(hr: int, lr: int, factor: float) -> bool:
    """Whether an LR image may be of an HR image, by their pixels along an axis. LR may cover up to one of its pixels
    more, and HR may go on by up to 11 pixels where LR was made from it cropped to a multiple of 12, as in GTmod12.
    """
    return -factor <= hr - lr * factor <= max(12, factor)


def _ratios(hr: ImageCache, lr: ImageCache) -> list[float]:
    """The ratio of each pair's sides, as the geometric mean of both axes."""
    pairs = zip(hr.shapes, lr.shapes, strict=True)
    return [math.sqrt(math.prod(large) / math.prod(small)) for large, small in pairs]


def _common_scale(hr: ImageCache, lr: ImageCache) -> Scale | None:
    """The scale, alike or by axis, that fits the sizes of all pairs; None where it differs from pair to pair."""
    largest = max(range(len(lr.shapes)), key=lambda n: math.prod(lr.shapes[n]))
    by_axis = [high / low for high, low in zip(hr.shapes[largest], lr.shapes[largest], strict=True)]
    candidates: tuple[Scale, ...] = (_ratios(hr, lr)[largest], AxisScales(*by_axis))
    return next((s for s in candidates if scale_by_size(hr.shapes, lr.shapes, [s]) is not None), None)
