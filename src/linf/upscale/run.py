"""The command ``linf upscale``: files, folders, globs and pipes through a model, one image after another."""

import errno
import io
import logging
import math
import shutil
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from linf.cli.options import asked, chosen_device, chosen_model
from linf.errors import UsageError
from linf.files import atomic_write
from linf.images.read import Photo, header_size, read_photo
from linf.images.write import FORMAT_BY_SUFFIX, LONGEST, conversion_notes, enlarged_alpha, write_photo
from linf.models.super_resolver import SuperResolver
from linf.upscale.enlarge import Ask, enlarge
from linf.upscale.heat_map import heat_map
from linf.upscale.inputs import PIPE, Job, Size, parse_size, planned


def upscale(given: Namespace) -> None:
    """Run the command as parsed; ends with status 1 where an image failed.

    Raises:
        UsageError: a mistake that concerns all images.
    """
    for library in ("PIL", "tifffile"):  # What they log of a broken file has its line from us.
        logging.getLogger(library).addHandler(logging.NullHandler())
    size = parse_size(given.scale, given.size)
    if not 1 <= given.quality <= 100:
        raise UsageError(f"--quality {given.quality} is not a whole number from 1 to 100")
    device = chosen_device(given.device)
    ask = asked(given, device)
    jobs, one = planned(given.input, given.out, size)
    piped = one == PIPE
    named = FORMAT_BY_SUFFIX[one.suffix.lower()] if one is not None and not piped else None
    if named is not None and given.format not in (None, named):
        raise UsageError(f"--out {one} and --format {given.format} contradict each other: give one of them")
    if piped and (ask.samples > 1 or ask.uncertainty):
        raise UsageError("one image goes to stdout: give --out FOLDER with --samples and --uncertainty")
    if piped and sys.stdout.isatty():
        raise UsageError("stdout is a terminal, which shows no image: send it on, or give --out FILE")
    model = chosen_model(given.model, ask)
    command = _Command(model.to(device), size, ask, given.format, given.quality, given.force, one)
    failed = 0
    with _progress(jobs, size) as bar:
        for number, job in enumerate(jobs, 1):
            name = "stdin" if job.source == PIPE else str(job.source)
            bar.set_description(f"{number}/{len(jobs)} {job.source.name}")
            done = bar.n
            try:
                for line in command.run(job, bar):
                    _tell(line, sys.stderr if line.startswith("note: ") or piped else sys.stdout)
            except BrokenPipeError:
                raise
            except (UsageError, OSError, MemoryError, RuntimeError) as error:
                if not _foreseen(error):
                    raise
                failed += 1
                _tell(f"{name}: {_words(error)}", sys.stderr)
            bar.update(max(0, _expected(job, size) - (bar.n - done)) if not bar.disable else 0)
    if failed:
        if len(jobs) > 1:
            print(f"{failed} of {len(jobs)} images failed", file=sys.stderr)
        sys.stdout.flush()
        raise SystemExit(1)


def _foreseen(error: Exception) -> bool:
    """Whether it is the user's, the disk's or the memory's, not a defect of ours."""
    return not isinstance(error, RuntimeError) or "memory" in str(error)


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and not isinstance(error, UsageError):
        if error.errno is None:
            return f"cannot be written: {error}"
        full = "; what was written before is whole" if error.errno == errno.ENOSPC else ""
        return f"cannot write {error.filename or 'the image'}: {error.strerror}{full}"
    if isinstance(error, MemoryError | RuntimeError):
        return "memory is too small for it; give a smaller --scale or --tile"
    return " ".join(str(error).split())


def _tell(line: str, out: TextIO) -> None:
    """A line that does not break the progress bar."""
    # A file's name may hold what no terminal shows.
    safe = "".join(c if c.isprintable() else "�" for c in line)
    encoding = out.encoding or "utf-8"
    tqdm.write(safe.encode(encoding, "replace").decode(encoding), file=out)


def _progress(jobs: Sequence[Job], size: Size) -> "tqdm[None]":
    seen = sys.stderr.isatty()
    return tqdm(
        total=sum(_expected(job, size) for job in jobs) if seen else None,
        disable=not seen,
        unit="px",
        unit_scale=True,
        dynamic_ncols=True,
        leave=False,
    )


def _expected(job: Job, size: Size) -> int:
    """Output pixels, so far as a header tells."""
    found = None if job.source == PIPE else header_size(job.source)
    try:
        return 0 if found is None else math.prod(size.of(*found))
    except UsageError:
        return 0


class _Command:
    """What is the same for all images, and which files have been written."""

    def __init__(
        self,
        model: SuperResolver,
        size: Size,
        ask: Ask,
        form: str | None,
        quality: int,
        force: bool,
        one: Path | None,
    ) -> None:
        self.model, self.size, self.ask = model, size, ask
        self.form, self.quality, self.force, self.one = form, quality, force, one
        self.written: set[Path] = set()

    def run(self, job: Job, bar: "tqdm[None]") -> Iterator[str]:
        """Enlarge one image; the lines to tell."""
        image = read_photo(sys.stdin.buffer.read() if job.source == PIPE else job.source)
        size = self.size.of(*image.pixels.shape[:2])
        form = self._format(job)
        if max(size) > LONGEST[form]:
            raise UsageError(f"{form} holds at most {LONGEST[form]} pixels a side, {max(size)} are asked for")
        out, heat = self._outputs(job, size, form)
        for path in (*out, *heat):
            self._check(path, size, image, form)
        made = enlarge(self.model, image.pixels, size, self.ask, bar.update)
        alpha = None if image.alpha is None else enlarged_alpha(image.alpha, size)
        while made.images:  # What is written needs no memory any more.
            whole = replace(image, pixels=made.images.pop(0), alpha=alpha)
            image.notes += self._write(out[-len(made.images) - 1], whole, form)
        if made.deviation is not None:
            with atomic_write(heat[0]) as part, open(part, "wb") as file:
                heat_map(made.deviation).save(file, "PNG")
        name = "stdin" if job.source == PIPE else str(job.source)
        yield from (
            f"note: {name}: {note}" for note in dict.fromkeys(image.notes + conversion_notes(image, form))
        )
        if self.one != PIPE:
            self.written |= {path.absolute() for path in (*out, *heat)}
            yield from (f"{path}, {size[1]}×{size[0]}" for path in out)
            yield from map(str, heat)

    def _format(self, job: Job) -> str:
        if self.form is not None:
            return self.form
        named = job.source if self.one in (None, PIPE) else self.one
        assert named is not None
        return FORMAT_BY_SUFFIX.get(named.suffix.lower(), "png") if self.one != PIPE else "png"

    def _outputs(self, job: Job, size: tuple[int, int], form: str) -> tuple[list[Path], list[Path]]:
        """The files of an image: its samples, and its map."""
        if self.one == PIPE:
            return [PIPE], []
        if self.one is not None:
            stem, suffix, folder = self.one.stem, self.one.suffix, self.one.parent
        else:
            own = job.source.suffix
            suffix = own if FORMAT_BY_SUFFIX.get(own.lower()) == form else f".{form}"
            stem = f"{'stdin' if job.source == PIPE else job.source.stem}_{self.size.word(size)}"
            folder = job.folder
        numbers = [""] if self.ask.samples == 1 else [f"_{n}" for n in range(1, self.ask.samples + 1)]
        heat = [folder / f"{stem}_uncertainty.png"] if self.ask.uncertainty else []
        return [folder / f"{stem}{number}{suffix}" for number in numbers], heat

    def _check(self, path: Path, size: tuple[int, int], image: Photo, form: str) -> None:
        """Raise UsageError unless a file may and can be written."""
        if path == PIPE:
            return
        if path.absolute() in self.written:
            raise UsageError(
                f"another image of this call was written to {path}; give them folders of their own"
            )
        if path.is_dir() or (path.exists() and not self.force):
            raise UsageError(f"{path} exists" + ("" if path.is_dir() else "; --force overwrites it"))
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        if not folder.is_dir():
            raise UsageError(f"cannot write {path}: {folder} is no folder")
        # Photographs are seldom packed tighter.
        raw = math.prod(size) * image.pixels.shape[2] * image.pixels.itemsize
        need, free = raw // (50 if form in ("jpg", "webp") else 10), shutil.disk_usage(folder).free
        if self.ask.samples * need > free:
            raise UsageError(
                f"{size[1]}×{size[0]} pixels need at least {self.ask.samples * need / 2**30:.2g} GiB on the disk of "
                f"{folder}, {free / 2**30:.2g} GiB are free"
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
