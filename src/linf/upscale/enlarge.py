"""An image of any size through a model, region by region: what is held is bytes in, bytes out, and a tile between.

What comes out is what `SuperResolver.sample` gives for the whole image, rounded, whatever the tiles.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from linf.images.luma import PILLOW_GREY
from linf.machine import free_memory
from linf.models import DEFAULT_TEMPERATURE
from linf.models.arguments import check_size
from linf.models.consistency import LR_ROWS, Projection
from linf.models.consistent_regions import consistent
from linf.models.correlation import LatentChoice, chosen_correlation, latent_fields
from linf.models.decoding import Request
from linf.models.super_resolver import SuperResolver
from linf.upscale.tile_size import TILES, best_tile

CPU = torch.device("cpu")


class Ask(NamedTuple):
    """What is asked of a model, the same for every image."""

    temperature: float = DEFAULT_TEMPERATURE
    samples: int = 1
    seed: int = 0
    """Of the first sample; the second has ``seed + 1``, and so on."""
    uncertainty: bool = False
    tile: int | None = None
    """LR pixels a side; by default what memory and the encoder suggest."""
    device: torch.device = CPU
    dtype: torch.dtype | None = None
    """Autocast."""
    latents: LatentChoice = "independent"
    consistency: int = 0
    """Rounds that make LR of the result the given image, see `linf.models.consistency`."""
    temperatures: Tensor | None = None
    """(H,W): a map of one for each pixel, in place of the temperature."""


class Enlarged(NamedTuple):
    """An image's samples and their deviation."""

    images: list[np.ndarray]
    """(H,W,C) for each sample, of the input's type."""
    deviation: np.ndarray | None
    """(H,W) float16: standard deviation at τ = 1, of luma or else over all channels, in the units of [0, 1] images."""


def enlarge(
    model: SuperResolver,
    pixels: np.ndarray,
    size: tuple[int, int],
    ask: Ask,
    advance: Callable[[int], object] = lambda done: None,
) -> Enlarged:
    """Enlarge an image by a model on ``ask.device``.

    Args:
        model: The model.
        pixels: The image (h,w,C), or (h,w,1) for grey, uint8 or uint16.
        size: The output size (H, W).
        ask: What the model makes of it.
        advance: A function that is called with the number of output pixels made since its last call.

    Raises:
        UsageError: Memory is too small for the output, or for a tile.
        ValueError: The model is for images of another number of channels.
    """
    peak = int(np.iinfo(pixels.dtype).max)
    size = check_size(size, held_bytes(pixels, ask) + 1, CPU)
    lr = as_tensor(pixels, ask.device)
    channels = model.output_channels(lr)
    tau = ask.temperature if ask.temperatures is None else ask.temperatures
    highest = float(torch.as_tensor(tau).max())
    drawn = ask.samples if model.dim and highest > 0 else 0
    tile = best_tile(model, lr.shape[-2], lr.shape[-1], ask.device) if ask.tile is None else ask.tile
    if ask.consistency and ask.tile is None and tile:  # A row of tiles waits for the next one, as floats.
        lr_row = 4 * channels * (1 + (drawn if drawn > 1 else 0)) * size[1] * -(-size[0] // lr.shape[-2])
        tile = max(min(tile, int(free_memory(ask.device) / (8 * lr_row)) - 2 * LR_ROWS), TILES[0])
    latents = latent_fields(
        [ask.seed + k for k in range(drawn)],
        lr,
        size,
        model.dim,
        model.patch_size,
        tile=tile or lr.shape[-1],
        correlation=chosen_correlation(model.correlation, ask.latents),
    )
    out = [np.empty((*size, pixels.shape[2]), pixels.dtype) for _ in range(ask.samples)]
    deviation = np.empty(size, np.float16) if ask.uncertainty else None
    autocast = nullcontext() if ask.dtype is None else torch.autocast(ask.device.type, dtype=ask.dtype)
    mix = torch.tensor([PILLOW_GREY]) if channels == 3 else torch.eye(channels)
    request = Request(
        latents,
        highest,
        mix.to(ask.device) if ask.uncertainty else None,
        peak=peak,
        tile=tile,
    )
    with torch.no_grad(), autocast:
        regions = model.regions(lr, size, request)
        if ask.consistency:
            regions = (region.at(tau) if drawn == 1 else region for region in regions)
            regions = consistent(regions, lr, Projection(pixels.shape[:2], size, ask.consistency), peak=peak)
        for region in regions:
            where = region.rows, region.cols
            samples = [region._replace(noise=[noise]).at(tau).mean for noise in region.noise]
            for image, values in zip(out, samples or [region.mean] * ask.samples, strict=True):
                image[where] = levels(grey(values) if len(values) > pixels.shape[2] else values, peak)
            if deviation is not None:
                assert region.deviation is not None
                part = region.deviation
                part = part if len(part) == 1 else part.square().mean(0, keepdim=True).sqrt()
                deviation[where] = part[0].cpu().numpy()
            advance(region.mean.shape[-2] * region.mean.shape[-1])
    return Enlarged(out, deviation)


def held_bytes(pixels: np.ndarray, ask: Ask) -> int:
    """Return the bytes that are held for each output pixel of an image (h,w,C) until it is in its files."""
    # Encoders of files hold one more copy of what they write.
    return (ask.samples + 1) * pixels.shape[2] * pixels.itemsize + 6 * ask.uncertainty


def as_tensor(pixels: np.ndarray, device: torch.device) -> Tensor:
    """Return an image (h,w,c), uint8 or uint16, as whole numbers (1,c,h,w) on a device."""
    # 16 bits as int32: devices lack gathers of uint16.
    plane = np.require(pixels, np.uint8 if pixels.dtype == np.uint8 else np.int32, "W")
    return torch.from_numpy(plane).to(device).permute(2, 0, 1)[None]


def grey(values: Tensor) -> Tensor:
    """Return the grey (1,y,x) of RGB (3,y,x), by Pillow's weights."""
    # No matrix product, which autocast and torch's settings would make in half precision.
    return (values.new_tensor(PILLOW_GREY)[:, None, None] * values).sum(0, keepdim=True)


def levels(values: Tensor, peak: int) -> np.ndarray:
    """Return values (c,y,x) in the units of [0, 1] as levels (y,x,c) of [0, peak], rounded."""
    return (values * peak).round_().clamp_(0, peak).permute(1, 2, 0).cpu().numpy()
