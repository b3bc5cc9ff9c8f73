"""Data box of the figure: images cut to sub-images and packed into shards, once and for all."""

import io
import json
import logging
import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from linf.data.decode import for_each
from linf.errors import UsageError
from linf.files import atomic_write
from linf.images.read import read_image
from linf.locks import LOCK, lock

log = logging.getLogger(__name__)

INDEX = "index.json"
"""LitData's list of the shards; what this project adds to it is under "linf"."""


@dataclass(frozen=True)
class Cut:
    """How images become sub-images.

    Attributes:
        size: the side of a sub-image in pixels; that of an image where it has less.
        overlap: the least that neighbours share, in pixels.
        min_side: images with a shorter side are left out, with a warning that names each.
        per_shard: the number of sub-images in a shard.
        raw: whether pixels are stored as they are, which takes twice the space and no time to decode.
    """

    size: int = 480
    overlap: int = 48
    min_side: int = 48
    per_shard: int = 128
    raw: bool = False

    def __post_init__(self) -> None:
        for name, value, least in (("size", self.size, 1), ("min-side", self.min_side, 1)):
            if value < least:
                raise UsageError(f"--{name} {value} is too small: give a whole number of at least {least}")
        if not 1 <= self.per_shard <= 4096:
            raise UsageError(f"--per-shard {self.per_shard} is not a whole number from 1 to 4096")
        if not 0 <= self.overlap < self.size:
            raise UsageError(f"--overlap {self.overlap} is not below --size {self.size}, and at least 0")


@dataclass(frozen=True)
class ShardFacts:
    """What an index tells of its shards, beside where they are.

    Attributes:
        images: the number of images that were cut.
        sub_images: the number of sub-images.
        per_shard: the number of sub-images in each shard but the last.
        shortest_side: of all sub-images, in pixels.
        gigabytes: what the sub-images take decoded.
    """

    images: int
    sub_images: int
    per_shard: int
    shortest_side: int
    gigabytes: float


def pack(sources: Sequence[Path], out: Path, cut: Cut, replace: bool = False) -> ShardFacts:
    """Cut images and pack the sub-images into shards, in an order of the images that is shuffled once.

    The shards take their place only when all are written; a killed process leaves nothing in it.

    Args:
        sources: image files.
        out: the folder of the shards.
        cut: how images become sub-images.
        replace: whether to replace shards that are there.

    Raises:
        UsageError: LitData is not installed, no image is large enough, or the folder cannot be written, as where
            another process is writing it.
    """
    try:
        from litdata.streaming import Cache
    except ImportError as error:
        raise UsageError("linf shard needs LitData: pip install 'linf[shards]'") from error
    part = out.with_name(f".{out.name}.part")
    try:
        with lock(part / LOCK, wait=False):
            try:
                for path in part.iterdir():  # What a killed process left.
                    if path.name != LOCK:
                        shutil.rmtree(path) if path.is_dir() else path.unlink()
                facts = _pack_in(part, Cache(str(part), chunk_size=cut.per_shard), sources, cut)
                (part / LOCK).unlink()
                _put_in_place(part, out, replace)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    except BlockingIOError as error:
        raise UsageError(
            f"another process is writing shards to {out}: wait for it, or choose another folder"
        ) from error
    except OSError as error:
        raise UsageError(
            f"cannot write shards to {out}: {error.strerror or error}; free some space, or choose another folder"
        ) from error
    return facts


def _put_in_place(part: Path, out: Path, replace: bool) -> None:
    """Rename a folder; one that is replaced is removed only then, which may take long."""
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if replace and out.exists():
        out.replace(old)
    try:
        part.replace(out)
    except BaseException:
        if old.exists():
            old.replace(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _pack_in(part: Path, writer: Any, sources: Sequence[Path], cut: Cut) -> ShardFacts:
    count, images, shortest, size = 0, 0, math.inf, 0
    order = np.random.default_rng(0).permutation(len(sources))
    for made in for_each(partial(sub_images, cut=cut), [sources[i] for i in order], "cut"):
        if isinstance(made, str):
            log.warning("left out: %s", made)
            continue
        images += 1
        for content, height, width, channels in made:
            writer[count] = content
            count += 1
            shortest = min(shortest, height, width)
            size += height * width * channels
    if not count:
        raise UsageError(
            f"none of {len(sources)} images is readable and at least {cut.min_side} pixels a side: give larger "
            "images, or lower --min-side"
        )
    writer.done()
    writer.merge()
    facts = ShardFacts(images, count, cut.per_shard, int(shortest), size / 1e9)
    index = json.loads((part / INDEX).read_text())
    with atomic_write(part / INDEX) as file:
        file.write_text(json.dumps(index | {"linf": asdict(facts)}))
    return facts


def sub_images(path: Path, cut: Cut) -> list[tuple[bytes, int, int, int]] | str:
    """The sub-images of an image, encoded, each with its shape; or the reason why there are none."""
    try:
        image = read_image(path)
    except UsageError as error:
        return str(error)
    height, width = image.shape[:2]
    if min(height, width) < cut.min_side:
        return f"{path} has {height} x {width} pixels, below {cut.min_side} a side"
    return [(encode_pixels(tile, cut.raw), *tile.shape) for tile in cut_tiles(image, cut.size, cut.overlap)]


def cut_tiles(image: np.ndarray, size: int, overlap: int) -> Iterator[np.ndarray]:
    """Sub-images that cover an image, at even distances, row by row; (size, size, C) where the image has as much."""
    rows, columns = (_starts(n, min(size, n), overlap) for n in image.shape[:2])
    for top in rows:
        for left in columns:
            yield image[top : top + size, left : left + size]


def _starts(n: int, size: int, overlap: int) -> list[int]:
    count = 1 if n <= size else math.ceil((n - overlap) / (size - overlap))
    return [round(k * (n - size) / max(count - 1, 1)) for k in range(count)]


def encode_pixels(image: np.ndarray, raw: bool = False) -> bytes:
    """An image without loss: as WebP, which is smaller and faster to decode than PNG, or, where that cannot hold it or
    ``raw`` pixels are asked for, as a NumPy file.
    """
    content = io.BytesIO()
    if raw or image.dtype != np.uint8 or image.shape[2] != 3:
        np.save(content, np.ascontiguousarray(image), allow_pickle=False)
    else:
        Image.fromarray(image).save(content, "WEBP", lossless=True, method=0, quality=20)
    return content.getvalue()


def decode_pixels(content: bytes | memoryview) -> np.ndarray:
    """The image of `encode_pixels`, read-only."""
    if content[:6] == b"\x93NUMPY":
        header = io.BytesIO(content[:1024])
        np.lib.format.read_magic(header)
        shape, _, dtype = np.lib.format.read_array_header_1_0(header)
        # Not a copy, as NumPy's own reading of a file in memory would be.
        image = np.frombuffer(content, dtype, math.prod(shape), header.tell()).reshape(shape)
    else:
        image = np.asarray(Image.open(io.BytesIO(content), formats=["WEBP"]))
    image.flags.writeable = False
    return image
