"""Data box of the figure: images of many files decoded by several processes at once."""

import logging
import math
import mmap
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from rich.filesize import decimal
from torch.utils.data import Dataset

from linf.data.workers import FORKS, NoWorkersError, SteadyLoader, lost_worker_advice, worker_settings
from linf.errors import UsageError
from linf.images.read import header_size, read_image
from linf.machine import usable_cores

log = logging.getLogger(__name__)

_T = TypeVar("_T")

MOST_PROCESSES = 16
"""Each holds an image, and a disk seldom reads for more at once."""

SAMPLED = 500
"""The number of headers that tell the size of many images."""

FEWER = "free some memory, or let fewer cores decode, as in `taskset -c 0 linf train …`"
"""What to do where there is no memory for so many processes."""

Entry = tuple[int, int, int] | str
"""An image's offset in a file of pixels, height and width; or the reason why it could not be read."""


class _Each(Dataset[_T], Generic[_T]):
    """A function of each of some files."""

    def __init__(self, work: Callable[[Path], _T], sources: Sequence[Path]) -> None:
        self.work, self.sources = work, sources

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> _T:
        return self.work(self.sources[index])


def for_each(
    work: Callable[[Path], _T], sources: Sequence[Path], verb: str = "decoded", processes: int | None = None
) -> Iterator[_T]:
    """Yield a function's results for some files, in their order, from several processes, and log the progress.

    The processes are those of torch's loader, which end soon after their parent however that ends. Each works on at
    most two files ahead, so that memory is bounded.

    Args:
        work: the function; what it returns is pickled.
        sources: the files.
        verb: what is done to a file, for the log.
        processes: how many, by default `decoding_processes`.

    Raises:
        UsageError: a process was killed, as the kernel does where memory is too small.
    """
    processes = decoding_processes(sources) if processes is None else processes
    loader: SteadyLoader[Any] = SteadyLoader(
        _Each(work, sources),
        batch_size=None,
        collate_fn=_unchanged,
        **worker_settings(processes if processes > 1 else 0),
        # Its own, so that a run that decodes draws the same random numbers as one that finds the cache.
        generator=torch.Generator(),
    )
    begun = last_logged = time.monotonic()
    with lost_worker_advice(FEWER):
        for done, result in enumerate(loader, 1):
            yield result
            now = time.monotonic()
            if now - last_logged > 5:
                last_logged = now
                left = timedelta(seconds=round((now - begun) / done * (len(sources) - done)))
                log.info("%s %d of %d images, %s left", verb, done, len(sources), left)


def decoding_processes(sources: Sequence[Path]) -> int:
    """How many processes decode some files: one a core of this process, and none for a few files, which take less time
    than processes do to start.
    """
    return min(usable_cores() if FORKS else 1, MOST_PROCESSES, len(sources) // 4)


def _unchanged(result: _T) -> _T:
    """What stands for torch's own collation, which would make a tensor of each number."""
    return result


def write_pixels(
    sources: Sequence[Path],
    part: Path,
    read: Callable[[Path], np.ndarray] = read_image,
    processes: int | None = None,
) -> tuple[list[Entry], int]:
    """Write the pixels of some images to a file, each wherever the process that decodes it finds room.

    Args:
        sources: image files.
        part: the file.
        read: gives an image (H,W,C), or raises UsageError.
        processes: see `for_each`.

    Returns:
        Where each image is, and the number of bytes written.

    Raises:
        UsageError: processes cannot be started, or one was killed.
        OSError: the file cannot be written, as on a full disk.
    """
    processes = decoding_processes(sources) if processes is None else processes
    end = np.frombuffer(mmap.mmap(-1, 8), np.int64)  # All forks have it in common.
    with lost_worker_advice(FEWER):
        try:
            alone: Any = multiprocessing.get_context("fork").Lock() if processes > 1 else nullcontext()
        except OSError as error:  # It takes a little of /dev/shm.
            raise NoWorkersError(error.strerror or error) from error
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT, 0o666)

    def write(path: Path) -> Entry | OSError:
        try:
            image = read(path)
        except UsageError as error:
            return str(error)
        with alone:
            start = int(end[0])
            end[0] += image.nbytes
        try:
            _write_at(descriptor, image, start)
        except OSError as error:  # The loader would raise it again without its errno.
            return error
        return start, *image.shape[:2]

    index = list[Entry]()
    try:
        for entry in for_each(write, sources, processes=processes):
            if isinstance(entry, OSError):
                raise entry
            index.append(entry)
    finally:
        os.close(descriptor)
    return index, int(end[0])


def _write_at(descriptor: int, image: np.ndarray, start: int) -> None:
    content = np.ascontiguousarray(image).data.cast("B")
    done = 0
    while done < len(content):  # One call writes at most 2 GiB.
        done += os.pwrite(descriptor, content[done:], start + done)


def check_room(sources: Sequence[Path], folder: Path, limit: float | None, pixel_bytes: int) -> None:
    """Raise UsageError if some images, decoded, are larger than a limit or than the free space of a folder's disk.

    Of many images only some headers are read.

    Args:
        sources: image files.
        folder: where their pixels are to be written.
        limit: GB, None for as much as the disk has.
        pixel_bytes: what a pixel takes.
    """
    chosen = sources[:: max(1, len(sources) // SAMPLED)]
    pixels = [math.prod(size) for size in map(header_size, chosen) if size is not None]
    need = pixel_bytes * sum(pixels) / len(chosen) * len(sources) if chosen else 0.0
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    free, most = shutil.disk_usage(there).free, math.inf if limit is None else limit * 1e9
    if need <= min(free, most):
        return
    if need > most:
        excess, remedy = f"above data.cache_limit={limit:g}", "raise data.cache_limit"
    else:
        excess, remedy = "more than is free", "free some space"
    raise UsageError(
        f"{len(sources)} images take {decimal(int(need))} decoded, {excess}; {decimal(free)} are free in {folder}: cut "
        "them into shards, which take half as much or lie in object storage, with `linf shard FOLDER OUT`, and train "
        f"with data=shards data.root=OUT; or {remedy}, or choose another folder with data.cache_dir"
    )
