"""Image files and pipes through a model, one image after another."""

import errno
import io
import logging
import math
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np
from rich.filesize import decimal
from tqdm import tqdm

from linf.errors import UsageError, find_mistake, message
from linf.files import atomic_write
from linf.images.photo import Photo
from linf.images.pixels import ranged_photo, read_values
from linf.images.read import header_size
from linf.images.write import (
    FORMAT_BY_SUFFIX,
    LONGEST,
    check_format,
    conversion_notes,
    enlarged_alpha,
    write_photo,
)
from linf.machine import is_shortage
from linf.models.super_resolver import SuperResolver
from linf.upscale.enlarge import Ask, enlarge
from linf.upscale.guard import tempered
from linf.upscale.heat_map import heat_map
from linf.upscale.inputs import PIPE, Input, Size


@dataclass
class Upscaler:
    """Enlarges image files one after another, and remembers which files it wrote."""

    model: SuperResolver
    """The model, on the device of ``ask``."""
    size: Size
    ask: Ask
    """What the model makes of each image."""
    out: Path | None
    """The one output file, or `PIPE`; None for a file in the folder of each image."""
    form: str | None
    """The format; None for that of the output file, or else of the image."""
    quality: int
    """The quality of JPEG and WebP, 1 to 100."""
    force: bool
    """Whether existing files are overwritten."""
    value_range: tuple[float, float] | None = None
    """The files' values of black and white; None for those of the model's training, or else of their type."""
    keep_temperature: bool = False
    """Whether the temperature stays as it was asked for, whatever the image."""
    unread: set[Path] = field(default_factory=set)
    """The images that are still to be read, which no output may replace."""
    written: set[Path] = field(default_factory=set)

    def run(self, images: Sequence[Input]) -> int:
        """Enlarge images, and return how many failed.

        A line on stdout names each file that was written, and a line on stderr each image that failed.
        """
        seen, failed = sys.stderr.isatty(), 0
        pixels = [self._expected(image) if seen else 0 for image in images]
        with tqdm(
            total=sum(pixels), disable=not seen, unit="px", unit_scale=True, dynamic_ncols=True, leave=False
        ) as bar:
            for number, (image, expected) in enumerate(zip(images, pixels, strict=True), 1):
                bar.set_description(f"{number}/{len(images)} {image.path.name}")
                done = bar.n
                failed += self.failed(image, self._enlarge(image, bar))
                bar.update(max(0, expected - (bar.n - done)))
        return failed

    @property
    def message_stream(self) -> TextIO:
        """Where messages of what was done go: away from an image on stdout."""
        return sys.stderr if self.out == PIPE else sys.stdout

    def failed(self, image: Input, lines: Iterator[str]) -> bool:
        """Print the lines about an image as they come; if it fails, say why on stderr, and return True."""
        # What libraries log about a broken file is reported in our own line.
        for library in ("PIL", "tifffile"):
            logging.getLogger(library).addHandler(logging.NullHandler())
        try:
            for line in lines:
                print_line(line, sys.stderr if line.startswith("note: ") else self.message_stream)
        except BrokenPipeError:
            raise
        except Exception as error:
            if (reason := _reason(error)) is None:
                raise
            print_line(f"{input_name(image)}: {reason}", sys.stderr)
            return True
        return False

    def _expected(self, image: Input) -> int:
        """Return the number of output pixels by the file's header; 0 if it does not say."""
        found = None if image.path == PIPE else header_size(image.path)
        try:
            return 0 if found is None else math.prod(self.size.of(*found))
        except UsageError:
            return 0

    def opened(self, source: Input) -> "Opened":
        """Read one image, and decide on its outputs.

        Raises:
            UsageError: It cannot be read, or an output may not or cannot be written.
        """
        content = sys.stdin.buffer.read() if source.path == PIPE else source.path
        self.unread.discard(source.path.resolve())
        known = self.value_range or self.model.value_range
        image = read_values(content, self.model.image_channels, ranged=known is not None)
        if known and (self.value_range or image.pixels.dtype != np.uint8):
            image = ranged_photo(image, known)
            if not self.value_range:
                of = "{:g} is black and {:g} white".format(*known)
                image.notes.append(f"{of}, as in the model's training; --range says others")
        size = self.size.of(*image.pixels.shape[:2])
        named = self.out or source.path  # A pipe has no suffix.
        form = self.form or FORMAT_BY_SUFFIX.get(named.suffix.lower(), "png")
        check_format(image, form)
        if max(size) > LONGEST[form]:
            raise UsageError(f"{form} holds at most {LONGEST[form]} pixels a side, {max(size)} are asked for")
        out, heat = self._outputs(source, size, form)
        for path in (*out, *heat):
            self._check(path, size, image, form)
        return Opened(image, size, form, out, heat)

    def _enlarge(self, source: Input, bar: "tqdm[None]") -> Iterator[str]:
        """Enlarge one image; yield the lines to print."""
        image, size, form, out, heat = self.opened(source)
        ask, unlike = tempered(self.model, image, size, self.ask, keep=self.keep_temperature)
        left = " (--keep-temperature leaves it)" if ask != self.ask else ""
        image.notes += [note + left for note in unlike]
        made = enlarge(self.model, image.pixels, size, ask, bar.update)
        alpha = enlarged_alpha(image, size)
        while made.images:  # Popped, so that a written image frees its memory.
            whole = replace(image, pixels=made.images.pop(0), alpha=alpha)
            image.notes += self._write(out[-len(made.images) - 1], whole, form)
        if made.deviation is not None:
            with atomic_write(heat[0]) as part, open(part, "wb") as file:
                heat_map(made.deviation).save(file, "PNG")
        notes = dict.fromkeys(image.notes + conversion_notes(image, form))
        yield from (f"note: {input_name(source)}: {note}" for note in notes)
        if self.out != PIPE:
            self.written |= {path.absolute() for path in (*out, *heat)}
            yield from (f"{path}, {size[1]}×{size[0]}" for path in out)
            yield from map(str, heat)

    def _outputs(self, source: Input, size: tuple[int, int], form: str) -> tuple[list[Path], list[Path]]:
        """Return an image's output files: its samples, and its map of the deviation."""
        if self.out == PIPE:
            return [PIPE], []
        if self.out is not None:
            stem, suffix, folder = self.out.stem, self.out.suffix, self.out.parent
        else:
            own = source.path.suffix
            suffix = own if FORMAT_BY_SUFFIX.get(own.lower()) == form else f".{form}"
            stem = f"{'stdin' if source.path == PIPE else source.path.stem}_{self.size.suffix(size)}"
            folder = source.folder
        numbers = [""] if self.ask.samples == 1 else [f"_{n}" for n in range(1, self.ask.samples + 1)]
        heat = [folder / f"{stem}_uncertainty.png"] if self.ask.uncertainty else []
        return [folder / f"{stem}{number}{suffix}" for number in numbers], heat

    def _check(self, path: Path, size: tuple[int, int], image: Photo, form: str) -> None:
        """Raise UsageError unless a file may and can be written."""
        if path == PIPE:
            return
        if path.absolute() in self.written:
            raise UsageError(
                f"another image of this call was written to {path}: rename one of them, or enlarge it by itself"
            )
        if path.resolve() in self.unread:
            raise UsageError(
                f"{path} is an image of this call that is still to be enlarged: give --out FOLDER"
            )
        if path.is_dir() or (path.exists() and not self.force):
            raise UsageError(f"{path} exists" + ("" if path.is_dir() else "; --force overwrites it"))
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        if not folder.is_dir():
            raise UsageError(f"cannot write {path}: {folder} is not a folder")
        try:
            tempfile.TemporaryFile(dir=folder).close()  # Rather than to fail after all the work.
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror or error}") from error
        # Photographs are seldom compressed further.
        raw = math.prod(size) * image.pixels.shape[2] * image.pixels.itemsize
        need, free = raw // (50 if form in ("jpg", "webp") else 10), shutil.disk_usage(folder).free
        if self.ask.samples * need > free:
            raise UsageError(
                f"{size[1]}×{size[0]} pixels need at least {decimal(self.ask.samples * need)} on the disk of "
                f"{folder}, {decimal(free)} are free"
            )

    def _write(self, path: Path, image: Photo, form: str) -> list[str]:
        if path == PIPE:
            content = io.BytesIO()
            notes = write_photo(content, image, form, self.quality)
            sys.stdout.buffer.write(content.getbuffer())
            sys.stdout.buffer.flush()
            return notes
        with atomic_write(path) as part, open(part, "w+b") as file:
            return write_photo(file, image, form, self.quality)


class Opened(NamedTuple):
    """An image that was read, and what is to be made of it."""

    image: Photo
    size: tuple[int, int]
    form: str
    out: list[Path]
    heat: list[Path]


def input_name(image: Input) -> str:
    """Return what an image is called in a message."""
    return "stdin" if image.path == PIPE else str(image.path)


def _reason(error: Exception) -> str | None:
    """Return in words how the image, the disk or the memory is to blame, or None for a defect of ours."""
    if isinstance(error, OSError):
        if error.errno is None:
            return f"cannot be written: {error}"
        full = "; what was written before is whole" if error.errno == errno.ENOSPC else ""
        return f"cannot write {error.filename or 'the image'}: {error.strerror}{full}"
    if is_shortage(error):
        return "memory is too small for it; give a smaller --scale or --tile"
    return None if find_mistake(error) is None else message(error)


def print_line(line: str, out: TextIO) -> None:
    """Print a line without breaking the progress bar."""
    # A file's name may hold characters that no terminal shows.
    safe = "".join(c if c.isprintable() else "�" for c in line)
    encoding = out.encoding or "utf-8"
    tqdm.write(safe.encode(encoding, "replace").decode(encoding), file=out)
