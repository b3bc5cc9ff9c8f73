"""What the page keeps for one open tab; nothing here depends on Gradio."""

import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from linf.demo.mixture import Advance, Mixture, consistent_part, device_of, plane_of, silently
from linf.demo.window import Part, close_up, enlarged_part, mask_part, most_detailed
from linf.images.photo import Photo
from linf.images.write import enlarged_alpha
from linf.machine import free_memory
from linf.models import DEFAULT_TEMPERATURE
from linf.models.correlation import LatentChoice
from linf.models.linf import LINF
from linf.models.super_resolver import SuperResolver
from linf.models.tiling import Tile, clipped, encode, encode_tile
from linf.upscale.enlarge import Ask, enlarge
from linf.upscale.guard import tempered
from linf.upscale.inputs import Size
from linf.upscale.tile_size import best_tile

LARGEST_IN, LARGEST_OUT = 0.4e6, 6e6
"""Pixels of an image, and of what becomes of it, up to which all of it is kept for every temperature and sample."""

BYTES_IN, BYTES_OUT = 300, 120
"""What is kept of each of them, rounded up: features, and mean, noise and the flow's scales."""

ROUNDS = 3
"""Of consistency, see `Projection`."""

EDGE = 1.5
"""Radius in pixels of the uploaded image by which the edge of a painted region is softened."""


class EnlargedWhole(NamedTuple):
    """A whole image that is too large to be kept for every temperature: at one of them only."""

    image: Photo
    temperature: float
    within: float
    sample: tuple[int, LatentChoice]
    """The seed, and how neighbouring latents were drawn."""


class Session:
    """What the page keeps for one open tab: the uploaded image, its file ``source``, what is asked, what was made.

    Args:
        model: that enlarges the image.
        image: the whole uploaded image.
        source: its file.
        scale: the scale, 1 or more.
    """

    def __init__(self, model: LINF, image: Photo, source: Path, scale: float) -> None:
        self.model, self.image, self.source = model, image, source
        self.low: tuple[int, int] = (image.pixels.shape[0], image.pixels.shape[1])
        self.folder = tempfile.TemporaryDirectory(dir=os.environ["GRADIO_TEMP_DIR"])
        self.scale, self.seed, self.point = scale, 0, (0.0, 0.0)
        self.latents: LatentChoice = "independent"
        self.consistent = False
        window = close_up(self.low, scale, self.point)
        self.point = most_detailed(image, [side.stop - side.start for side in window])
        self.mask: Image.Image | None = None
        self.features: list[Tile] = []
        self.made: dict[tuple[bool, bool], Mixture] = {}
        """By whether it is the whole image, and whether it is the page's model that made it."""
        self.fixed: EnlargedWhole | None = None
        self.temperature, self.unlike = DEFAULT_TEMPERATURE, list[str]()

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the whole enlarged image."""
        return Size(scale=self.scale).of(*self.low)

    def guard(self) -> None:
        """Set the temperature that suits the image at its scale, and what is unlike the model's data."""
        ask = Ask(DEFAULT_TEMPERATURE, device=device_of(self.model))
        asked, self.unlike = tempered(self.model, self.image, self.size, ask)
        self.temperature = asked.temperature

    def agree(self, consistent: bool) -> None:
        """Make the result consistent with the image, or not; raise UsageError for an image that is noisy."""
        if consistent:
            ask = Ask(DEFAULT_TEMPERATURE, device=device_of(self.model), consistency=ROUNDS)
            tempered(self.model, self.image, self.size, ask)
        self.consistent, self.fixed = consistent, None

    def rescale(self, scale: float) -> None:
        """Take another scale; what was made of all of the image is not kept."""
        self.scale, self.fixed = scale, None
        self.made = {slot: made for slot, made in self.made.items() if not slot[0]}
        self.guard()

    def window(self, whole: bool) -> Part:
        """The part of the uploaded image that is shown."""
        if whole:
            return slice(0, self.low[0]), slice(0, self.low[1])
        return close_up(self.low, self.scale, self.point)

    def keeps_whole(self) -> bool:
        """Whether all of the image can be kept for every temperature and sample; not while it is there at one only."""
        if self.fixed is not None:  # Memory that came free since does not change what was made.
            return False
        low, high = math.prod(self.low), math.prod(self.size)
        need = BYTES_IN * low + BYTES_OUT * high
        if (True, True) in self.made or low > LARGEST_IN or high > LARGEST_OUT:
            return low <= LARGEST_IN and high <= LARGEST_OUT
        return need <= free_memory(device_of(self.model)) / 2

    def make(self, whole: bool, other: SuperResolver | None = None, advance: Advance = silently) -> Mixture:
        """Make what is asked of a view unless it is there, by the page's model, or by another one."""
        model, slot = other or self.model, (whole, other is None)
        window, made = self.window(whole), self.made.get(slot)
        part = enlarged_part(window, self.low, self.size, self.model.patch_size)
        consistent = self.consistent and other is None
        asked = model, self.size, part, consistent
        if made is None or (made.model, made.size, made.part, made.projection is not None) != asked:
            self.made.pop(slot, None)  # Before another takes its place in memory.
            del made
            if consistent:
                window = self._around(consistent_part(self.image, self.size, part).needed)
            if other is None:
                tiles = self._features(window, whole)
            else:  # Its patches may end elsewhere.
                wider = [
                    (max(s.start - 2, 0), min(s.stop + 2, n)) for s, n in zip(window, self.low, strict=True)
                ]
                tiles = self._encoded(model, wider, whole)
            made = Mixture(
                model, self.image, self.size, part, tiles, self.seed, self.latents, advance, consistent
            )
            self.made[slot] = made
        made.draw(self.seed, self.latents, advance)
        return made

    def ready(self, whole: bool) -> Mixture | None:
        """What the page's model made of a view; None where it is not there yet as it was asked for last."""
        made = self.made.get((whole, True))
        asked = self.size, self.window_enlarged(whole), self.consistent, (self.seed, self.latents)
        if made is None or (made.size, made.part, made.projection is not None, made.sample) != asked:
            return None
        return made

    def make_fixed(self, temperature: float, within: float, advance: Advance = silently) -> EnlargedWhole:
        """Enlarge all of a large image at one temperature, in bounded memory, as `linf upscale` does."""
        tau = self.temperatures(temperature, within, self.window_enlarged(True))
        ask = Ask(temperature, seed=self.seed, device=device_of(self.model), latents=self.latents)
        ask = ask._replace(consistency=ROUNDS * self.consistent)
        if isinstance(tau, Tensor):
            ask = ask._replace(temperatures=tau)
        done, total = 0, math.prod(self.size)

        def count(more: int) -> None:
            nonlocal done
            done += more
            advance(done / total)

        pixels = enlarge(self.model, self.image.pixels, self.size, ask, count).images[0]
        alpha = enlarged_alpha(self.image, self.size)
        whole = Photo(pixels, alpha, self.image.exif, self.image.profile)
        self.fixed = EnlargedWhole(whole, temperature, within, (self.seed, self.latents))
        return self.fixed

    def window_enlarged(self, whole: bool) -> Part:
        """The pixels of the enlarged image that are shown."""
        return enlarged_part(self.window(whole), self.low, self.size, self.model.patch_size)

    def paint(self, ink: Image.Image | None, whole: bool) -> None:
        """Copy to the mask what is painted on the shown part of the uploaded image: the share of ink in each pixel."""
        mask = np.zeros(self.low, np.uint8) if self.mask is None else np.array(self.mask)
        part = self.window(whole)
        shape = [side.stop - side.start for side in part]
        if ink is None:
            mask[part] = 0
        else:  # A brush may be translucent.
            solid = ink.point(lambda level: 255 * (level > 64))
            mask[part] = np.asarray(solid.resize(shape[::-1], Image.Resampling.BILINEAR))
        self.mask = Image.fromarray(mask) if mask.any() else None

    def share(self, part: Part) -> Tensor:
        """The share (y,x) of each pixel of a part of the enlarged image that lies in the painted region, softened."""
        assert self.mask is not None
        return torch.from_numpy(mask_part(self.mask.filter(ImageFilter.GaussianBlur(EDGE)), self.size, part))

    def temperatures(self, temperature: float, within: float, part: Part) -> float | Tensor:
        """The temperature of a part of the enlarged image, or a map (y,x) of it where a region is painted."""
        if self.mask is None or within == temperature:
            return temperature
        return temperature + (within - temperature) * self.share(part)

    def _around(self, part: Part) -> Part:
        """The part of the uploaded image that a part of the enlarged one is made of."""
        rows, cols = (
            slice(max(side.start * n // m - 2, 0), min(-(-side.stop * n // m) + 2, n))
            for side, n, m in zip(part, self.low, self.size, strict=True)
        )
        return rows, cols

    def _features(self, window: Part, whole: bool) -> Iterable[Tile]:
        """The features of a part of the image by the page's model, which are kept."""
        kept = [part for tile in self.features if (part := clipped(tile, *window))]
        if sum(map(_area, kept)) == math.prod(side.stop - side.start for side in window):
            yield from kept
            return
        fresh: list[Tile] = []
        for tile in self._encoded(self.model, [(side.start, side.stop) for side in window], whole):
            fresh.append(tile)
            yield tile
        self.features = fresh

    def _encoded(self, model: SuperResolver, sides: Sequence[tuple[int, int]], whole: bool) -> Iterator[Tile]:
        lr = plane_of(self.image, model)
        assert model.encoder is not None  # `linf demo` takes no others.
        if whole:
            tile = best_tile(model, *self.low, lr.device)
            yield from encode(model.encoder, lr, peak=self.image.peak, tile=tile)
        else:
            yield encode_tile(model.encoder, lr, 0, sides[0], sides[1], peak=self.image.peak)


def _area(tile: Tile) -> int:
    return (tile.rows[1] - tile.rows[0]) * (tile.cols[1] - tile.cols[0])
