"""Windows of an image: where its close-up opens, which enlarged pixels it has, and what is shown of it there."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw

from linf.coordinates import patch_centres
from linf.images.luma import PILLOW_GREY
from linf.images.photo import Photo
from linf.images.read import eight_bits
from linf.images.resize import AxisResize, resized_part
from linf.images.write import enlarged_alpha
from linf.models.decoding import patches_inside

Part = tuple[slice, slice]
"""Rows and columns."""

CLOSE_UP_SIZE = (420, 560)
"""Height and width of a close-up in enlarged pixels."""

CLOSE_UP_PIXELS = 25_000
"""Pixels of the uploaded image in a close-up at most: encoding them is what a close-up waits for at small scales."""

FRAMED_SIDE = 1000
"""The longer side in pixels at most of the uploaded image as the page shows it."""

LOOKED_AT = 1_000_000
"""Pixels of an image, at most, among which its details are looked for."""


def around(size: Sequence[int], middle: Sequence[float], kept: Sequence[float]) -> Part:
    """The part of an image (h, w) around a point (y, x), of a given (h, w) and as close as the edges let it."""
    cuts = []
    for length, centre, wanted in zip(size, middle, kept, strict=True):
        n = min(length, max(1, int(wanted)))
        start = min(max(round(centre - n / 2), 0), length - n)
        cuts.append(slice(start, start + n))
    return cuts[0], cuts[1]


def close_up(size: Sequence[int], scale: float, middle: Sequence[float]) -> Part:
    """The part of an image (h, w) that is shown close up around a point (y, x)."""
    share = min(1, math.sqrt(CLOSE_UP_PIXELS * scale**2 / math.prod(CLOSE_UP_SIZE)))
    return around(size, middle, [share * n / scale for n in CLOSE_UP_SIZE])


def enlarged_part(part: Part, low: Sequence[int], size: tuple[int, int], patch_size: int) -> Part:
    """The pixels of an enlarged image (H, W) that a model makes of a part of the small one (h, w): whole patches."""
    rows, cols = (
        patches_inside(patch_centres(n, patch_size), side.start, side.stop, m)
        for side, n, m in zip(part, size, low, strict=True)
    )
    return (
        slice(rows.start * patch_size, min(rows.stop * patch_size, size[0])),
        slice(cols.start * patch_size, min(cols.stop * patch_size, size[1])),
    )


def most_detailed(image: Photo, shape: Sequence[int]) -> tuple[float, float]:
    """The centre (y, x) of the part of a given (h, w) in which neighbouring pixels differ most on average.

    Differences are counted up to a limit, so that texture weighs more than one hard edge.
    """
    step = max(1, math.isqrt(image.pixels[..., 0].size // LOOKED_AT))
    pixels = eight_bits(image.pixels[::step, ::step]).astype(np.float32)
    luma = pixels @ np.array(PILLOW_GREY, np.float32) if pixels.shape[2] == 3 else pixels[..., 0]
    change = np.zeros_like(luma)
    change[:, 1:] += np.abs(np.diff(luma, axis=1)).clip(max=40)
    change[1:] += np.abs(np.diff(luma, axis=0)).clip(max=40)
    high, wide = (min(max(1, n // step), m) for n, m in zip(shape, luma.shape, strict=True))
    total = np.pad(change.cumsum(0, dtype=np.float64).cumsum(1), ((1, 0), (1, 0)))
    sums = total[high:, wide:] - total[:-high, wide:] - total[high:, :-wide] + total[:-high, :-wide]
    y, x = np.unravel_index(int(sums.argmax()), sums.shape)
    return step * (y + high / 2), step * (x + wide / 2)


def bicubic_part(image: Photo, size: tuple[int, int], part: Part) -> Photo:
    """A part of the image enlarged to (H, W) by MATLAB's bicubic, rounded after each axis, as `Bicubic` makes it."""
    axes = [
        (AxisResize(n, m), dim, side)
        for n, m, dim, side in zip(image.pixels.shape[:2], size, (-2, -1), part, strict=True)
    ]
    # What the part depends on, before eight bytes a value and what it costs.
    needed = tuple(slice(*axis.support(side.start, side.stop)) for axis, _, side in axes)
    plane = torch.from_numpy(image.pixels[needed].astype(np.float64)).permute(2, 0, 1)
    for axis, dim, side in sorted(axes, key=lambda each: (each[0].scale, each[1])):
        outputs = side.start, side.stop
        plane = axis(plane, dim, outputs, axis.support(*outputs)[0])
        plane = (plane + 0.5).floor().clamp(0, image.peak)
    pixels = plane.permute(1, 2, 0).numpy().astype(image.pixels.dtype)
    return Photo(pixels, enlarged_alpha(image, size, part), None, image.profile)


def mask_part(mask: Image.Image, size: tuple[int, int], part: Part) -> np.ndarray:
    """A part of a mask that is enlarged to (H, W): its share of each pixel, from 0 to 1."""
    return np.asarray(resized_part(mask, size, part, Image.Resampling.BILINEAR), np.float32) / 255


def framed(image: Photo, part: Part | None) -> Image.Image:
    """The uploaded image as the page shows it, with a frame around the part that is shown close up."""
    step = max(1, max(image.pixels.shape[:2]) // (2 * FRAMED_SIDE))  # Half of what is to be resized well.
    pixels = eight_bits(image.pixels[::step, ::step])
    shown = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[..., 0]).convert("RGB")
    if image.alpha is not None:
        alpha = Image.fromarray(eight_bits(image.alpha[::step, ::step]))
        shown = Image.composite(shown, Image.new("RGB", shown.size, "white"), alpha)
    shown.thumbnail((FRAMED_SIDE, FRAMED_SIDE), Image.Resampling.BICUBIC)
    whole = part is None or all(
        s.stop - s.start == n for s, n in zip(part, image.pixels.shape[:2], strict=True)
    )
    if part is None or whole:
        return shown
    # A frame on a small image is drawn on enlarged pixels, or it would hide too many of them.
    shown = shown.resize(
        [max(1, FRAMED_SIDE // max(shown.size)) * n for n in shown.size], Image.Resampling.BICUBIC
    )
    y, x = (n / m for n, m in zip(shown.size[::-1], image.pixels.shape[:2], strict=True))
    line = max(2, max(shown.size) // 150)
    left, top = (max(at, line) for at in (x * part[1].start, y * part[0].start))
    right = min(x * part[1].stop, shown.width - line) - 1
    low = min(y * part[0].stop, shown.height - line) - 1
    draw = ImageDraw.Draw(shown)
    if right > left + 2 * line and low > top + 2 * line:
        draw.rectangle((left - line, top - line, right + line, low + line), outline="black", width=line)
        draw.rectangle((left, top, right, low), outline="white", width=line)
    return shown
