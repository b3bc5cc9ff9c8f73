"""Data box of the figure: the files of each dataset, found by its usual layout and not yet read."""

import functools
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path, PurePath
from typing import Literal

from linf.data.layouts import ImageSet, arrange
from linf.data.marks import read_marks, read_member
from linf.errors import UsageError, shorten
from linf.images.find import find_images, left_out_by_rule
from linf.images.read import IMAGE_SUFFIXES

log = logging.getLogger(__name__)

BUNDLED = {
    # The two motorcycles are a stereo pair and stay on one side of the split.
    "train": ("chelsea.png", "ihc.png", "motorcycle_left.png", "motorcycle_right.png", "rocket.jpg"),
    "heldout": ("astronaut.png", "coffee.png"),
}

PASSING = {
    "benchmark",
    "benchmarks",
    "srbenchmark",
    "data",
    "dataset",
    "datasets",
    "test",
    "testset",
    "testsets",
    "val",
}
"""Folders, in lower case, that lie between a root and the datasets known by their names."""


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


Roots = str | Path | Sequence[str | Path]
"""A dataset's folder, or several; ``~`` is the user's home."""


def image_folder(root: Roots, name: str | None = None, degradation: str = "bicubic") -> ImageSet:
    """All images under ``root`` at any depth, sorted by path, or all HR images where given LR images are among them or
    in folders beside ``root``: see `linf.data.marks` for the names by which they are told apart. Links are followed;
    an image is counted once.

    Args:
        root: a folder, or several.
        name: the dataset's name, by default the folder's.
        degradation: of the given LR images to use.

    Raises:
        UsageError: there is no such folder, no image in it, or no given LR image of another degradation than bicubic.
    """
    roots = _folders(root)
    if missing := [path for path in roots if not path.is_dir()]:
        raise UsageError(f"no folder {', '.join(map(str, missing))}: set data.root to a folder of images")
    starts: dict[Path, Path] = {}  # The folders to search, and those that names count from.
    for path in roots:
        beside = _lr_beside(path)
        start = path.absolute().parent if beside else path
        starts |= dict.fromkeys((path.absolute() if beside else path, *beside), start)
    members = []
    for image in _found(*starts):
        start = next(start for folder, start in starts.items() if image.is_relative_to(folder))
        member = read_member(image, start)
        # Homes of the same name in several roots are several.
        members.append(replace(member, home=(str(start), *member.home)) if len(roots) > 1 else member)
    if not members:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise UsageError(
            f"no image in {', '.join(map(str, roots))}: put {suffixes} files there, at any depth"
        )
    name = name or "+".join(dict.fromkeys(path.resolve().name for path in roots))
    images = _log_notes(arrange(name, members, degradation))
    if len(images) < len(members):
        lr = sum(map(len, images.lr.values()))
        scales = f"{len(images.lr)} scale{'s' * (len(images.lr) != 1)}"
        counts = f"{len(images)} HR images, and {lr} given LR images of {scales}"
        _log_once(logging.INFO, f"{name}: {counts}")
    return images


def div2k(root: Roots, split: Literal["train", "valid"] = "train", degradation: str = "bicubic") -> ImageSet:
    """DIV2K as its archives unpack under ``root`` or ``root/DIV2K``.

    Raises:
        UsageError: the split is unknown, or its images are not there.
    """
    if split not in ("train", "valid"):
        raise UsageError(f"split {split!r} of DIV2K is unknown: choose 'train' or 'valid'")
    stem = f"DIV2K_{split}"
    layout = f"unpack {stem}_HR.zip to {_folders(root)[0]}/{stem}_HR/*.png"
    found, notes = _dataset(root, stem, f"DIV2K: no images in any {stem}_HR", layout, degradation)
    found = replace(found, name=f"div2k-{split}")
    # Most trainings make their own LR, for which these notes would be noise.
    return found if split == "train" else _log_notes((found, notes))


def df2k(root: Roots) -> ImageSet:
    """DF2K: the training images of DIV2K and all of Flickr2K, both under ``root``.

    Raises:
        UsageError: the images of either are not there.
    """
    layout = f"unpack Flickr2K.tar to {_folders(root)[0]}/Flickr2K/Flickr2K_HR/*.png"
    flickr, _ = _dataset(root, "Flickr2K", "Flickr2K: no images in any Flickr2K_HR", layout)
    return ImageSet("df2k", div2k(root, "train").hr + flickr.hr)


def benchmark(root: Roots, name: str, degradation: str = "bicubic") -> ImageSet:
    """One of the benchmarks, such as Set5, Set14, B100, Urban100 or Manga109, in any of the field's layouts: HR images
    in ``root/name/HR``, ``root/name/GTmod12``, ``root/name/original``, ``root/name``, ``root/HR/name/x2`` …, LR images
    of ×2 in ``root/name/LR_bicubic/X2``, ``root/name/LRbicx2``, ``root/name_LR/x2``, ``root/LR/LRBI/name/x2`` …, under
    the name of the HR image with or without ``x2``; all this in ``root`` or in ``root/benchmark``.

    Args:
        root: a folder, or several, of which the first that holds the benchmark counts.
        name: its name, or its path below ``root``, such as ``sr/Set5``.
        degradation: of the given LR images to use.

    Raises:
        UsageError: there are no HR images.
    """
    at = _folders(root)[0]
    layout = f"put them in {at}/{name}/HR/*.png, and given LR (if any) in {at}/{name}/LR_bicubic/X2/*x2.png"
    return _log_notes(_dataset(root, name, f"benchmark {name}: no images", layout, degradation))


def benchmarks(root: Roots, names: Sequence[str], degradation: str = "bicubic") -> tuple[ImageSet, ...]:
    """Several benchmarks, each found as by `benchmark`."""
    return tuple(benchmark(root, name, degradation) for name in names)


def _folders(root: Roots) -> list[Path]:
    roots = [root] if isinstance(root, str | Path) else list(root)
    if not roots or not all(isinstance(each, str | Path) for each in roots):
        raise UsageError(f"data.root is {root}: give a folder, or several as in 'data.root=[A,B]'")
    return [Path(os.path.expanduser(each)) for each in roots]


def _found(folder: Path, *others: Path) -> list[Path]:
    found = find_images(folder, *others)
    if found.note:
        _log_once(logging.INFO, f"{folder}: {found.note}")
    return found.paths


def _log_notes(arranged: tuple[ImageSet, list[str]]) -> ImageSet:
    """Log the notes of `arrange`, and return its images."""
    images, notes = arranged
    for note in notes:
        _log_once(logging.WARNING, note)
    return images


@functools.cache
def _log_once(level: int, text: str) -> None:
    """Several datasets of a run often share a folder."""
    log.log(level, "%s", text)


def _lr_beside(folder: Path) -> list[Path]:
    """Folders of given LR images beside a folder of HR images, such as ``LR_bicubic`` beside ``HR``."""
    folder = folder.absolute()
    own = read_marks(folder.name)
    marks = {} if own.role == "LR" else {path: read_marks(path.name) for path in _subfolders(folder.parent)}
    return [path for path, mark in marks.items() if mark.role == "LR" and mark.rest == own.rest]


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not left_out_by_rule(path.name) and path.is_dir())
    except OSError:
        return []


def _dataset(
    root: Roots, name: str, missing: str, layout: str, degradation: str = "bicubic"
) -> tuple[ImageSet, list[str]]:
    """A dataset that is known by its name, in the first root that holds HR images of it."""
    roots, path = _folders(root), PurePath(name)
    while len(path.parts) > 1 and not read_marks(path.name).rest:  # Set5/HR is Set5.
        path = path.parent
    words = {path.name.lower(), *PASSING, *path.name.lower().split("_")[:-1]}
    for start in (folder / path.parent for folder in roots):
        at = start.absolute()
        while at.name and not read_marks(at.name).rest:
            at = at.parent
        if read_marks(at.name).rest.lower() == path.name.lower():  # The root is a folder of the dataset.
            start = at.parent
        homes = _homes(start, path.name.lower(), words)
        members = [read_member(image, start, words) for image in (_found(*homes) if homes else ())]
        found = arrange(path.name, members, degradation, named=True)
        if found[0].hr:
            return found
    there = sorted({each.name for folder in roots for each in _subfolders(folder)})
    places = ", ".join(map(str, roots))
    raise UsageError(f"{missing} under {places}, where there are {shorten(there, 10)}: {layout}")


def _homes(start: Path, name: str, words: set[str]) -> list[Path]:
    """The folders at or near ``start`` that hold parts of a dataset: ``Set5``, ``benchmark/Set5_LR``, ``HR/Set5`` …"""
    homes, level = list[Path](), [start]
    for _ in range(4):
        below = [path for folder in level for path in _subfolders(folder)]
        rests = {path: read_marks(path.name).rest.lower() for path in below}
        homes += [path for path in below if rests[path] == name]
        level = [path for path in below if rests[path] != name and (not rests[path] or rests[path] in words)]
    return homes
