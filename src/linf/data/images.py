"""Where pictures come from: reading a file, finding a dataset's files, one decoded copy for all workers."""

import fcntl
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from PIL import Image, ImageOps

from linf.errors import UsageError

log = logging.getLogger(__name__)

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
BUNDLED = {
    # motorcycle_left and motorcycle_right are one stereo pair, so both stay on one side of the split.
    "train": ("chelsea.png", "china.jpg", "motorcycle_left.png", "motorcycle_right.png", "rocket.jpg"),
    "heldout": ("astronaut.png", "coffee.png", "flower.jpg"),
}


def read_image(path: str | Path) -> np.ndarray:
    """A picture as a viewer would show it: upright, over white, its first frame.

    Grey of 16 bits is scaled to 8, not clipped.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        UsageError: the file is missing, truncated, too large to be trusted, or no picture.
    """
    try:
        with Image.open(path) as file:
            return np.array(_rgb(ImageOps.exif_transpose(file)))
    except Exception as error:  # Pillow's decoders answer broken files with anything, IndexError included.
        reason = " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())
        raise UsageError(f"cannot read picture {path}: {reason}; replace or remove the file") from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("pixels are 32-bit floats, whose white is not defined; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        grey = np.rint(np.asarray(image, np.float64) / 257).clip(0, 255)
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


@dataclass(frozen=True)
class Pictures:
    """A dataset's files, not yet read.

    Attributes:
        name: what tables call it.
        hr: the pictures.
        lr: for some scales, the given LR picture of each of `hr`, in the same order.
    """

    name: str
    hr: tuple[Path, ...]
    lr: Mapping[float, tuple[Path, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.hr)


def bundled(split: Literal["train", "heldout"]) -> Pictures:
    """The colour photographs inside the scikit-image and scikit-learn wheels; no picture is in both."""
    if split not in BUNDLED:
        raise UsageError(f"split {split!r} of the bundled pictures is unknown: choose 'train' or 'heldout'")
    homes = []
    for package, inside in (("skimage", "data"), ("sklearn", "datasets/images")):
        spec = find_spec(package)
        if spec is not None and spec.origin is not None:
            homes.append(Path(spec.origin).parent / inside)
    found = {name: [home / name for home in homes if (home / name).is_file()] for name in BUNDLED[split]}
    missing = [name for name, paths in found.items() if not paths]
    if missing:
        raise UsageError(
            f"bundled pictures {', '.join(missing)} are not in the installed scikit-image and scikit-learn: "
            "reinstall both with pip, or set data.root to a folder of your own"
        )
    return Pictures(f"bundled-{split}", tuple(paths[0] for paths in found.values()))


def folder(root: str | Path, name: str | None = None) -> Pictures:
    """All PNG, JPEG, WebP, BMP and TIFF files under ``root``, however deep, sorted by path."""
    root = Path(root).expanduser()
    if not root.is_dir():
        raise UsageError(f"no folder {root}: set data.root to a folder of pictures")
    files = _pictures_in(root.rglob("*"), root)
    if not files:
        raise UsageError(f"no picture in {root}: put {', '.join(sorted(SUFFIXES))} files there, at any depth")
    return Pictures(name or root.resolve().name, files)


def div2k(root: str | Path, split: Literal["train", "valid"] = "train") -> Pictures:
    """DIV2K as its archives unpack under ``root`` or ``root/DIV2K``; given LR pictures for ``valid`` only."""
    if split not in ("train", "valid"):
        raise UsageError(f"split {split!r} of DIV2K is unknown: choose 'train' or 'valid'")
    root = Path(root).expanduser()
    stem = f"DIV2K_{split}"
    homes = (root, root / "DIV2K")
    hr = _first_with_pictures(
        "DIV2K",
        [home / f"{stem}_HR" for home in homes],
        f"unpack {stem}_HR.zip to {root}/{stem}_HR/*.png",
    )
    bases = [home / f"{stem}_LR_bicubic" for home in homes]
    return Pictures(f"div2k-{split}", hr, _given_lr(hr, bases) if split == "valid" else {})


def df2k(root: str | Path) -> Pictures:
    """DF2K: the training pictures of DIV2K and all of Flickr2K, both under ``root``."""
    root = Path(root).expanduser()
    flickr = _first_with_pictures(
        "Flickr2K",
        [root / "Flickr2K" / "Flickr2K_HR", root / "Flickr2K_HR"],
        f"unpack Flickr2K.tar to {root}/Flickr2K/Flickr2K_HR/*.png",
    )
    return Pictures("df2k", div2k(root, "train").hr + flickr)


def benchmark(root: str | Path, name: str) -> Pictures:
    """A benchmark such as Set5, Set14, B100, Urban100 or Manga109.

    HR lies in ``root/name/HR``, ``root/name/GTmod12``, ``root/name/original`` or ``root/name`` itself (or the
    same under ``root/benchmark``); LR, where given, in ``root/name/LR_bicubic/X2``, ``root/name/LRbicx2``,
    ``root/name_LR_bicubic/X2`` or ``root/name_LR_matlab/X2``, named as the HR with or without ``x2``.
    """
    root = Path(root).expanduser()
    homes = (root / name, root / "benchmark" / name)
    hr = _first_with_pictures(
        f"benchmark {name}",
        [home / inside for home in homes for inside in ("HR", "GTmod12", "original", "")],
        f"put them in {root}/{name}/HR/*.png, and given LR (if any) in {root}/{name}/LR_bicubic/X2/*x2.png",
    )
    bases = [home / inside for home in homes for inside in ("LR_bicubic", "LRbic")]
    bases += [home.with_name(f"{name}_LR_{kind}") for home in homes for kind in ("bicubic", "matlab")]
    return Pictures(name, hr, _given_lr(hr, bases))


def benchmarks(root: str | Path, names: Sequence[str]) -> tuple[Pictures, ...]:
    """Several of `benchmark`, under one root."""
    return tuple(benchmark(root, name) for name in names)


def _pictures_in(paths: Iterable[Path], root: Path) -> tuple[Path, ...]:
    # A Mac leaves a '._name.jpg' beside each file it copies.
    found = [p for p in paths if p.suffix.lower() in SUFFIXES and not p.name.startswith(".") and p.is_file()]
    return tuple(sorted(found, key=lambda p: p.relative_to(root).as_posix()))


def _first_with_pictures(what: str, places: list[Path], layout: str) -> tuple[Path, ...]:
    for place in places:
        if place.is_dir() and (files := _pictures_in(place.iterdir(), place)):
            return files
    raise UsageError(f"{what}: no pictures in any of {', '.join(map(str, places))}: {layout}")


def _given_lr(hr: tuple[Path, ...], bases: list[Path]) -> dict[float, tuple[Path, ...]]:
    """Given LR pictures by scale, from ``base/X2``, ``base_X2`` or ``basex2``; the first base wins."""
    given: dict[float, tuple[Path, ...]] = {}
    for base in bases:
        siblings = base.parent.glob(f"{base.name}*") if base.parent.is_dir() else []
        for place in sorted([*(base.iterdir() if base.is_dir() else ()), *siblings]):
            prefix = "" if place.parent == base else re.escape(base.name) + "_?"
            match = re.fullmatch(rf"{prefix}[xX](\d+)", place.name)
            if not match or float(match[1]) in given:
                continue
            files = _pictures_in(place.iterdir(), place)
            by_name = {re.sub(rf"[xX]{match[1]}$", "", file.stem): file for file in files}
            lacking = [path.name for path in hr if path.stem not in by_name]
            stray = [file.name for stem, file in by_name.items() if stem not in {path.stem for path in hr}]
            if lacking or stray:
                raise UsageError(
                    f"LR pictures in {place} do not match the HR pictures in {hr[0].parent} one to one: LR "
                    f"missing for {_some(lacking)}, no HR for {_some(stray)}; complete or remove that folder"
                )
            given[float(match[1])] = tuple(by_name[path.stem] for path in hr)
    return given


def _some(names: Sequence[object], most: int = 5) -> str:
    shown = ", ".join(map(str, names[:most])) or "none"
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


class ImageCache:
    """Pictures decoded once into one memory-mapped file, which all workers and ranks share.

    The first process to need it builds it while the others wait; a killed build leaves nothing that is used.
    A change in any source's path, size or date makes another file.

    Args:
        paths: picture files.
        min_side: pictures with a shorter side are dropped, with a warning that names each.
        on_error: what to do about unreadable pictures: ``skip`` drops them with a warning that names each,
            ``raise`` fails.
        cache_dir: default ``$LINF_CACHE``, or else ``~/.cache/linf``.

    Attributes:
        paths: the pictures kept.
        shapes: their (H, W).

    Raises:
        UsageError: no picture is left, the cache cannot be written (a full disk), or ``on_error`` says so.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        *,
        min_side: int = 1,
        on_error: Literal["skip", "raise"] = "skip",
        cache_dir: str | Path | None = None,
    ) -> None:
        if on_error not in ("skip", "raise"):
            raise UsageError(f"on_error is {on_error!r}: choose 'skip' or 'raise'")
        sources = [Path(os.path.abspath(path)) for path in paths]
        home = Path(cache_dir or os.environ.get("LINF_CACHE") or "~/.cache/linf").expanduser() / "pictures"
        self.file = home / f"{_key(sources)}.pixels"
        kept: list[tuple[Path, int, int, int]] = []
        for path, entry in zip(sources, _built_index(sources, self.file), strict=True):
            if isinstance(entry, str):
                if on_error == "raise":
                    raise UsageError(entry)
                log.warning("dropped: %s", entry)
            elif min(entry[1:]) < min_side:
                log.warning("dropped: %s has %d x %d pixels, below %d a side", path, *entry[1:], min_side)
            else:
                kept.append((path, *entry))
        if not kept:
            raise UsageError(
                f"none of {len(sources)} pictures ({_some(sources, 1)}) is readable and at least {min_side} "
                "pixels a side: give larger pictures, a smaller crop or a smaller scale"
            )
        self.paths = tuple(path for path, *_ in kept)
        self.shapes = tuple((height, width) for *_, height, width in kept)
        self._offsets = tuple(offset for _, offset, *_ in kept)
        self._pixels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        """Picture ``index`` as a read-only (H, W, 3) uint8 view of the file."""
        if self._pixels is None:
            self._pixels = np.memmap(self.file, np.uint8, "r")
        height, width = self.shapes[index]
        start = self._offsets[index]
        return np.asarray(self._pixels[start : start + height * width * 3]).reshape(height, width, 3)

    def __getstate__(self) -> dict[str, Any]:
        # A pickled memmap would carry all its pixels to each worker.
        return self.__dict__ | {"_pixels": None}


# The cache file: pixels of all pictures, then the index as JSON, its length in 8 bytes, and this mark.
MARK = b"LINFPIX1"
Entry = tuple[int, int, int] | str
"""Where a picture's pixels begin, its height and its width; or why it could not be read."""


def _key(sources: Sequence[Path]) -> str:
    digest = hashlib.sha256(MARK)
    for path in sources:
        try:
            stat = path.stat()
            state = (stat.st_size, stat.st_mtime_ns, os.access(path, os.R_OK))
        except OSError:
            state = (-1, -1, False)
        digest.update(repr((os.fspath(path), *state)).encode())
    return digest.hexdigest()[:32]


def _built_index(sources: Sequence[Path], file: Path) -> list[Entry]:
    part = file.with_suffix(".part")
    try:
        if (index := _read_index(file)) is not None:
            return index
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if (index := _read_index(file)) is None:
                try:
                    with open(part, "wb") as out:
                        index = _write_pixels(sources, out)
                    os.replace(part, file)
                finally:
                    part.unlink(missing_ok=True)
            return index
    except OSError as error:
        raise UsageError(
            f"cannot use the picture cache {file.parent}: {error.strerror or error}; free some space, or "
            "choose another folder with data.cache_dir or the environment variable LINF_CACHE"
        ) from error


def _write_pixels(sources: Sequence[Path], out: BinaryIO) -> list[Entry]:
    index: list[Entry] = []
    offset, told = 0, time.monotonic()
    for path in sources:
        try:
            image = read_image(path)
        except UsageError as error:
            index.append(str(error))
            continue
        out.write(image.data)
        index.append((offset, *image.shape[:2]))
        offset += image.nbytes
        if time.monotonic() - told > 5:
            told = time.monotonic()
            log.info("decoded %d of %d pictures (%.1f GB)", len(index), len(sources), offset / 1e9)
    text = json.dumps(index).encode()
    out.write(text + len(text).to_bytes(8, "little") + MARK)
    out.flush()
    os.fsync(out.fileno())
    return index


def _read_index(file: Path) -> list[Entry] | None:
    tail = 8 + len(MARK)
    if not file.is_file() or file.stat().st_size < tail:
        return None
    with open(file, "rb") as source:
        source.seek(-tail, os.SEEK_END)
        length, mark = int.from_bytes(source.read(8), "little"), source.read()
        if mark != MARK:
            return None
        source.seek(-tail - length, os.SEEK_END)
        return [
            entry if isinstance(entry, str) else tuple(entry) for entry in json.loads(source.read(length))
        ]
