"""Data box of the figure: the files of each dataset, found by its usual layout and not yet read."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from linf.errors import UsageError
from linf.images.read import IMAGE_SUFFIXES

BUNDLED = {
    # The two motorcycles are a stereo pair and stay on one side of the split.
    "train": ("chelsea.png", "ihc.png", "motorcycle_left.png", "motorcycle_right.png", "rocket.jpg"),
    "heldout": ("astronaut.png", "coffee.png"),
}


@dataclass(frozen=True)
class ImageSet:
    """A dataset's files, not yet read.

    Attributes:
        name: the dataset's name in tables.
        hr: the HR images.
        lr: the given LR images of some scales, in the order of ``hr``.
    """

    name: str
    hr: tuple[Path, ...]
    lr: Mapping[float, tuple[Path, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.hr)


def bundled(split: Literal["train", "heldout"]) -> ImageSet:
    """Colour photographs inside the scikit-image wheel; no scene is in both splits.

    Raises:
        UsageError: the split is unknown, or the installed scikit-image lacks a photograph.
    """
    if split not in BUNDLED:
        raise UsageError(f"split {split!r} of the bundled images is unknown: choose 'train' or 'heldout'")
    spec = find_spec("skimage")
    home = Path(spec.origin).parent / "data" if spec is not None and spec.origin is not None else Path()
    paths = tuple(home / name for name in BUNDLED[split])
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise UsageError(
            f"bundled images {', '.join(missing)} are not in the installed scikit-image: reinstall it with "
            "pip, or set data.root to a folder of your own"
        )
    return ImageSet(f"bundled-{split}", paths)


def image_folder(root: str | Path, name: str | None = None) -> ImageSet:
    """All PNG, JPEG, WebP, BMP and TIFF files under ``root``, at any depth, sorted by path; named as the folder if not
    by ``name``.

    Raises:
        UsageError: there is no such folder, or no image in it.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise UsageError(f"no folder {root}: set data.root to a folder of images")
    files = _images_in(root.rglob("*"), root)
    if not files:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise UsageError(f"no image in {root}: put {suffixes} files there, at any depth")
    return ImageSet(name or root.resolve().name, files)


def div2k(root: str | Path, split: Literal["train", "valid"] = "train") -> ImageSet:
    """DIV2K as its archives unpack under ``root`` or ``root/DIV2K``; only ``valid`` has its given LR images.

    Raises:
        UsageError: the split is unknown, or its images are not there.
    """
    if split not in ("train", "valid"):
        raise UsageError(f"split {split!r} of DIV2K is unknown: choose 'train' or 'valid'")
    root = Path(root).expanduser()
    stem = f"DIV2K_{split}"
    homes = (root, root / "DIV2K")
    hr = _first_with_images(
        "DIV2K",
        [home / f"{stem}_HR" for home in homes],
        f"unpack {stem}_HR.zip to {root}/{stem}_HR/*.png",
    )
    bases = [home / f"{stem}_LR_bicubic" for home in homes]
    return ImageSet(f"div2k-{split}", hr, _given_lr(hr, bases) if split == "valid" else {})


def df2k(root: str | Path) -> ImageSet:
    """DF2K: the training images of DIV2K and all of Flickr2K, both under ``root``.

    Raises:
        UsageError: the images of either are not there.
    """
    root = Path(root).expanduser()
    flickr = _first_with_images(
        "Flickr2K",
        [root / "Flickr2K" / "Flickr2K_HR", root / "Flickr2K_HR"],
        f"unpack Flickr2K.tar to {root}/Flickr2K/Flickr2K_HR/*.png",
    )
    return ImageSet("df2k", div2k(root, "train").hr + flickr)


def benchmark(root: str | Path, name: str) -> ImageSet:
    """One of the benchmarks, such as Set5, Set14, B100, Urban100 or Manga109. HR images are looked for in
    ``root/name/HR``, ``root/name/GTmod12``, ``root/name/original`` and ``root/name`` itself (or the same under
    ``root/benchmark``), LR images of ×2 in ``root/name/LR_bicubic/X2``, ``root/name/LRbicx2``,
    ``root/name_LR_bicubic/X2`` and ``root/name_LR_matlab/X2``, under the name of the HR image with or without ``x2``.

    Raises:
        UsageError: there are no HR images, or LR and HR images do not match one to one.
    """
    root = Path(root).expanduser()
    homes = (root / name, root / "benchmark" / name)
    hr = _first_with_images(
        f"benchmark {name}",
        [home / inside for home in homes for inside in ("HR", "GTmod12", "original", "")],
        f"put them in {root}/{name}/HR/*.png, and given LR (if any) in {root}/{name}/LR_bicubic/X2/*x2.png",
    )
    bases = [home / inside for home in homes for inside in ("LR_bicubic", "LRbic")]
    bases += [home.with_name(f"{name}_LR_{kind}") for home in homes for kind in ("bicubic", "matlab")]
    return ImageSet(name, hr, _given_lr(hr, bases))


def benchmarks(root: str | Path, names: Sequence[str]) -> tuple[ImageSet, ...]:
    """Several benchmarks under one root, each found as by `benchmark`."""
    return tuple(benchmark(root, name) for name in names)


def _images_in(paths: Iterable[Path], root: Path) -> tuple[Path, ...]:
    # macOS leaves a '._name.jpg' beside each file it copies to a foreign volume.
    found = [
        p for p in paths if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".") and p.is_file()
    ]
    return tuple(sorted(found, key=lambda p: p.relative_to(root).as_posix()))


def _first_with_images(what: str, places: list[Path], layout: str) -> tuple[Path, ...]:
    for place in places:
        if place.is_dir() and (files := _images_in(place.iterdir(), place)):
            return files
    raise UsageError(f"{what}: no images in any of {', '.join(map(str, places))}: {layout}")


def _given_lr(hr: tuple[Path, ...], bases: list[Path]) -> dict[float, tuple[Path, ...]]:
    """Given LR images by scale, from ``base/X2``, ``base_X2`` or ``basex2``; the first base wins."""
    given: dict[float, tuple[Path, ...]] = {}
    for base in bases:
        siblings = base.parent.glob(f"{base.name}*") if base.parent.is_dir() else []
        for place in sorted([*(base.iterdir() if base.is_dir() else ()), *siblings]):
            prefix = "" if place.parent == base else re.escape(base.name) + "_?"
            match = re.fullmatch(rf"{prefix}[xX](\d+)", place.name)
            if not match or float(match[1]) in given:
                continue
            files = _images_in(place.iterdir(), place)
            by_name = {re.sub(rf"[xX]{match[1]}$", "", file.stem): file for file in files}
            unpaired_hr = [path.name for path in hr if path.stem not in by_name]
            unpaired_lr = [
                file.name for stem, file in by_name.items() if stem not in {path.stem for path in hr}
            ]
            if unpaired_hr or unpaired_lr:
                raise UsageError(
                    f"LR images in {place} do not match the HR images in {hr[0].parent} one to one: "
                    f"LR missing for {shorten(unpaired_hr)}, no HR for {shorten(unpaired_lr)}; complete or remove "
                    "that folder"
                )
            given[float(match[1])] = tuple(by_name[path.stem] for path in hr)
    return given


def shorten(names: Sequence[object], most: int = 5) -> str:
    """The first ``most`` names separated by commas, and the number of the others."""
    shown = ", ".join(map(str, names[:most])) or "none"
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
