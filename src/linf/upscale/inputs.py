"""The inputs of `linf upscale`: the images, their output size, and the folders of their outputs."""

import glob
import math
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from linf.coordinates import Scale, axis_scales, read_scale
from linf.errors import UsageError
from linf.images.find import SYSTEM_FOLDERS, find_images
from linf.images.read import IMAGE_SUFFIXES
from linf.images.write import FORMAT_BY_SUFFIX

PIPE = Path("-")
LARGEST = 1000.0
"""The largest scale; a larger one is more likely a typing error than intended."""


OUTPUT = re.compile(r"(.+)_(?:x[\d.]+(?:x[\d.]+)?|\d+x\d+)(?:_\d+|_uncertainty)?")
"""The stem of an output's name, after that of its input."""


class Input(NamedTuple):
    """One image to enlarge."""

    path: Path
    folder: Path
    """The folder of its outputs, unless ``--out`` names a file."""


class Size(NamedTuple):
    """The output size of ``--scale`` or ``--size``."""

    scale: Scale | None = None
    width: int | None = None
    height: int | None = None

    def of(self, height: int, width: int) -> tuple[int, int]:
        """Return the output size (H, W) of an image of size (h, w).

        Raises:
            UsageError: The output would be smaller than the image, or larger by more than `LARGEST`.
        """
        if self.scale is not None:
            tall, wide = axis_scales(self.scale)
            return round(tall * height), round(wide * width)
        tall = self.height or round((self.width or 0) * height / width)
        wide = self.width or round((self.height or 0) * width / height)
        if tall < height or wide < width or max(tall / height, wide / width) > LARGEST:
            raise UsageError(
                f"it has {width}×{height} pixels, and {wide}×{tall} are asked for: a side may grow 1 to {LARGEST:g} "
                "times"
            )
        return tall, wide

    def suffix(self, size: tuple[int, int] | None = None) -> str:
        """Return the suffix of an output's name, given its size (H, W), or of a folder's."""
        tall, wide = size or (self.height or "", self.width or "")
        return f"x{self.scale:g}" if self.scale is not None else f"{wide}x{tall}"


def parse_size(scale: float | str | None, size: str | None) -> Size:
    """Return the size that ``--scale`` or ``--size`` gives; raise UsageError if it is out of range."""
    if size is None:
        try:
            read = read_scale("" if scale is None else scale)
        except ValueError:
            read = math.nan
        if not all(1 <= factor <= LARGEST for factor in axis_scales(read)):
            raise UsageError(
                f"--scale {scale} is not a number from 1 to {LARGEST:g}, or two of them, vertical first, as in 2x3"
            )
        return Size(scale=read)
    sides = re.fullmatch(r"(\d{0,9})[x×](\d{0,9})", size.strip().lower())
    wide, tall = (int(side) if side else None for side in sides.groups()) if sides else (0, 0)
    if wide == 0 or tall == 0 or (wide is None and tall is None):
        raise UsageError(
            f"--size {size} is not a size: give 4096x (the width), x2160 (the height) or 4096x2160, 1 pixel or more"
        )
    return Size(width=wide, height=tall)


def planned(inputs: Sequence[str], out: str | None, size: Size) -> tuple[list[Input], Path | None]:
    """Return the images in order, each once, and the output file if ``--out`` names one.

    Raises:
        UsageError: There is no image, or ``--out`` does not fit the number of images.
    """
    if "-" in inputs:
        if len(inputs) > 1:
            raise UsageError("- is stdin, one image: give it alone")
        target = PIPE if out is None else Path(out)
        folder = target.is_dir() or (target != PIPE and target.suffix.lower() not in FORMAT_BY_SUFFIX)
        return [Input(PIPE, target if folder else Path())], None if folder else target
    found: dict[Path, Input] = {}
    for word in inputs:
        for image in _named(word, out, size):
            found.setdefault(image.path.resolve(), image)
    if not found:
        raise UsageError(
            f"no image in {', '.join(inputs)}: {', '.join(sorted(IMAGE_SUFFIXES))} are looked for"
        )
    if out is None or Path(out).is_dir() or out.endswith("/"):
        return list(found.values()), None
    single = len(found) == 1 and not any(Path(word).is_dir() for word in inputs)
    if out == "-" or Path(out).suffix.lower() in FORMAT_BY_SUFFIX:
        if not single:
            raise UsageError(f"--out {out} is one file, and {len(found)} images are given: give a folder")
        return list(found.values()), Path(out)
    if Path(out).is_file() or (Path(out).suffix and single):
        raise UsageError(
            f"--out {out} is neither a folder nor a file with one of {', '.join(FORMAT_BY_SUFFIX)}"
        )
    return list(found.values()), None


def _named(word: str, out: str | None, size: Size) -> Iterator[Input]:
    """Yield the images of a file, a folder or a pattern."""
    path = Path(word)
    if path.is_dir():
        if out is None:  # By default photos_x3.7 beside photos.
            home = path.resolve()
            out = f"{home.parent / home.name}_{size.suffix()}"
        yield from _walk(path, Path(out))
        return
    if path.exists() and not path.is_file():  # To open a named pipe may wait for ever.
        raise UsageError(
            f"{word} is neither a file nor a folder: `linf upscale -` reads an image from a pipe"
        )
    for file in [path] if path.exists() else _matches(word):
        yield Input(file, Path(out) if out is not None else file.parent)


def _matches(pattern: str) -> list[Path]:
    """Return the files that match a pattern, without those in system folders."""
    if not glob.has_magic(pattern):
        raise UsageError(f"there is no file or folder {pattern}")
    paths = [path for path in map(Path, sorted(glob.glob(pattern, recursive=True))) if path.is_file()]
    if not paths:
        raise UsageError(f"no file matches {pattern}")
    if hidden := [path for path in paths if _in_system_folder(path, pattern)]:
        print(f"note: {pattern}: left out: {len(hidden)} in system folders", file=sys.stderr)
    return [path for path in paths if path not in hidden]


def _walk(folder: Path, root: Path) -> Iterator[Input]:
    """Yield all images in a folder and its subfolders, except outputs of an earlier call."""
    out, home, found = root.resolve(), folder.resolve(), find_images(folder)
    if found.note:
        print(f"note: {folder}: {found.note}", file=sys.stderr)
    paths = found.paths
    if out == home:  # With outputs beside their inputs, the second call finds those of the first.
        inputs = {path.with_suffix("") for path in paths}
        stems = {path: OUTPUT.fullmatch(path.stem) for path in paths}
        paths = [path for path, stem in stems.items() if not stem or path.with_name(stem[1]) not in inputs]
        if left := len(found.paths) - len(paths):
            print(f"note: {folder}: left out: {left} named as outputs of an earlier call", file=sys.stderr)
    apart = [path for path in paths if not (home in out.parents and out in path.resolve().parents)]
    if left := len(paths) - len(apart):
        print(f"note: {folder}: left out: {left} in {root}, the folder of the outputs", file=sys.stderr)
    for path in apart:
        yield Input(path, root / path.relative_to(folder).parent)


def _in_system_folder(path: Path, pattern: str) -> bool:
    """Whether a match of a pattern lies in one of `SYSTEM_FOLDERS` that the pattern does not name."""
    named = set(Path(pattern).parts)
    return any(part.lower() in SYSTEM_FOLDERS and part not in named for part in path.parts)
