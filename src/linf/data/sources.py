"""Where images come from: finding a dataset's files, and reading any of them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from linf.errors import UsageError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
BUNDLED = {
    # motorcycle_left and motorcycle_right are one stereo pair, so both stay on one side of the split.
    "train": ("chelsea.png", "china.jpg", "motorcycle_left.png", "motorcycle_right.png", "rocket.jpg"),
    "heldout": ("astronaut.png", "coffee.png", "flower.jpg"),
}


def read_image(path: str | Path) -> np.ndarray:
    """An image as a viewer would show it: upright, over white, its first frame.

    Grey of 16 bits is scaled to 8, not clipped.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        UsageError: the file is missing, truncated, too large to be trusted, or no image.
    """
    try:
        with Image.open(path) as file:
            return np.array(_rgb(ImageOps.exif_transpose(file)))
    except Exception as error:  # Pillow's decoders answer broken files with anything, IndexError included.
        reason = " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())
        raise UsageError(f"cannot read image {path}: {reason}; replace or remove the file") from error


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
class ImageSet:
    """A dataset's files, not yet read.

    Attributes:
        name: what tables call it.
        hr: the images.
        lr: for some scales, the given LR image of each of `hr`, in the same order.
    """

    name: str
    hr: tuple[Path, ...]
    lr: Mapping[float, tuple[Path, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.hr)


def bundled(split: Literal["train", "heldout"]) -> ImageSet:
    """The colour photographs inside the scikit-image and scikit-learn wheels; no image is in both."""
    if split not in BUNDLED:
        raise UsageError(f"split {split!r} of the bundled images is unknown: choose 'train' or 'heldout'")
    homes = []
    for package, inside in (("skimage", "data"), ("sklearn", "datasets/images")):
        spec = find_spec(package)
        if spec is not None and spec.origin is not None:
            homes.append(Path(spec.origin).parent / inside)
    found = {name: [home / name for home in homes if (home / name).is_file()] for name in BUNDLED[split]}
    missing = [name for name, paths in found.items() if not paths]
    if missing:
        raise UsageError(
            f"bundled images {', '.join(missing)} are not in the installed scikit-image and scikit-learn: "
            "reinstall both with pip, or set data.root to a folder of your own"
        )
    return ImageSet(f"bundled-{split}", tuple(paths[0] for paths in found.values()))


def folder(root: str | Path, name: str | None = None) -> ImageSet:
    """All PNG, JPEG, WebP, BMP and TIFF files under ``root``, however deep, sorted by path."""
    root = Path(root).expanduser()
    if not root.is_dir():
        raise UsageError(f"no folder {root}: set data.root to a folder of images")
    files = _images_in(root.rglob("*"), root)
    if not files:
        raise UsageError(f"no image in {root}: put {', '.join(sorted(SUFFIXES))} files there, at any depth")
    return ImageSet(name or root.resolve().name, files)


def div2k(root: str | Path, split: Literal["train", "valid"] = "train") -> ImageSet:
    """DIV2K as its archives unpack under ``root`` or ``root/DIV2K``; given LR images for ``valid`` only."""
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
    """DF2K: the training images of DIV2K and all of Flickr2K, both under ``root``."""
    root = Path(root).expanduser()
    flickr = _first_with_images(
        "Flickr2K",
        [root / "Flickr2K" / "Flickr2K_HR", root / "Flickr2K_HR"],
        f"unpack Flickr2K.tar to {root}/Flickr2K/Flickr2K_HR/*.png",
    )
    return ImageSet("df2k", div2k(root, "train").hr + flickr)


def benchmark(root: str | Path, name: str) -> ImageSet:
    """A benchmark such as Set5, Set14, B100, Urban100 or Manga109.

    HR lies in ``root/name/HR``, ``root/name/GTmod12``, ``root/name/original`` or ``root/name`` itself (or the
    same under ``root/benchmark``); LR, where given, in ``root/name/LR_bicubic/X2``, ``root/name/LRbicx2``,
    ``root/name_LR_bicubic/X2`` or ``root/name_LR_matlab/X2``, named as the HR with or without ``x2``.
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
    """Several of `benchmark`, under one root."""
    return tuple(benchmark(root, name) for name in names)


def _images_in(paths: Iterable[Path], root: Path) -> tuple[Path, ...]:
    # A Mac leaves a '._name.jpg' beside each file it copies.
    found = [p for p in paths if p.suffix.lower() in SUFFIXES and not p.name.startswith(".") and p.is_file()]
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
            lacking = [path.name for path in hr if path.stem not in by_name]
            stray = [file.name for stem, file in by_name.items() if stem not in {path.stem for path in hr}]
            if lacking or stray:
                raise UsageError(
                    f"LR images in {place} do not match the HR images in {hr[0].parent} one to one: LR "
                    f"missing for {some(lacking)}, no HR for {some(stray)}; complete or remove that folder"
                )
            given[float(match[1])] = tuple(by_name[path.stem] for path in hr)
    return given


def some(names: Sequence[object], most: int = 5) -> str:
    shown = ", ".join(map(str, names[:most])) or "none"
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
