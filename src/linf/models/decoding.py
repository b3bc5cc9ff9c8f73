"""The only loop over the patches of an image: encode in tiles → condition every query → answer, streaming.

On a CPU a thread per core takes whole chunks of queries, with buffers of its own (`threads`). Neither the number of
threads nor the size of tiles and chunks decides a value.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from queue import SimpleQueue
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from linf.coordinates import neighbourhood, patch_centres
from linf.machine import free_memory
from linf.models.arguments import is_whole
from linf.models.conditioner import Conditioner, Decode
from linf.models.encoders.encoder import Encoder
from linf.models.threads import T, parallel, workers
from linf.models.tiling import Tile, encode, with_margin

BAND = 32
"""LR rows whose maps one thread makes at a time."""


class Block(NamedTuple):
    """A rectangle of patches of one image, and the conditioner's answers to them."""

    image: int
    rows: slice
    """Rows of the patch grid."""
    cols: slice
    patch_size: int
    size: tuple[int, int]
    """(H, W) of the whole output."""
    answers: Tensor
    """(out_channels, n), patches in row-major order; a buffer that the next block overwrites."""

    @property
    def pixels(self) -> tuple[slice, slice]:
        """HR rows and columns that the patches cover, cropped to the image."""
        rows, cols = (
            slice(s.start * self.patch_size, min(s.stop * self.patch_size, n))
            for s, n in zip((self.rows, self.cols), self.size, strict=True)
        )
        return rows, cols

    def fold(self, patches: Tensor) -> Tensor:
        """Patches (M·P², n) → (M,y,x), the HR pixels of `pixels`."""
        p, rows, cols = self.patch_size, *(s.stop - s.start for s in (self.rows, self.cols))
        folded = patches.reshape(-1, p, p, rows, cols).permute(0, 3, 1, 4, 2).reshape(-1, rows * p, cols * p)
        y, x = self.pixels
        return folded[:, : y.stop - y.start, : x.stop - x.start]


class Latents(Protocol):
    """Latents of patches: ``latents[image, rows, cols]`` is (rows, cols, D) at τ = 1."""

    def __getitem__(self, where: tuple[int, slice, slice], /) -> Tensor: ...


class Request(NamedTuple):
    """What is asked of a decode beside the mean, and how it is done."""

    latents: Sequence[Latents] = ()
    """Whose noise is wanted."""
    highest: float = 1.0
    """The temperature that the noise will be multiplied by; noise that would explode there is left out."""
    mix: Tensor | None = None
    """(M,C): weights of the channels in each mixture whose deviation is wanted."""
    residual: Tensor | None = None
    """(B,C,H,W) in [-1, 1] units, whose latents and log-density are wanted."""
    peak: float = 1
    """The value of white in the LR image."""
    tile: int | None = None
    """LR pixels a side that are encoded at once, see `encode`."""
    chunk: int | None = None
    """Queries decoded at once; by default what suits the device."""
    features: Iterable[Tile] | None = None
    """What `encode` gave for the LR image, or for a part of it, which is then all that is decoded; by default features
    are made tile by tile, and not kept."""
    keep: bool = False
    """Whether what `linf.models.resampling` makes other samples of is wanted."""


class Region(NamedTuple):
    """A rectangle of the output, decoded; what was not asked for is None or empty."""

    image: int
    rows: slice
    """HR rows."""
    cols: slice
    mean: Tensor
    """(C,y,x) in the units of [0, 1], not clamped: the image at τ = 0."""
    noise: Sequence[Tensor] = ()
    """(C,y,x) for each latent: an image at τ is ``mean + τ · noise``."""
    deviation: Tensor | None = None
    """(M,y,x): standard deviation at τ = 1 of each mixture of colours."""
    latents: Tensor | None = None
    """(D,gy,gx): z of HR's patches."""
    log_prob: Tensor | None = None
    """(gy,gx): log-density of HR's patches, in nats per patch."""
    patches: tuple[slice, slice] = (slice(0), slice(0))
    """Rows and columns of the patch grid."""
    exploded: int = 0
    """Patches whose noise would lie far beyond any image, and was left out."""
    kept: Block | None = None
    """The block of patches, with the flow's scales (K,D,n), float16, in place of the conditioner's answers."""

    def at(self, temperature: float | Tensor) -> "Region":
        """The region with the image of its first noise, if it has any, as mean; τ is a number, or a map (H,W)."""
        if not self.noise:
            return self
        noise = self.noise[0]
        if isinstance(temperature, Tensor):
            mixed = self.mean.addcmul(noise, temperature[self.rows, self.cols].to(noise))
        else:
            mixed = self.mean.add(noise, alpha=temperature)
        return self._replace(mean=mixed, noise=())


@torch.no_grad()
def stream(
    encoder: Encoder,
    conditioner: Conditioner,
    lr: Tensor,
    size: tuple[int, int],
    patch_size: int,
    answer: Callable[[Block], T],
    request: Request,
) -> Iterator[T]:
    """What ``answer`` makes of every block of patches, without gradient.

    Args:
        encoder: see `encode`.
        conditioner: gives the answers that a block holds.
        lr: (B,C,h,w), or (B,1,h,w) for grey, from 0 to ``request.peak``.
        size: (H, W) of the output.
        patch_size: P.
        answer: called once for each block, from several threads.
        request: how to encode and how many queries to take at a time; the rest is for ``answer``.
    """
    if request.chunk is not None and not is_whole(request.chunk):
        raise ValueError(
            f"chunk is {request.chunk}: give a whole number of queries, or None for the usual one"
        )
    height, width = lr.shape[-2:]
    device = lr.device
    # On the CPU, where looking at one waits for no device.
    centres = [patch_centres(n, patch_size) for n in size]
    of_cell = conditioner.of_cell(torch.tensor([[2 / size[0], 2 / size[1]]], device=device), (height, width))
    patches = len(centres[0]) * len(centres[1])
    chunk = request.chunk or queries_at_once(patches, device)
    decoders: SimpleQueue[Decode] = SimpleQueue()
    for _ in range(workers(device)):
        decoders.put(conditioner.decoder(chunk))

    def answered(part: Tile, maps: Tensor, rows: slice, cols: slice) -> T:
        y = centres[0][rows].repeat_interleave(cols.stop - cols.start).to(device)
        x = centres[1][cols].repeat(rows.stop - rows.start).to(device)
        near = neighbourhood(y, x, (height, width), origin=part.origin, row=part.features.shape[-1])
        decode = decoders.get()
        try:
            return answer(Block(part.image, rows, cols, patch_size, size, decode(maps, of_cell, near)))
        finally:
            decoders.put(decode)

    features = request.features
    for part in encode(encoder, lr, peak=request.peak, tile=request.tile) if features is None else features:
        maps = _maps(conditioner, part.features)
        rows, cols = (
            patches_inside(centres[0], *part.rows, height),
            patches_inside(centres[1], *part.cols, width),
        )
        yield from parallel(
            (partial(answered, part, maps, r, c) for r, c in _rectangles(rows, cols, chunk)), device
        )
        del part, maps  # Before the next tile is encoded.


def queries_at_once(patches: int, device: torch.device) -> int:
    """Queries at a time.

    On a CPU enough chunks that threads end together, and few enough rows that what they use stays in its cache; on a
    GPU as many as memory allows, about 14 kB each, since launches would take longer than the work of few.
    """
    if device.type == "cpu":
        return min(max(patches // 32, 512), 2048)
    room = free_memory(device)
    return 8192 if room < 4 * 2**30 else 65536 if room < 16 * 2**30 else 196608


def _maps(conditioner: Conditioner, features: Tensor) -> Tensor:
    """`Conditioner.maps` of one tile, in bands of `BAND` rows, each by one thread."""
    height, width = features.shape[-2:]
    one = conditioner.maps(features[..., :1, :1])  # Of one pixel, for its width and type.
    maps = one.new_empty(height, width, one.shape[-1])

    def band(top: int) -> None:
        start, stop = with_margin((top, min(top + BAND, height)), 1, height)
        rows = conditioner.maps(features[:, :, start:stop]).view(stop - start, width, -1)
        maps[top : top + BAND] = rows[top - start :][:BAND]

    for _ in parallel((partial(band, top) for top in range(0, height, BAND)), features.device):
        pass
    return maps.flatten(0, 1)


def patches_inside(centres: Tensor, start: int, stop: int, n: int) -> range:
    """Indices of the centres that fall on LR pixels [start, stop) of n; those beyond the edge on the last."""
    pixel = ((centres + 1) / 2 * n).floor().clamp(0, n - 1)
    inside = torch.nonzero((pixel >= start) & (pixel < stop)).flatten()
    return range(int(inside[0]), int(inside[-1]) + 1) if len(inside) else range(0)


def _rectangles(rows: range, cols: range, most: int) -> Iterator[tuple[slice, slice]]:
    """Cut a rectangle of patches into rectangles of at most ``most``."""
    if not rows or not cols:
        return
    wide = min(len(cols), most)
    high = max(most // wide, 1)
    for r in range(rows.start, rows.stop, high):
        for c in range(cols.start, cols.stop, wide):
            yield slice(r, min(r + high, rows.stop)), slice(c, min(c + wide, cols.stop))
