"""EXIF of image files: what of it still holds for an enlarged image, and how the image is to be turned."""

import re

from PIL import Image, ImageOps

EXIF, GPS, DESCRIPTION = 0x8769, 0x8825, 0x010E

_OF_THE_PIXELS = re.compile(r"^\s*\{.*\"shape\"|^\s*shape\s*=|^ImageJ=|<OME\b", re.DOTALL)
# A description by tifffile, ImageJ or OME of the pixels' layout, which does not hold for an enlarged image.

DESCRIPTIVE = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x013C, 0x8298)
"""EXIF tags that describe the image rather than its file: description, make, model, software, date, artist, host,
copyright."""


def descriptive_exif(file: Image.Image, notes: list[str]) -> Image.Exif | None:
    """The part of EXIF that still holds for an enlarged image, None if there is none."""
    try:
        found, kept = file.getexif(), Image.Exif()
        for tag in DESCRIPTIVE:
            if tag in found and not (tag == DESCRIPTION and _OF_THE_PIXELS.search(str(found[tag]))):
                kept[tag] = found[tag]
        for tag in (EXIF, GPS):
            # The interoperability tag, 0xA005, is an offset within the old file.
            if inner := {key: value for key, value in found.get_ifd(tag).items() if key != 0xA005}:
                kept[tag] = inner
        kept.tobytes()
    except Exception:  # Damaged EXIF raises anything, as pixels do.
        notes.append("its EXIF is damaged and left out")
        return None
    return kept if len(kept) else None


def turn_upright(file: Image.Image) -> None:
    """Turn the pixels as EXIF's orientation says; those of a TIFF are turned as Pillow loads them."""
    file.load()
    try:
        # In place the pixels are turned first, so that damaged EXIF only fails to be rewritten.
        ImageOps.exif_transpose(file, in_place=True)
    except MemoryError:
        raise
    except Exception:  # Damaged EXIF raises anything, and `descriptive_exif` has noted it.
        pass
