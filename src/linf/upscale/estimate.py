"""What enlarging an image would take: seconds and bytes on this machine, from a trial on a small part of it."""

import io
import math
import resource
import sys
import time
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import torch
from rich.filesize import decimal

from linf.images.photo import Photo
from linf.images.write import enlarged_alpha, write_photo
from linf.models.super_resolver import SuperResolver
from linf.models.threads import workers
from linf.models.tiling import MARGIN, OVERLAP, tiles, with_margin
from linf.upscale.enlarge import Ask, enlarge, held_bytes
from linf.upscale.guard import tempered
from linf.upscale.heat_map import heat_map
from linf.upscale.tile_size import best_tile, encoding_bytes

TRIAL_SIDE, TRIAL_PIXELS = 128, 2**20
"""LR pixels a side of the part of an image that a trial encodes, and the most output pixels of what it enlarges."""


class Pace(NamedTuple):
    """What a trial took."""

    look: float
    """Seconds until it is known whether an image is unlike the model's data; the same for every image."""
    encode: float
    """Seconds for each LR pixel that is encoded."""
    decode: float
    """Seconds for each output pixel, until it is in the file."""
    file: float
    """Bytes of the files for each output pixel."""


class Estimate(NamedTuple):
    """What an image would take."""

    seconds: float
    memory: int
    """Bytes of the whole process at most."""
    file: int
    """Bytes of all files that would be written."""

    def __str__(self) -> str:
        """In words, two digits of each: more is not known."""
        seconds = f"{self.seconds:.2g} s" if self.seconds < 90 else f"{self.seconds / 60:.0f} min"
        memory, file = map(decimal, self[1:])
        return f"about {seconds}, {memory} of memory, {file} on the disk"


def measured_pace(
    model: SuperResolver, image: Photo, scale: tuple[float, float], ask: Ask, form: str, quality: int
) -> Pace:
    """Enlarge the middle of an image into memory, and return what it took.

    Args:
        model: the model, on the device of ``ask``.
        image: the whole image.
        scale: the vertical and the horizontal scale factor.
        ask: what is asked of the model.
        form: the format of the file.
        quality: see `write_photo`.
    """
    part, size = _middle(image, scale, TRIAL_SIDE)
    start = part.pixels[:16, :16]
    enlarge(
        model, start, (start.shape[0] + 1, start.shape[1] + 1), ask
    )  # The first call is slower than all others.
    times = [time.perf_counter()]
    tempered(model, part, size, ask._replace(consistency=0))
    times.append(time.perf_counter())
    lr = torch.from_numpy(part.pixels.astype("float32") / part.peak).permute(2, 0, 1)[None].to(ask.device)
    with torch.no_grad(), torch.autocast(ask.device.type, dtype=ask.dtype, enabled=ask.dtype is not None):
        model.encode(lr.expand(-1, model.output_channels(lr), -1, -1), tile=ask.tile)
    if ask.device.type == "cuda":
        torch.cuda.synchronize(ask.device)
    times.append(time.perf_counter())
    encoded = lr.shape[-2] * lr.shape[-1]
    side = math.isqrt(int(TRIAL_PIXELS / math.prod(scale)))
    part, size = _middle(image, scale, max(1, min(TRIAL_SIDE, side)))
    made, content = enlarge(model, part.pixels, size, ask), io.BytesIO()
    for pixels in made.images:
        alpha = enlarged_alpha(part, size)
        write_photo(content, replace(part, pixels=pixels, alpha=alpha), form, quality)
    if made.deviation is not None:
        heat_map(made.deviation).save(content, "PNG")
    times.append(time.perf_counter())
    look, encode, whole = (after - before for before, after in pairwise(times))
    encode /= encoded
    decode = max(whole - encode * math.prod(part.pixels.shape[:2]), 0.1 * whole)  # The clock is not exact.
    return Pace(look, encode, decode / math.prod(size), len(content.getvalue()) / math.prod(size))


def _middle(image: Photo, scale: tuple[float, float], side: int) -> tuple[Photo, tuple[int, int]]:
    """Return the middle of an image, at most ``side`` LR pixels a side, and its output size (H, W)."""
    rows, cols = (slice(max(0, (n - side) // 2), (n + side) // 2) for n in image.pixels.shape[:2])
    part = image.part(rows, cols)
    high, wide = part.pixels.shape[:2]
    return part, (max(1, round(high * scale[0])), max(1, round(wide * scale[1])))


def estimate(pace: Pace, model: SuperResolver, image: Photo, size: tuple[int, int], ask: Ask) -> Estimate:
    """Return what an image would take, given the pace of a trial.

    Time and files grow with the pixels. Memory is what this process has needed so far, and by count what the trial did
    not hold: the outputs, and tiles of their full size.

    Args:
        pace: of a trial.
        model: the model of the trial.
        image: the image.
        size: the output size (H, W).
        ask: what is asked of the model.

    Raises:
        UsageError: memory is too small for the smallest tile.
    """
    height, width = image.pixels.shape[:2]
    tile = best_tile(model, height, width, ask.device) if ask.tile is None else ask.tile
    encoder, conditioner, encoded, tile_bytes = model.encoder, model.conditioner, 0, 0
    if encoder is not None and tile:
        margin = MARGIN + (OVERLAP if encoder.receptive_field is None else encoder.receptive_field)
        sides = [[with_margin(part, margin, n) for part in tiles(n, tile)] for n in (height, width)]
        rows, cols = ([stop - start for start, stop in side] for side in sides)
        encoded = sum(rows) * sum(cols)
        if ask.device.type == "cpu" and conditioner is not None:
            together = min(workers(ask.device), len(rows) * len(cols))
            own = min(tile + 2 * MARGIN, max(height, width))
            tile_bytes = together * encoding_bytes(encoder, conditioner, (max(rows), max(cols)), own)
    pixels = size[0] * size[1]
    return Estimate(
        pace.look + pace.encode * encoded + pace.decode * pixels,
        _resident() + pixels * held_bytes(image.pixels, ask) + tile_bytes,
        round(pace.file * pixels),
    )


def _resident() -> int:
    """Bytes that this process has held at most."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most  # Kilobytes, but for macOS.
