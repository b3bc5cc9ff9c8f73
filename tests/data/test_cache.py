"""The cache of decoded images."""

import contextlib
import errno
import logging
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch

from helpers.images import one_line, write
from linf.data import decode
from linf.data.cache import ImageCache
from linf.errors import UsageError
from linf.files import atomic_write
from linf.images.read import read_image
from linf.machine import usable_cores
from linf.models.noise import noise_threads


def test_cache_gives_the_images_read_only(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{i}.png", 5 + i, 9) for i in range(3)]
    cache = ImageCache(paths, cache_dir=tmp_path / "cache")
    assert (len(cache), cache.paths, cache.shapes) == (3, tuple(paths), ((5, 9), (6, 9), (7, 9)))
    for path, pixels in zip(paths, cache, strict=True):
        assert np.array_equal(pixels, read_image(path))
        assert not pixels.flags.writeable
        assert not pixels.flags.owndata


def test_cache_pickles_without_its_pixels(tmp_path: Path) -> None:
    cache = ImageCache([write(tmp_path / "a.png", 200, 200)], cache_dir=tmp_path)
    first = cache[0]
    blob = pickle.dumps(cache)
    assert len(blob) < 2000
    assert np.array_equal(pickle.loads(blob)[0], first)


def test_cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.png")
    monkeypatch.setenv("LINF_CACHE", str(tmp_path / "env"))
    assert ImageCache([path]).file.parent == tmp_path / "env" / "images"
    monkeypatch.delenv("LINF_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert ImageCache([path]).file.parent == tmp_path / "home" / ".cache" / "linf" / "images"


def test_cache_is_reused_until_a_source_changes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png")
    first = ImageCache([path], cache_dir=tmp_path)
    inode = first.file.stat().st_ino
    assert ImageCache([path], min_side=2, cache_dir=tmp_path).file.stat().st_ino == inode
    write(path, 20, 20)
    os.utime(path, ns=(1, 1))
    second = ImageCache([path], cache_dir=tmp_path)
    assert second.file != first.file
    assert np.array_equal(second[0], read_image(path))


def test_dropped_images_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good, small = write(tmp_path / "good.png"), write(tmp_path / "small.png", 3, 30)
    broken = tmp_path / "broken.png"
    broken.write_bytes(good.read_bytes()[:-300])
    with caplog.at_level(logging.WARNING):
        cache = ImageCache([small, broken, good], min_side=4, cache_dir=tmp_path)
    assert cache.paths == (good,)
    assert np.array_equal(cache[0], read_image(good))
    assert "small.png has 3 x 30 pixels" in caplog.text
    assert "broken.png" in caplog.text
    assert len(caplog.records) == 2
    (tmp_path / "empty.png").touch()
    with pytest.raises(UsageError, match=r"broken\.png: .*, and 1 more that cannot be read: \S*empty\.png$"):
        ImageCache([broken, good, tmp_path / "empty.png"], on_error="raise", cache_dir=tmp_path)
    with pytest.raises(UsageError, match="none of 2 images"):
        ImageCache([small, broken], min_side=4, cache_dir=tmp_path)
    with pytest.raises(UsageError, match=r"none of 2 images can be read: \S*broken\.png: .* and 1 more$"):
        ImageCache([broken, tmp_path / "empty.png"], cache_dir=tmp_path)
    with pytest.raises(UsageError, match="choose 'skip' or 'raise'"):
        ImageCache([good], on_error="ignore", cache_dir=tmp_path)  # type: ignore[arg-type]


def test_what_could_not_be_read_is_tried_again_by_a_later_process(tmp_path: Path) -> None:
    good, other = write(tmp_path / "good.png"), write(tmp_path / "other.png")
    content, about = other.read_bytes(), other.stat()
    other.write_bytes(bytes(len(content)))
    os.utime(other, ns=(about.st_atime_ns, about.st_mtime_ns))
    paths = [other, good]
    first = ImageCache(paths, cache_dir=tmp_path)
    os.utime(first.file, (1, 1))  # As a former process left it.
    assert ImageCache(paths, cache_dir=tmp_path).file == first.file, "nothing more is readable"
    other.write_bytes(content)  # Of the same size and date, as where only memory or a decoder lacked.
    os.utime(other, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert ImageCache(paths, cache_dir=tmp_path).file == first.file, "all ranks of a run see the same"
    os.utime(first.file, (1, 1))
    again = ImageCache(paths, on_error="raise", cache_dir=tmp_path)
    assert np.array_equal(again[0], read_image(other))
    assert ImageCache(paths, cache_dir=tmp_path).file == again.file
    assert np.array_equal(first[0], read_image(good)), "a run that goes on reads what it found"


@pytest.mark.parametrize(
    "damage", [lambda c: c[:-5], lambda c: c[:-25] + b"\xff" + c[-24:], lambda c: c[-8:]]
)
def test_a_file_damaged_on_disk_is_rebuilt(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = write(tmp_path / "a.png")
    file = ImageCache([path], cache_dir=tmp_path).file
    file.write_bytes(damage(file.read_bytes()))
    assert np.array_equal(ImageCache([path], cache_dir=tmp_path)[0], read_image(path))


def test_a_full_disk_is_a_usage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.png", 100, 100)
    file = ImageCache([path], cache_dir=tmp_path).file
    file.unlink()
    monkeypatch.setattr("linf.files.secrets.token_hex", lambda size: "part")
    part = file.with_name(f".{file.name}.part")
    part.symlink_to("/dev/full")
    monkeypatch.setattr("linf.data.cache.clear", lambda file: None)
    with pytest.raises(
        UsageError, match=r"No space left on device; free some space, or .*LINF_CACHE"
    ) as error:
        ImageCache([path], cache_dir=tmp_path)
    one_line(error)
    assert not part.is_symlink()
    assert len(ImageCache([path], cache_dir=tmp_path)) == 1


def test_an_unwritable_cache_dir_is_a_usage_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot use the image cache"):
        ImageCache([path], cache_dir=tmp_path / "file")


BUILD = """
import logging, os, sys, time
from pathlib import Path
os.sched_getaffinity = lambda _: {0, 1}
from linf.data import cache
from linf.images import pixels
read = pixels.read_image
def counted(path):
    with open(sys.argv[2], "a") as tally:
        tally.write("x")
    time.sleep(float(sys.argv[3]))
    return read(path)
pixels.read_image = counted
images = cache.ImageCache(sorted(Path(sys.argv[1]).glob("*.png")), cache_dir=sys.argv[1])
print(images.file.stat().st_ino, sum(int(image.sum()) for image in images))
"""


def build(root: Path, delay: float) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", BUILD, str(root), str(root / "tally"), str(delay)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_concurrent_starters_decode_once(tmp_path: Path) -> None:
    for i in range(8):
        write(tmp_path / f"{i}.png")
    starters = [build(tmp_path, 0.05) for _ in range(4)]
    printed = {starter.communicate(timeout=60)[0] for starter in starters}
    assert len(printed) == 1
    assert all(starter.returncode == 0 for starter in starters)
    assert (tmp_path / "tally").read_text() == "x" * 8


def test_a_killed_build_harms_nobody(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{i}.png") for i in range(8)]
    starter = build(tmp_path, 0.3)
    deadline = time.monotonic() + 60
    while not (tmp_path / "tally").exists() or len((tmp_path / "tally").read_text()) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    starter.send_signal(signal.SIGKILL)
    starter.communicate(timeout=60)
    assert len(list((tmp_path / "images").glob(".*.pixels.*"))) == 1
    assert not list((tmp_path / "images").glob("*.pixels"))
    cache = ImageCache(paths, cache_dir=tmp_path)
    assert all(np.array_equal(cache[i], read_image(path)) for i, path in enumerate(paths))
    assert not list((tmp_path / "images").glob(".*.pixels.*"))


def test_several_processes_decode_what_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write(tmp_path / f"{i:02}.png", 5 + i, 9) for i in range(16)]
    paths[3].write_bytes(b"no image")
    seen, read = tmp_path / "seen", decode.read_image
    seen.mkdir()

    def noted(path: Path) -> np.ndarray:
        (seen / str(os.getpid())).touch()
        return read(path)

    monkeypatch.setattr("linf.images.pixels.read_image", noted)
    caches = []
    for cores in (1, 3):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, n=cores: set(range(n)))
        state = torch.random.get_rng_state()
        caches.append(ImageCache(paths, cache_dir=tmp_path / str(cores)))
        assert torch.equal(torch.random.get_rng_state(), state)
    assert len(list(seen.iterdir())) == 4
    one, three = caches
    assert one.paths == three.paths == tuple(paths[:3] + paths[4:])
    assert all(np.array_equal(a, b) for a, b in zip(one, three, strict=True))
    with pytest.raises(UsageError, match=r"03\.png.*it is no PNG"):
        ImageCache(paths, on_error="raise", cache_dir=tmp_path / "3")


def test_a_system_without_forks_and_affinity_decodes_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on macOS."""
    paths = [write(tmp_path / f"{i:02}.png", 5 + i, 9) for i in range(16)]
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(decode, "FORKS", False)
    cache = ImageCache(paths, cache_dir=tmp_path)
    assert all(np.array_equal(cache[i], read_image(path)) for i, path in enumerate(paths))
    assert (usable_cores(), noise_threads(torch.device("cuda"))) == (8, 8)


def test_a_full_disk_is_a_usage_error_with_several_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(
        "linf.data.cache.atomic_write", lambda file: contextlib.nullcontext(Path("/dev/full"))
    )
    with pytest.raises(UsageError, match="No space left on device; free some space") as error:
        ImageCache([write(tmp_path / f"{i}.png", 50, 50) for i in range(9)], cache_dir=tmp_path)
    one_line(error)


def test_full_shared_memory_is_not_called_a_full_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("multiprocessing.context.BaseContext.Lock", full)
    paths = [write(tmp_path / f"{i}.png") for i in range(8)]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    with pytest.raises(UsageError, match=r"^processes that load images cannot be .*/dev/shm.*fewer") as error:
        ImageCache(paths, cache_dir=tmp_path)
    one_line(error)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})  # As that message advises.
    assert len(ImageCache(paths, cache_dir=tmp_path)) == 8


def test_a_cache_that_is_not_used_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    home, write_to = tmp_path / "read-only", atomic_write

    def readonly(file: Path) -> contextlib.AbstractContextManager[Path]:
        if home in file.parents:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return write_to(file)

    monkeypatch.setattr("linf.data.cache.atomic_write", readonly)
    for name in ("a.png", "b.png"):
        ImageCache([write(tmp_path / name)], cache_dir=home)
    assert caplog.text.count("is not used (Read-only file system)") == 1


def test_a_killed_decoder_is_a_usage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(path: Path) -> np.ndarray:
        os.kill(os.getpid(), signal.SIGKILL)
        return np.empty(0)

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr("linf.images.pixels.read_image", killed)
    with pytest.raises(UsageError, match=r"a process that loads images was killed.*memory"):
        ImageCache([write(tmp_path / f"{i}.png") for i in range(8)], cache_dir=tmp_path)
    assert not list((tmp_path / "images").glob("*.pixels*"))


def test_decoding_tells_how_long_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(decode.time, "monotonic", lambda: next(clock))
    with caplog.at_level(logging.INFO):
        ImageCache([write(tmp_path / f"{i}.png") for i in range(3)], cache_dir=tmp_path)
    assert "decoded 1 of 3 images, 0:00:20 left" in caplog.text
    assert "decoded 2 of 3 images, 0:00:10 left" in caplog.text


def test_more_than_the_limit_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write(tmp_path / f"{i}.png", 100, 200) for i in range(5)]
    need = 5 * 100 * 200 * 3 / 1e9
    with pytest.raises(
        UsageError, match=r"5 images take 300\.0 kB decoded, above data\.cache_limit=0\.0002"
    ) as error:
        ImageCache(paths, cache_dir=tmp_path / "cache", limit=0.0002)
    assert "linf shard FOLDER OUT" in one_line(error)
    assert not list((tmp_path / "cache").rglob("*.pixels*"))
    assert len(ImageCache(paths, cache_dir=tmp_path / "cache", limit=need)) == 5
    # What is there already is used.
    assert len(ImageCache(paths, cache_dir=tmp_path / "cache", limit=0.0002)) == 5
    monkeypatch.setattr(shutil, "disk_usage", lambda _: mock.Mock(free=need * 1e9 / 2))
    with pytest.raises(UsageError, match=r"more than is free; 150\.0 kB are free .*; or free some space, or"):
        ImageCache(paths, cache_dir=tmp_path / "full")


def test_the_size_of_many_images_is_told_by_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, read = [tmp_path / f"{i}.png" for i in range(10_000)], []
    monkeypatch.setattr(decode, "header_size", lambda path: read.append(path) or (1000, 4000))
    with pytest.raises(UsageError, match=r"10000 images take 120\.0 GB decoded, above data\.cache_limit=100"):
        ImageCache(paths, cache_dir=tmp_path / "cache", limit=100)
    assert len(read) <= 600
