"""Data box of the figure: sub-images in shards, read one by one from a disk or from object storage."""

import json
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from linf.data.packing import INDEX, ShardFacts, decode_pixels
from linf.data.samplers import MIXED
from linf.data.store import ImageStore
from linf.errors import UsageError
from linf.files import atomic_write, cache_folder
from linf.images.pixels import PixelFormat
from linf.locks import lock

log = logging.getLogger(__name__)

REMOTE = ("s3://", "gs://", "azure://", "r2://")
"""How the address of an object storage begins that LitData reads."""

PIECE = 2**24
"""Bytes that are asked of an object storage at a time, and held in memory."""

FETCHING = 16
"""The number of shards that a machine fetches at a time."""


@dataclass(frozen=True)
class ShardSet:
    """Where shards lie, not yet read: a folder, or the address of one in an object storage."""

    root: str

    def __post_init__(self) -> None:
        if not isinstance(self.root, str):
            raise UsageError(f"data.root is {self.root}: give one folder of shards, or its address")


class Shards(ImageStore):
    """The sub-images that ``linf shard`` has packed, by number. Every process opens the shards for itself and keeps no
    pixels. Those of an object storage are read one by one, or come as whole shards to a folder of this machine that all
    processes share, from which the shards that came first make room.

    Args:
        root: the folder of the shards, or its address: ``s3://bucket/folder``, ``gs://…``, ``azure://…``, ``r2://…``.
        min_side: what every sub-image must have on its shorter side, in pixels.
        whole: whether shards of an object storage come whole, for an order of samples that stays in few of them.
        pixels: what is asked of the numbers in them, which are RGB of 8 bits.
        cache_dir: where they come to, by default ``$LINF_CACHE``, or else ``~/.cache/linf``.
        limit: the most that they may take there, in GB; None for no limit.

    Attributes:
        facts: what the index tells.

    Raises:
        UsageError: LitData is not installed, there are no shards, or a sub-image is too small.
    """

    def __init__(
        self,
        root: str,
        *,
        min_side: int = 1,
        whole: bool = False,
        pixels: PixelFormat = PixelFormat(),
        cache_dir: str | None = None,
        limit: float | None = None,
    ) -> None:
        if pixels.settings:
            raise UsageError(
                "shards hold RGB of 8 bits: leave out data.channels, data.depth and data.value_range, or train from a "
                "folder of images"
            )
        self.pixels = pixels
        self.url = root if root.startswith(REMOTE) else None
        self.folder = cache_folder(cache_dir) / "shards" if self.url else Path(root).expanduser()
        self.whole, self.limit = whole, limit
        try:
            if self.url:
                with lock(self.folder / ".lock"):
                    self.folder = Path(_open(url=self.url, cache_dir=str(self.folder)).input_dir.path)
            index = json.loads((self.folder / INDEX).read_text())
            self.facts = ShardFacts(**index["linf"])
        except UsageError:
            raise
        except Exception as error:  # LitData and botocore raise anything for shards that they cannot reach.
            reason = "" if isinstance(error, FileNotFoundError | KeyError) else f" ({error})"
            raise UsageError(
                f"no shards in {root}{reason}: make them with `linf shard FOLDER OUT`, and set data.root to OUT or to "
                "where a copy of it lies"
            ) from error
        if self.facts.shortest_side < min_side:
            raise UsageError(
                f"a sub-image in {root} has {self.facts.shortest_side} pixels on its shorter side, below the smallest "
                f"crop, {min_side}: pack them anew with --min-side {min_side}, or lower data.crop or data.scale"
            )
        self.files = [(chunk["filename"], chunk["chunk_bytes"]) for chunk in index["chunks"]]
        self.shortest_side = self.facts.shortest_side
        self._opened: tuple[int, Any] | None = None

    def __len__(self) -> int:
        return self.facts.sub_images

    def __getitem__(self, index: int) -> np.ndarray:
        """Sub-image ``index`` as a read-only (H, W, C) array.

        Raises:
            UsageError: the shards cannot be read.
        """
        from litdata.streaming.sampler import ChunkedIndex

        if not 0 <= index < len(self):
            raise IndexError(f"sub-image {index} of {len(self)}")
        # A file that was opened before a fork would be at one position for all processes.
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = os.getpid(), _open(path=str(self.folder), url=self.url)
        shard = index // self.facts.per_shard
        for attempt in range(3):
            try:
                if self.url and self.whole:
                    self._fetch(shard, self._opened[1])
                return decode_pixels(self._opened[1][ChunkedIndex(index, shard)])
            except FileNotFoundError as error:
                if self.url is None or attempt == 2:
                    raise UsageError(
                        f"{self.files[shard][0]} is not in {self.url or self.folder}: copy it there"
                    ) from error
                # Another process has just made room.
        raise AssertionError

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}

    def warn_if_short(self, places: int) -> None:
        """Warn if the folder of an object storage's shards cannot hold those that training reads at a time.

        Args:
            places: the number of samples that this machine takes of a batch.
        """
        largest = max(size for _, size in self.files)
        need = min(places * MIXED * largest, sum(size for _, size in self.files)) / 1e9
        if self.url and self.whole and self.limit is not None and need > self.limit:
            log.warning(
                "%d samples a batch are read from up to %.3g GB of shards at a time, which data.cache_limit=%g cannot "
                "hold: shards will be fetched again and again; raise it, or set data.shuffle_block=null",
                places,
                need,
                self.limit,
            )

    def _fetch(self, shard: int, dataset: Any) -> None:
        """Bring a shard to this machine, unless it is here."""
        name, size = self.files[shard]
        file = self.folder / name
        if file.exists():
            return
        with lock(self.folder / f".lock-{shard % FETCHING}"):
            if file.exists():
                return
            if self.limit is not None:
                _make_room(self.folder, self.limit * 1e9 - size)
            read: Callable[[int, int, int], bytes] = (
                dataset.cache._reader.config.download_chunk_bytes_from_index
            )
            with atomic_write(file) as part, open(part, "wb") as out:
                for start in range(0, size, PIECE):
                    out.write(read(shard, start, min(PIECE, size - start)))


def _make_room(folder: Path, room: float) -> None:
    """Remove the shards that came first until the others take at most so many bytes."""
    shards = []
    for file in folder.glob("*.bin"):
        with suppress(FileNotFoundError):  # Another process makes room too.
            stat = file.stat()
            shards.append((stat.st_mtime_ns, stat.st_size, file))
    taken = sum(size for _, size, _ in shards)
    for _, size, file in sorted(shards):
        if taken <= room:
            break
        file.unlink(missing_ok=True)
        taken -= size


def _open(path: str | None = None, url: str | None = None, cache_dir: str | None = None) -> Any:
    try:
        from litdata import StreamingDataset
        from litdata.streaming.resolver import Dir
    except ImportError as error:
        raise UsageError("data=shards needs LitData: pip install 'linf[shards]'") from error
    options = {}
    if url is not None and url.startswith("s3://"):
        from botocore.config import Config

        # LitData's own would try a thousand times.
        retries = {"max_attempts": 8, "mode": "standard"}
        options = {"config": Config(connect_timeout=10, read_timeout=60, retries=retries)}
    dataset = StreamingDataset(Dir(path, url), cache_dir, batch_decode=0, storage_options=options)
    if path is not None:
        dataset[0]  # Reads the index.
    return dataset
