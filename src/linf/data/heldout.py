"""Data box of the figure: which images of a user's folder training leaves for validation."""

import logging
import os
import zlib
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

from linf.data.layouts import ImageSet
from linf.data.marks import read_marks
from linf.data.sources import Roots, image_folder
from linf.errors import UsageError, shorten

log = logging.getLogger(__name__)

ONE_OF, AT_MOST = 10, 10
"""One image of so many is left for validation, and at most so many are."""

FOLDERS = {"val", "valid", "validation"}
"""Folders, in lower case, whose images are for validation where there are others beside them."""


def training_images(
    root: Roots, validated: ImageSet | None = None, name: str | None = None, degradation: str = "bicubic"
) -> ImageSet:
    """The images under ``root`` to train on: those that are not validated on, or all if there would be none.

    Args:
        root: a folder, or several; see `linf.data.sources.image_folder`, as for name and degradation.
        validated: what is validated on. Of an image that has others at other scales, these are left out, too.

    Raises:
        UsageError: those of `linf.data.sources.image_folder`.
    """
    images = image_folder(root, name, degradation)
    held = set(validated.hr if validated is not None else ()).intersection(images.hr)
    if not held or len(held) == len(images):
        return images
    log.info(
        "%s: %d of %d images are validated on and not trained on: %s",
        *(images.name, len(held), len(images), shorten([path.name for path in sorted(held)], 10)),
    )
    return _without(images, held)


def validation_images(root: Roots, training: Roots | None = None) -> ImageSet | None:
    """The images under ``root`` to validate on: some of them where training takes its images from there too, and else
    all. Some are those in folders called ``val``, ``valid`` or ``validation`` beside others; where there are no such
    folders, a tenth, but at most ten images and of two or more at least one, chosen by their names: the same on every
    rank and after a resume.

    Args:
        root: a folder, or several; see `linf.data.sources.image_folder`.
        training: where training takes its images from.

    Returns:
        The images, whose LR is made; None where there is but one image, which training needs.

    Raises:
        UsageError: those of `linf.data.sources.image_folder`.
    """
    if training != root:
        try:
            return image_folder(root)
        except UsageError as error:
            raise UsageError(str(error).replace("data.root", "data.val.root")) from error
    images = image_folder(root)
    # Not the folders above all of them, where someone's home may be called val.
    home = os.path.commonpath([path.parent for path in images.hr])
    apart = [
        path
        for path in images.hr
        if not FOLDERS.isdisjoint(map(str.lower, path.parent.relative_to(home).parts))
    ]
    if not apart or len(apart) == len(images):
        count = min(max(1, len(images) // ONE_OF), AT_MOST) if len(images) > 1 else 0
        apart = sorted(
            images.hr, key=lambda path: (zlib.crc32(path.name.encode(errors="surrogateescape")), path)
        )
        apart = sorted(apart[:count])
    if not apart:
        log.warning(
            "%s has one image, which is trained on: nothing is validated on; data.val.root=FOLDER takes images there",
            images.name,
        )
        return None
    return ImageSet(f"{images.name}-validation", tuple(apart), skips=True)


def _without(images: ImageSet, held: Collection[Path]) -> ImageSet:
    scenes = {_scene(path) for path in held}

    def kept(of: Sequence[Path], by: Sequence[Path]) -> tuple[Path, ...]:
        return tuple(
            p
            for p, hr in zip(of, by, strict=True)
            if hr not in held and (by is images.hr or _scene(hr) not in scenes)
        )

    lr = {s: kept(of, images.hr_at.get(s, images.hr)) for s, of in images.lr.items()}
    hr_at = {s: kept(of, of) for s, of in images.hr_at.items()}
    return replace(images, hr=kept(images.hr, images.hr), lr=lr, hr_at=hr_at)


def _scene(path: Path) -> str:
    """An image's name without the marks of its scale, which images of one scene at several scales share."""
    return read_marks(path.stem, file=True).rest
