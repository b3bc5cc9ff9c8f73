"""The image files in folders, by one rule for training, evaluation and ``linf upscale``."""

import os
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from linf.errors import shorten
from linf.images.read import IMAGE_SUFFIXES

SYSTEM_FOLDERS = {
    *("@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot"),
    *("$recycle.bin", "recycler", "system volume information", "lost+found", "__macosx", "__pycache__"),
    *("thumb", "thumbs", "thumbnail", "thumbnails"),
}
"""Folders, in lower case, that systems and viewers fill with copies, thumbnails and deleted files."""


OTHER_SUFFIXES = {
    *(".heic", ".heif", ".avif", ".jxl", ".jp2", ".psd", ".exr", ".hdr", ".pfm"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw"),
}
"""Suffixes, in lower case, of images that are not read, among them those of telephones and the raw ones of cameras."""


@dataclass
class FoundImages:
    """The images in some folders.

    Attributes:
        paths: every image once, sorted; its own path rather than that of a link to it, where both are there.
        hidden: names of the hidden and system folders and files that were left out, in order of discovery.
        repeated: the number of links to images, or to folders of them, that are counted already.
        unreadable: names of folders and files that cannot be read: closed ones, links that lead nowhere, pipes.
        others: the number of files of each of `OTHER_SUFFIXES`.
    """

    paths: list[Path] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    repeated: int = 0
    unreadable: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)

    @property
    def note(self) -> str:
        """What was left out, as a sentence; empty where nothing was."""
        parts = []
        for names, what in (
            (self.hidden, "hidden files and folders of copies or thumbnails"),
            (self.unreadable, "what cannot be read"),
        ):
            if names := list(dict.fromkeys(names)):
                parts.append(f"{what} ({shorten(names, 8)})")
        if self.others:
            counts = ", ".join(f"{count} {suffix}" for suffix, count in sorted(self.others.items()))
            parts.append(f"images of kinds that are not read ({counts}): convert them, for instance to PNG")
        if self.repeated:
            parts.append(f"{self.repeated} link{'s' * (self.repeated > 1)} to what is counted already")
        return f"left out: {'; '.join(parts)}" if parts else ""


def left_out_by_rule(name: str) -> bool:
    """Whether a file or folder of this name is left out: hidden ones, and those of `SYSTEM_FOLDERS`."""
    return (
        name.startswith(".") or name.lower() in SYSTEM_FOLDERS or name.lower().startswith("synophoto_thumb")
    )


def is_image_name(name: str) -> bool:
    """Whether a file of this name counts as an image, by `IMAGE_SUFFIXES`."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def find_images(root: Path, *others: Path) -> FoundImages:
    """Find the images in folders at any depth, each once.

    Symbolic links to files and folders are followed, loops included; what they lead to is counted once. Hidden files
    and folders, and `SYSTEM_FOLDERS`, are left out; the given folders themselves may be called anything.

    Args:
        root: a folder.
        others: more of them.
    """
    found, folders, files = FoundImages(), set[tuple[int, int]](), set[str]()
    # Links come last, so that an image is known by its own path.
    pending, links, linked_files = [root, *others], list[Path](), list[Path]()
    while pending or links:
        folder = pending.pop(0) if pending else links.pop(0)
        try:
            about = folder.stat()
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            found.unreadable.append(folder.name)
            continue
        if (about.st_dev, about.st_ino) in folders:
            found.repeated += folder not in (root, *others)
            continue
        folders.add((about.st_dev, about.st_ino))
        for entry in entries:
            path, left_out = Path(entry.path), left_out_by_rule(entry.name)
            if os.path.isdir(path):
                if not left_out:
                    (links if entry.is_symlink() else pending).append(path)
                elif _holds_images(path):
                    found.hidden.append(entry.name)
            elif is_image_name(entry.name):
                if not os.path.isfile(path):
                    found.unreadable.append(entry.name)
                elif left_out:
                    found.hidden.append(entry.name)
                elif entry.is_symlink():
                    linked_files.append(path)
                else:
                    _add(found, files, path)
            elif not left_out and path.suffix.lower() in OTHER_SUFFIXES:
                found.others[path.suffix.lower()] += 1
    for path in linked_files:
        _add(found, files, path)
    found.paths.sort(key=lambda path: path.as_posix())
    return found


def _holds_images(folder: Path) -> bool:
    # A NAS keeps a folder of thumbnails for each image, so that one of the first few tells.
    return any(is_image_name(name) for _, _, names in islice(os.walk(folder), 20) for name in names)


def _add(found: FoundImages, files: set[str], path: Path) -> None:
    real = os.path.realpath(path)
    if real in files:
        found.repeated += 1
    else:
        files.add(real)
        found.paths.append(path)
