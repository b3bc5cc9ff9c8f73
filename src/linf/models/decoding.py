"""The only loop over the patches of an image: encode in tiles → condition every query → answer, streaming.

On a CPU a worker thread per core takes whole chunks of queries, each with one intra-op thread and buffers of its own:
many small operations that are parallel inside stall as soon as anything else runs on the machine. Neither the number
of threads nor the size of tiles and chunks decides a value.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import lru_cache, partial
from itertools import pairwise
from queue import SimpleQueue
from threading import Barrier
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from linf.coordinates import neighbourhood, patch_centres
from linf.memory import free_memory
from linf.models.conditioner import Conditioner, Decode
from linf.models.encoders.encoder import Encoder

T = TypeVar("T")

TILE = 256
"""LR pixels a side of a tile, where an image is larger than one; the receptive field comes on top."""

BAND = 32
"""LR rows whose maps one thread makes at a time."""

MARGIN = 2
"""LR pixels beyond its own that a query depends on after the encoder: its neighbour and the 3×3 of the maps."""

OVERLAP = 64
"""LR pixels around a tile of an encoder whose receptive field has no end: seams are then faint."""

WINDOW = 8
"""Its tiles begin at multiples of this, so that attention windows lie in a tile as they lie in the image."""


class Tile(NamedTuple):
    """The features of one tile of one image."""

    image: int
    rows: tuple[int, int]
    """LR rows (start, stop) whose queries the tile answers."""
    cols: tuple[int, int]
    origin: tuple[int, int]
    """LR pixel (y, x) of the whole image at which the features begin."""
    features: Tensor
    """(1,C,·,·): the tile and `MARGIN` around it, as far as the image goes."""


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


class Region(NamedTuple):
    """A rectangle of the output, decoded; what was not asked for is None or empty."""

    image: int
    rows: slice
    """HR rows."""
    cols: slice
    mean: Tensor
    """(3,y,x) in the units of [0, 1], not clamped: the image at τ = 0."""
    noise: Sequence[Tensor] = ()
    """(3,y,x) for each latent: an image at τ is ``mean + τ · noise``."""
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


def check_size(size: Sequence[int], bytes_per_pixel: int, device: torch.device) -> tuple[int, int]:
    """The output size as (H, W), if it is one and there is memory for it.

    Raises:
        ValueError: a side is not a positive whole number, or memory is too small.
    """
    if len(size) != 2 or not all(type(n) is int and n >= 1 for n in size):
        raise ValueError(f"output size {tuple(size)} is not two positive whole numbers (height, width)")
    need, free = size[0] * size[1] * bytes_per_pixel, free_memory(device)
    if need > free:
        raise ValueError(
            f"output size {size[0]}×{size[1]} needs {-(-need // 2**30)} GiB, {free / 2**30:.3g} GiB are free; "
            "ask for a smaller scale, or for fewer samples or temperatures at once"
        )
    return size[0], size[1]


def tiles(length: int, tile: int) -> list[tuple[int, int]]:
    """Cut ``length`` pixels into nearly equal tiles of at most ``tile``: their (start, stop)."""
    cuts = [round(i * length / -(-length // tile)) for i in range(-(-length // tile) + 1)]
    return list(pairwise(cuts))


def workers(device: torch.device) -> int:
    """How many chunks or tiles are worked on at a time: torch's intra-op threads on a CPU, one elsewhere."""
    return torch.get_num_threads() if device.type == "cpu" else 1


@torch.no_grad()
def encode(encoder: Encoder, lr: Tensor, *, peak: float = 1, tile: int | None = None) -> Iterator[Tile]:
    """The features of each image, tile by tile; kept as a list, they serve more than one pass or size.

    Each tile is encoded with the encoder's receptive field around it, so that its features are those of the whole
    image. Tiles are encoded in parallel where an image has several.

    Args:
        encoder: see `Encoder`.
        lr: (B,3,h,w), or (B,1,h,w) for grey, from 0 to ``peak``.
        peak: the value of white.
        tile: LR pixels a side; by default `TILE`, or whole images where the receptive field has no end. An encoder of
            that kind is given `OVERLAP` around a tile that is asked for.
    """
    height, width = lr.shape[-2:]
    bounded = encoder.receptive_field is not None
    margin = encoder.receptive_field if encoder.receptive_field is not None else OVERLAP
    tile = tile or (TILE if bounded else max(height, width))
    places = [
        (image, rows, cols)
        for image in range(lr.shape[0])
        for rows in tiles(height, tile)
        for cols in tiles(width, tile)
    ]

    def encoded(image: int, rows: tuple[int, int], cols: tuple[int, int]) -> Tile:
        (y0, y1), (x0, x1) = _around(rows, MARGIN, height), _around(cols, MARGIN, width)
        (top, bottom), (left, right) = _around((y0, y1), margin, height), _around((x0, x1), margin, width)
        if not bounded:
            top, left = top // WINDOW * WINDOW, left // WINDOW * WINDOW
        part = lr[image : image + 1, :, top:bottom, left:right]
        if not lr.is_floating_point():
            part = part.float()
        part = (2 / peak * part - 1).expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
        inner = (..., slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
        # Named, the features around the tile would be kept while it is decoded.
        features = encoder(part)[inner].contiguous(memory_format=torch.channels_last)
        return Tile(image, rows, cols, (y0, x0), features)

    if len(places) == 1:
        yield encoded(*places[0])  # With all intra-op threads.
    else:
        yield from parallel([partial(encoded, *place) for place in places], lr.device)


def _around(part: tuple[int, int], margin: int, n: int) -> tuple[int, int]:
    """``part`` of ``n`` pixels and a margin on both sides, as far as there are pixels."""
    return max(part[0] - margin, 0), min(part[1] + margin, n)


@torch.no_grad()
def stream(
    encoder: Encoder,
    conditioner: Conditioner,
    lr: Tensor,
    size: tuple[int, int],
    patch_size: int,
    answer: Callable[[Block], T],
    *,
    peak: float = 1,
    tile: int | None = None,
    chunk: int | None = None,
    features: Iterable[Tile] | None = None,
) -> Iterator[T]:
    """What ``answer`` makes of every block of patches, without gradient.

    Args:
        encoder: see `encode`.
        conditioner: gives the answers that a block holds.
        lr: (B,3,h,w), or (B,1,h,w) for grey, from 0 to ``peak``.
        size: (H, W) of the output.
        patch_size: P.
        answer: called once for each block, from several threads.
        peak: the value of white.
        tile: LR pixels a side that are encoded at once, see `encode`.
        chunk: queries at a time; by default what suits the device.
        features: what `encode` gave for ``lr``, where a pass has come before; by default they are made here, tile by
            tile, and not kept.
    """
    height, width = lr.shape[-2:]
    device = lr.device
    centres = [
        patch_centres(n, patch_size) for n in size
    ]  # On the CPU, where looking at one waits for no device.
    of_cell = conditioner.of_cell(torch.tensor([[2 / size[0], 2 / size[1]]], device=device), (height, width))
    # At ×4 a block's rows use a few LR rows, which stay in the processor's cache.
    chunk = chunk or (2048 if device.type == "cpu" else 65536)
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

    for part in encode(encoder, lr, peak=peak, tile=tile) if features is None else features:
        maps = _maps(conditioner, part.features)
        rows, cols = _inside(centres[0], *part.rows, height), _inside(centres[1], *part.cols, width)
        yield from parallel(
            (partial(answered, part, maps, r, c) for r, c in _rectangles(rows, cols, chunk)), device
        )
        del part, maps  # Before the next tile is encoded.


def _maps(conditioner: Conditioner, features: Tensor) -> Tensor:
    """`Conditioner.maps` of one tile, in bands of `BAND` rows, each by one thread."""
    height, width = features.shape[-2:]
    maps: list[Tensor] = []

    def band(top: int) -> tuple[int, Tensor]:
        start, stop = _around((top, min(top + BAND, height)), 1, height)
        rows = conditioner.maps(features[:, :, start:stop]).view(stop - start, width, -1)
        return top, rows[top - start :][:BAND]

    for top, rows in parallel([partial(band, top) for top in range(0, height, BAND)], features.device):
        if not maps:
            maps.append(rows.new_empty(height, *rows.shape[1:]))
        maps[0][top : top + BAND] = rows
    return maps[0].flatten(0, 1)


def _inside(centres: Tensor, start: int, stop: int, n: int) -> range:
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


def parallel(tasks: Iterable[Callable[[], T]], device: torch.device) -> Iterator[T]:
    """The results of tasks in order, on a CPU from as many threads as torch has intra-op threads.

    Each runs with one intra-op thread. At most twice as many tasks as threads are begun before they are asked for.
    """
    threads = workers(device)
    if threads == 1:
        for task in tasks:
            yield task()
        return
    pool, running = _pool(os.getpid(), threads), deque[Future[T]]()
    modes = torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")
    try:
        for task in tasks:
            running.append(pool.submit(_in_modes, task, modes))
            if len(running) == 2 * threads:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        # Where it ends early, no thread may still use what the caller is about to free.
        wait([future for future in running if not future.cancel()])


def _in_modes(task: Callable[[], T], modes: tuple[bool, bool, torch.dtype]) -> T:
    """Torch's modes belong to a thread, so each task sets those of the thread that asks for it."""
    grad, autocast, dtype = modes
    with torch.set_grad_enabled(grad), torch.autocast("cpu", dtype, enabled=autocast):
        return task()


@lru_cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Threads with one intra-op thread each; of this process, since a fork takes none along."""
    pool, ready = ThreadPoolExecutor(threads, "linf"), Barrier(threads + 1)
    for _ in range(threads):
        pool.submit(_start, ready)
    ready.wait()
    torch.set_num_threads(threads)  # What a thread sets for itself is also the default of threads to come.
    return pool


def _start(ready: Barrier) -> None:
    torch.get_num_threads()  # A thread takes over the default at its first look, and not after.
    torch.set_num_threads(1)
    ready.wait()
