"""Image files and pipes through a model, one image after another."""

import errno
import logging
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np
from tqdm import tqdm

from linf.errors import UsageError, find_mistake, message
from linf.files import atomic_write
from linf.images.photo import Photo
from linf.images.pixels import ranged_photo, read_values
from linf.images.read import header_size
from linf.images.write import LONGEST, check_format, conversion_notes, enlarged_alpha
from linf.machine import is_shortage
from linf.models.super_resolver import SuperResolver
from linf.upscale.enlarge import Ask, enlarge
from linf.upscale.guard import tempered
from linf.upscale.heat_map import heat_map
from linf.upscale.inputs import PIPE, Input, Size
from linf.upscale.outputs import Outputs


@dataclass
class Upscaler:
    """Enlarges image files one after another."""

    model: SuperResolver
    """The model, on the device of ``ask``."""
    size: Size
    ask: Ask
    """What the model makes of each image."""
    outputs: Outputs
    value_range: tuple[float, float] | None = None
    """The files' values of black and white; None for those of the model's training, or else of their type."""
    keep_temperature: bool = False
    """Whether the temperature stays as it was asked for, whatever the image."""

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
        return sys.stderr if self.outputs.file == PIPE else sys.stdout

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
        self.outputs.unread.discard(source.path.resolve())
        known = self.value_range or self.model.value_range
        image = read_values(content, self.model.image_channels, ranged=known is not None)
        if known and (self.value_range or image.pixels.dtype != np.uint8):
            image = ranged_photo(image, known)
            if not self.value_range:
                of = "{:g} is black and {:g} white".format(*known)
                image.notes.append(f"{of}, as in the model's training; --range says others")
        size = self.size.of(*image.pixels.shape[:2])
        form = self.outputs.form_for(source)
        check_format(image, form)
        if max(size) > LONGEST[form]:
            raise UsageError(f"{form} holds at most {LONGEST[form]} pixels a side, {max(size)} are asked for")
        out, heat = self.outputs.paths(source, self.size.suffix(size), form, self.ask)
        for path in (paths := [*out, *heat]):
            self.outputs.check(path, paths, size, image, form, self.ask.samples)
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
            image.notes += self.outputs.write(out[-len(made.images) - 1], whole, form)
        if made.deviation is not None:
            with atomic_write(heat[0]) as part, open(part, "wb") as file:
                heat_map(made.deviation).save(file, "PNG")
        notes = dict.fromkeys(image.notes + conversion_notes(image, form))
        yield from (f"note: {input_name(source)}: {note}" for note in notes)
        if self.outputs.file != PIPE:
            self.outputs.keep(*out, *heat)
            yield from (f"{path}, {size[1]}×{size[0]}" for path in out)
            yield from map(str, heat)


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
