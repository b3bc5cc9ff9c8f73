"""What `shards` in `run.py` measures: training samples from 21 GB of shards, read by one process.

The 21 GB are simulated: 240 shards of 128 sub-images of 480², of which 4 are files and the others links to these.
Index, order, reading and decoding are those of 21 GB; the disk is not, for the files stay in the machine's memory.
"""

import json
import os
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from linf.data.cache import ImageCache
from linf.data.crops import RandomScaleCrops
from linf.data.packing import INDEX, Cut, pack
from linf.data.samplers import order_by_shards
from linf.data.shards import Shards
from linf.data.sources import bundled

BATCH, SIDE, PER_SHARD, FILES, COPIES = 16, 480, 128, 4, 60


def measured_shards() -> dict[str, tuple[list[float], list[float], float, str]]:
    """By kind: seconds a sample from shards, and from the cache, in turns; bytes a process takes; sizes in words."""
    found, photo = {}, Image.open(bundled("heldout").hr[0]).convert("RGB").resize((2 * SIDE, 2 * SIDE))
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        files = [home / f"{i:03}.png" for i in range(FILES * PER_SHARD // 4)]  # Four sub-images each.
        for i, file in enumerate(files):
            photo.rotate(i).save(file, compress_level=1)
        cache = ImageCache(files, cache_dir=home)
        for kind, raw in (("raw", True), ("WebP", False)):
            stored = _linked(files, home / kind, raw)
            shards, cached = (RandomScaleCrops(images) for images in (stored, cache))
            order = order_by_shards(np.random.default_rng(0), len(stored), 1, PER_SHARD, len(stored))
            turns = iter(order.reshape(BATCH, -1).T.ravel().tolist())
            again = iter(np.random.default_rng(0).integers(len(cached), size=len(order)).tolist())
            _times(shards, turns, 50), _times(cached, again, 50)
            before, times = _anonymous(), []
            memory = 0
            for _ in range(9):
                times.append((_times(shards, turns, 60), _times(cached, again, 60)))
                memory = max(memory, _anonymous() - before)
            on_disk = sum(size for _, size in stored.files) / 1e9
            sizes = f"{len(stored):,} sub-images, {on_disk:.1f} GB, {len(stored) * 3 * SIDE**2 / 1e9:.1f} GB decoded"
            found[kind] = (*map(list, zip(*times, strict=True)), memory, sizes)
    return found


def _linked(files: list[Path], out: Path, raw: bool) -> Shards:
    """Shards of some images, so many times over."""
    pack(files, out, Cut(SIDE, overlap=0, per_shard=PER_SHARD, raw=raw))
    index = json.loads((out / INDEX).read_text())
    chunks, index["chunks"] = index["chunks"], []
    for copy in range(COPIES):
        for chunk in chunks:
            name = f"{copy}-{chunk['filename']}"
            os.link(out / chunk["filename"], out / name)
            index["chunks"].append(chunk | {"filename": name})
    index["linf"]["sub_images"] *= COPIES
    (out / INDEX).write_text(json.dumps(index))
    return Shards(str(out))


def _times(crops: RandomScaleCrops, turns: Iterator[int], count: int) -> float:
    """Seconds a sample."""
    begun = time.perf_counter()
    for i in islice(turns, count):
        crops[i]
    return (time.perf_counter() - begun) / count


def _anonymous() -> int:
    """Bytes of this process's own memory, without pages of files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
