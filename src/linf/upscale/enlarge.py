"""An image of any size through a model, band by band: what is held is bytes in, bytes out, and a band between.

What comes out is what `LINF.sample` gives for the whole image, rounded, whatever the tiles; latents are drawn on the
CPU in one order, so that a seed means one image on every device.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from linf.images.luma import PILLOW_GREY
from linf.images.resize import matlab_bicubic
from linf.memory import free_memory
from linf.models import decoding as inference
from linf.models.baselines import Bicubic, Regression
from linf.models.linf import LINF
from linf.upscale.streams import Bilinear, Latents
from linf.upscale.tile_size import OVERLAP, best_tile

STRIP = 256
"""Rows or columns of bicubic that are made at once."""

CPU = torch.device("cpu")


class Ask(NamedTuple):
    """What is asked of a model, the same for every image."""

    temperature: float = 0.0
    samples: int = 1
    seed: int = 0
    """Of the first sample; the second has ``seed + 1``, and so on."""
    uncertainty: bool = False
    tile: int | None = None
    """LR pixels a side; by default what memory and the encoder suggest."""
    device: torch.device = CPU
    dtype: torch.dtype | None = None
    """Autocast."""


class Enlarged(NamedTuple):
    """What comes out."""

    images: list[np.ndarray]
    """(H,W,3) or (H,W,1) for each sample, of the input's type."""
    deviation: np.ndarray | None
    """(H,W) float16: standard deviation of luma at τ = 1, in the units of [0, 1] images."""


def enlarge(
    model: LINF | Regression | Bicubic,
    pixels: np.ndarray,
    size: tuple[int, int],
    ask: Ask,
    advance: Callable[[int], object] = lambda done: None,
) -> Enlarged:
    """Super-resolve.

    Args:
        model: any, on ``ask.device``.
        pixels: (h,w,3), or (h,w,1) for grey, uint8 or uint16.
        size: (H, W).
        ask: how.
        advance: is told how many output pixels have been made since the last call.

    Raises:
        UsageError: memory is too small for what comes out, or for a tile.
    """
    peak = int(np.iinfo(pixels.dtype).max)
    # Encoders of files hold one more copy of what they write.
    held = (ask.samples + 1) * pixels.shape[2] * pixels.itemsize + 6 * ask.uncertainty
    inference.check_size(size, held + 1, CPU)
    # 16 bits as int32: devices lack gathers of uint16.
    plane = np.require(pixels, np.uint8 if peak == 255 else np.int32, "W")
    lr = torch.from_numpy(plane).to(ask.device).permute(2, 0, 1)
    if isinstance(model, Bicubic):
        return Enlarged([_bicubic(lr, size, peak, pixels.dtype, advance)] * ask.samples, None)
    out = [np.empty((*size, pixels.shape[2]), pixels.dtype) for _ in range(ask.samples)]
    deviation = np.empty(size, np.float16) if ask.uncertainty else None
    base = Bilinear(lr, size, peak)
    autocast = nullcontext() if ask.dtype is None else torch.autocast(ask.device.type, dtype=ask.dtype)
    with torch.no_grad(), autocast:
        made = _flow(model, lr, base, ask) if isinstance(model, LINF) else _regression(model, lr, base, ask)
        for rows, cols, values, spread in made:
            for image, value in zip(out, values, strict=True):
                if len(lr) == 1:
                    value = torch.tensordot(value.new_tensor(PILLOW_GREY), value, 1)[None]
                value = (value * peak).round_().clamp_(0, peak)
                image[rows, cols] = value.permute(1, 2, 0).cpu().numpy()
            if deviation is not None and spread is not None:
                deviation[rows, cols] = spread.cpu().numpy()
            advance((rows.stop - rows.start) * (cols.stop - cols.start))
    return Enlarged(out, deviation)


Made = Iterator[tuple[slice, slice, list[Tensor], Tensor | None]]
"""Rows and columns of the output, (3,y,x) of each sample, and (y,x) of the deviation."""


def _flow(model: LINF, lr: Tensor, base: Bilinear, ask: Ask) -> Made:
    size, tau = base.size, float(ask.temperature)
    tile = ask.tile or best_tile(model, lr.shape[1], lr.shape[2], ask.device)
    drawn = [Latents(model, size, ask.seed + k, ask.device) for k in range(ask.samples)] if tau > 0 else []
    blocks = _blocks(model, lr, base, model.patch_size, tile, drawn)
    luma, inverses = torch.tensor([PILLOW_GREY], device=ask.device), model.flow.inverses()
    for block, mean, textures in model.decoded(blocks, cast(list[Tensor], drawn), tau):
        rows, cols = _pixels(block, size)
        under = base(rows, cols)
        middle = under + block.fold(mean, under) / 2
        values = [middle.add(block.fold(texture, under) / 2, alpha=tau) for texture in textures]
        spread = None
        if ask.uncertainty:
            variance = model.flow.variances(block.condition, luma, inverses)
            spread = block.fold(variance, under)[0].sqrt() / 2
        yield rows, cols, values or [middle] * ask.samples, spread


def _regression(model: Regression, lr: Tensor, base: Bilinear, ask: Ask) -> Made:
    tile = ask.tile or best_tile(model, lr.shape[1], lr.shape[2], ask.device)
    for block in _blocks(model, lr, base, 1, tile):
        rows, cols = _pixels(block, base.size)
        under = base(rows, cols)
        answer = block.fold(block.condition.float(), under) / 2
        yield rows, cols, [answer + (under if model.residual else 0.5)], None


def _pixels(block: inference.Block, size: tuple[int, int]) -> tuple[slice, slice]:
    p, (height, width) = block.patch_size, size
    rows, cols = block.rows, block.cols
    return slice(rows.start * p, min(rows.stop * p, height)), slice(cols.start * p, min(cols.stop * p, width))


def _blocks(
    model: LINF | Regression,
    lr: Tensor,
    base: Bilinear,
    patch_size: int,
    tile: int,
    drawn: Sequence[Latents] = (),
) -> Iterator[inference.Block]:
    """The conditions of all patches; latents go on to the next band with each row of tiles."""
    # Features are given, so that only the shape of the image is looked at.
    blank = torch.empty(1, device=lr.device).expand(1, 3, *lr.shape[1:])
    small = lr.device.type == "cuda" and free_memory(lr.device) < 4 * 2**30
    return inference.conditions(
        model.encoder,
        model.conditioner,
        blank,
        base.size,
        patch_size,
        chunk=8192 if small else None,
        encoded=_encoded(model.encoder, lr, base.peak, tile, drawn),
    )


def _encoded(
    encoder: nn.Module, lr: Tensor, peak: int, tile: int, drawn: Sequence[Latents]
) -> Iterator[inference.Encoded]:
    """`inference.encode` of an image (3,h,w) or (1,h,w) of whole numbers up to ``peak``, of which a tile is floats."""
    height, width = lr.shape[1:]
    receptive_field = encoder.receptive_field
    for rows in inference.tiles(height, tile):
        for latents in drawn:
            latents.next_band()
        for cols in inference.tiles(width, tile):
            (y0, y1), (x0, x1) = (
                _around(part, inference.REACH, n) for part, n in ((rows, height), (cols, width))
            )
            (top, bottom), (left, right) = (
                _around(part, OVERLAP if receptive_field is None else int(cast(int, receptive_field)), n)
                for part, n in (((y0, y1), height), ((x0, x1), width))
            )
            if receptive_field is None:  # Windows of 8 pixels then lie in a tile as they lie in the image.
                top, left = top // 8 * 8, left // 8 * 8
            image = 2 * (lr[None, :, top:bottom, left:right].float() / peak) - 1
            image = image.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
            inner = (..., slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
            # Named, the features around the tile would be kept while it is decoded.
            features = encoder(image)[inner].contiguous(memory_format=torch.channels_last)
            yield inference.Encoded(0, rows, cols, (y0, x0), features)
            del features, image


def _around(part: tuple[int, int], margin: int, n: int) -> tuple[int, int]:
    return max(part[0] - margin, 0), min(part[1] + margin, n)


def _bicubic(
    lr: Tensor, size: tuple[int, int], peak: int, dtype: np.dtype[Any], advance: Callable[[int], object]
) -> np.ndarray:
    """`Bicubic.sample` in strips: one axis, then the other, in the order of `matlab_bicubic`."""
    image = lr if peak == 255 else lr.float()
    scales = [n / k for n, k in zip(size, lr.shape[1:], strict=True)]
    for dim in (1, 2) if scales[0] <= scales[1] else (2, 1):
        across = 3 - dim
        shape = [len(lr), *lr.shape[1:]]
        shape[dim], shape[across] = size[dim - 1], image.shape[across]
        new = image.new_empty(shape)
        for start in range(0, shape[across], STRIP):
            strip = slice(start, start + STRIP)
            where = (slice(None), strip) if across == 1 else (slice(None), slice(None), strip)
            part = image[where]
            wanted = [*part.shape[1:]]
            wanted[dim - 1] = size[dim - 1]
            new[where] = matlab_bicubic(part, (wanted[0], wanted[1]))
            advance(math.prod(size) * part.shape[across] // (2 * shape[across]))
        image = new
    return image.round().clamp(0, peak).permute(1, 2, 0).cpu().numpy().astype(dtype)
