"""Data box of the figure: one decoded copy of all images, shared by every worker and rank."""

import errno
import hashlib
import json
import logging
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np

from linf.data.decode import Entry, check_room, write_pixels
from linf.data.store import ImageStore
from linf.errors import UsageError, shorten
from linf.files import atomic_write, cache_folder, clear, file_errors, temporary_cache
from linf.images.pixels import PixelFormat
from linf.locks import lock

log = logging.getLogger(__name__)

_STARTED = time.time()


class ImageCache(ImageStore):
    """Images decoded once into a memory-mapped file that all workers and ranks share. The first process that needs the
    file builds it while the others wait; a killed build leaves nothing that is used. A change of any source's path,
    size or date makes another file. Images that could not be read are tried once more by a later process, since memory
    may have been short or a decoder may be installed now.

    Args:
        paths: image files.
        min_side: images with a shorter side are dropped, with a warning that names each.
        on_error: ``skip`` drops unreadable images, with a warning that names each; ``raise`` fails on them.
        cache_dir: by default ``$LINF_CACHE``, or else ``~/.cache/linf``. Where it is read-only or another user's, a
            folder among the temporary ones takes its place, with a warning.
        pixels: what images are converted to; by default RGB of 8 bits.
        limit: the most that a new file may take, in GB; None for as much as is free.

    Attributes:
        paths: the images kept.
        shapes: their (H, W).

    Raises:
        UsageError: no image is left, the cache is above its limit or cannot be written (as on a full disk), or an
            image is unreadable where ``on_error`` is ``raise``.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        *,
        min_side: int = 1,
        on_error: Literal["skip", "raise"] = "skip",
        cache_dir: str | Path | None = None,
        pixels: PixelFormat = PixelFormat(),
        limit: float | None = None,
    ) -> None:
        if on_error not in ("skip", "raise"):
            raise UsageError(f"on_error is {on_error!r}: choose 'skip' or 'raise'")
        sources = [Path(os.path.abspath(path)) for path in paths]
        self.file = _load_or_build(sources, cache_folder(cache_dir) / "images", pixels, limit)
        # Opened at once: without locks another process may put a file in its place, whose images lie elsewhere.
        self._pixels: np.ndarray | None = np.memmap(self.file, np.uint8, "r")
        index = _index_of(self._pixels) or []
        self.pixels = pixels
        if on_error == "raise" and (failed := [n for n, entry in enumerate(index) if isinstance(entry, str)]):
            more = [sources[n] for n in failed[1:]]
            raise UsageError(
                str(index[failed[0]])
                + (f", and {len(more)} more that cannot be read: {shorten(more)}" if more else "")
            )
        kept: list[tuple[Path, int, int, int]] = []
        for path, entry in zip(sources, index, strict=True):
            if isinstance(entry, str):
                log.warning("dropped: %s", entry)
            elif min(entry[1:]) < min_side:
                log.warning("dropped: %s has %d x %d pixels, below %d a side", path, *entry[1:], min_side)
            else:
                kept.append((path, *entry))
        if all(isinstance(entry, str) for entry in index):
            raise UsageError(f"none of {len(sources)} images can be read: {shorten(index, 1)}")
        if not kept:
            raise UsageError(
                f"none of {len(sources)} images ({shorten(sources, 1)}) is readable and at least {min_side} "
                "pixels a side: give larger images, a smaller crop or a smaller scale"
            )
        self.paths = tuple(path for path, *_ in kept)
        self.shapes = tuple((height, width) for *_, height, width in kept)
        self.shortest_side = min(map(min, self.shapes))
        self._offsets = tuple(offset for _, offset, *_ in kept)
        self._digests: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        """Image ``index`` as a read-only (H, W, C) view of the file, uint8, or uint16 for more than 8 bits."""
        if self._pixels is None:
            self._pixels = np.memmap(self.file, np.uint8, "r")
        height, width = self.shapes[index]
        start, channels, dtype = self._offsets[index], self.pixels.channels, self.pixels.dtype
        content = self._pixels[start : start + height * width * channels * dtype.itemsize]
        return np.asarray(content).view(dtype).reshape(height, width, channels)

    def digest(self, index: int) -> str:
        """A digest of image ``index``, as it is decoded: the same wherever and in whatever format its file lies."""
        if index not in self._digests:
            image = self[index]
            found = hashlib.sha256(f"{image.shape} {image.dtype}".encode())
            found.update(image.data)  # Without a copy.
            self._digests[index] = found.hexdigest()[:16]
        return self._digests[index]

    def __getstate__(self) -> dict[str, Any]:
        # A pickled memmap would carry all its pixels to each worker.
        return self.__dict__ | {"_pixels": None}


CACHE_MARK = b"LINFPIX2"
"""The end of a cache file: the pixels of all images, the index as JSON, its length in 8 bytes, and this mark."""


def _key(sources: Sequence[Path], pixels: PixelFormat) -> str:
    digest = hashlib.sha256(CACHE_MARK)
    if pixels.settings:
        digest.update(repr(pixels.settings).encode())
    for path in sources:
        try:
            stat = path.stat()
            state = (stat.st_size, stat.st_mtime_ns, os.access(path, os.R_OK))
        except OSError:
            state = (-1, -1, False)
        digest.update(repr((os.fspath(path), *state)).encode())
    return digest.hexdigest()[:32]


def _load_or_build(sources: Sequence[Path], home: Path, pixels: PixelFormat, limit: float | None) -> Path:
    """Return the cache file of some images."""
    name = f"{_key(sources, pixels)}.pixels"
    try:
        return _load_or_build_in(home / name, sources, pixels, limit)
    except UsageError as error:
        cause = error.__cause__
        if not isinstance(cause, OSError) or cause.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        file = temporary_cache() / "images" / name
        if home not in _unused:
            _unused.add(home)
            log.warning("the image cache %s is not used (%s) but %s", home, cause.strerror, file.parent)
        return _load_or_build_in(file, sources, pixels, limit)


_unused: set[Path] = set()  # The folders of which this process has warned.


def _load_or_build_in(file: Path, sources: Sequence[Path], pixels: PixelFormat, limit: float | None) -> Path:
    remedy = (
        "free some space, or choose another folder with data.cache_dir or the environment variable LINF_CACHE"
    )
    with file_errors(f"cannot use the image cache {file.parent}", remedy):
        while True:
            index = _read_index(file) or _build(file, sources, pixels, limit)
            # Not in its place, for other runs read their images from it.
            later = file.with_stem(f"{file.stem}+")
            if not later.is_file() and not _more_is_readable(sources, file, index, pixels):
                return file
            file = later


def _build(file: Path, sources: Sequence[Path], pixels: PixelFormat, limit: float | None) -> list[Entry]:
    with lock(file.with_suffix(".lock")) as alone:
        if (index := _read_index(file)) is None:
            if alone:
                clear(file)
            check_room(sources, file.parent, limit, pixels.channels * pixels.dtype.itemsize)
            with atomic_write(file) as part:
                index = _write_cache(sources, part, pixels)
        return index


def _more_is_readable(sources: Sequence[Path], file: Path, index: list[Entry], pixels: PixelFormat) -> bool:
    """Tell whether an image can be read now that could not when the file was written, before this process began."""
    failed = [source for source, entry in zip(sources, index, strict=True) if isinstance(entry, str)]
    if not failed or file.stat().st_mtime > _STARTED:
        return False
    for source in failed:
        with suppress(UsageError):
            pixels.read(source)
            return True
    with suppress(OSError):  # It may be read-only. The other ranks of this run need not try again.
        os.utime(file)
    return False


def _write_cache(sources: Sequence[Path], part: Path, pixels: PixelFormat) -> list[Entry]:
    index, end = write_pixels(sources, part, pixels.read)
    text = json.dumps(index).encode()
    with open(part, "rb+") as out:
        out.seek(end)
        out.write(text + len(text).to_bytes(8, "little") + CACHE_MARK)
    return index


def _read_index(file: Path) -> list[Entry] | None:
    return _index_of(np.memmap(file, np.uint8, "r")) if file.is_file() and file.stat().st_size else None


def _index_of(content: np.ndarray) -> list[Entry] | None:
    """The index at the end of a cache file's content; None where that is not whole or is damaged."""
    tail = 8 + len(CACHE_MARK)
    if content[-len(CACHE_MARK) :].tobytes() != CACHE_MARK:
        return None
    length = int.from_bytes(content[-tail : -len(CACHE_MARK)].tobytes(), "little")
    text = content[-tail - length : -tail].tobytes()
    try:
        return [entry if isinstance(entry, str) else tuple(entry) for entry in json.loads(text)]
    except ValueError:
        return None
