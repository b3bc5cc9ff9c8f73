"""The outputs of `linf upscale`: their names, whether they may and can be written, and their writing."""

import io
import math
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.filesize import decimal

from linf.errors import UsageError, shorten
from linf.files import atomic_write, file_errors
from linf.images.photo import Photo
from linf.images.write import FORMAT_BY_SUFFIX, write_photo
from linf.upscale.enlarge import Ask
from linf.upscale.inputs import PIPE, Input


@dataclass
class Outputs:
    """The files of one call, and which of them are written."""

    file: Path | None
    """The one output file, or `PIPE`; None for a file in the folder of each image."""
    form: str | None
    """The format; None for that of the output file, or else of the image."""
    quality: int
    """The quality of JPEG and WebP, 1 to 100."""
    force: bool
    """Whether existing files are overwritten."""
    unread: set[Path] = field(default_factory=set)
    """The images that are still to be read, which no output may replace."""
    written: set[Path] = field(default_factory=set)

    def form_for(self, source: Input) -> str:
        """Return the format for an image."""
        named = self.file or source.path  # A pipe has no suffix.
        return self.form or FORMAT_BY_SUFFIX.get(named.suffix.lower(), "png")

    def paths(self, source: Input, size: str, form: str, ask: Ask) -> tuple[list[Path], list[Path]]:
        """Return an image's output files: its samples, and its map of the deviation; ``size`` is how names end."""
        if self.file == PIPE:
            return [PIPE], []
        if self.file is not None:
            stem, suffix, folder = self.file.stem, self.file.suffix, self.file.parent
        else:
            own = source.path.suffix
            suffix = own if FORMAT_BY_SUFFIX.get(own.lower()) == form else f".{form}"
            stem = f"{'stdin' if source.path == PIPE else source.path.stem}_{size}"
            folder = source.folder
        numbers = [""] if ask.samples == 1 else [f"_{n}" for n in range(1, ask.samples + 1)]
        heat = [folder / f"{stem}_uncertainty.png"] if ask.uncertainty else []
        return [folder / f"{stem}{number}{suffix}" for number in numbers], heat

    def check(
        self, path: Path, paths: Sequence[Path], size: tuple[int, int], image: Photo, form: str, samples: int
    ) -> None:
        """Raise UsageError unless one of an image's files, of which each sample has one, may and can be written."""
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
            missing = [each.name for each in paths if not each.exists()]  # After a kill.
            but = f", but not {shorten(missing)}" * bool(missing)
            raise UsageError(f"{path} exists{but}" + ("" if path.is_dir() else "; --force overwrites it"))
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        if not folder.is_dir():
            raise UsageError(f"cannot write {path}: {folder} is not a folder")
        with file_errors(f"cannot write {path}"):
            tempfile.TemporaryFile(dir=folder).close()  # Rather than to fail after all the work.
        # Photographs are seldom compressed further.
        raw = math.prod(size) * image.pixels.shape[2] * image.pixels.itemsize
        need, free = raw // (50 if form in ("jpg", "webp") else 10), shutil.disk_usage(folder).free
        if samples * need > free:
            raise UsageError(
                f"{size[1]}×{size[0]} pixels need at least {decimal(samples * need)} on the disk of "
                f"{folder}, {decimal(free)} are free"
            )

    def write(self, path: Path, image: Photo, form: str) -> list[str]:
        """Write an image, and return notes of what the format cannot hold."""
        if path == PIPE:
            content = io.BytesIO()
            notes = write_photo(content, image, form, self.quality)
            sys.stdout.buffer.write(content.getbuffer())
            sys.stdout.buffer.flush()
            return notes
        with atomic_write(path) as part, open(part, "w+b") as file:
            return write_photo(file, image, form, self.quality)

    def keep(self, *paths: Path) -> None:
        """Let no other image of this call be written to these files."""
        self.written |= {path.absolute() for path in paths}
