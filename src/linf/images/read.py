"""Reading of image files: whole photographs with all they carry, and their 8-bit RGB for training and evaluation."""

import contextlib
import io
import logging
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, ImageCms, ImageFile, UnidentifiedImageError
from rich.filesize import decimal

from linf.errors import UsageError
from linf.images.exif import descriptive_exif, turn_upright
from linf.images.netpbm import deep_pixels
from linf.images.photo import FIRST_FRAME, Photo, jpeg_step
from linf.images.tiff import deep_layers, unusual_photo
from linf.machine import free_memory

log = logging.getLogger(__name__)

_T = TypeVar("_T")

READ = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "DIB", "GIF", "PPM")
"""Pillow's names of the formats that are read. Some of its other formats start external programs."""

IMAGE_SUFFIXES = {
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".gif"),
    *(".tif", ".tiff", ".bmp", ".dib", ".pbm", ".pgm", ".ppm", ".pnm"),
}
"""Suffixes, in lower case, of the files that count as images where a folder is searched: all that Pillow gives to the
formats in `READ`, and a JPEG's with several images; except PFM's, whose floats have no white."""

BITS, PHOTOMETRIC, PLANAR = 258, 262, 284


def header_size(path: Path) -> tuple[int, int] | None:
    """The (h, w) that a file's header claims, before EXIF turns the image; None where the header is unreadable."""
    return _by_header(path, lambda file: (file.height, file.width))


def header_jpeg_step(path: Path) -> float:
    """`jpeg_step` by a file's header; 0 where it is unreadable."""
    return _by_header(path, jpeg_step) or 0.0


def _by_header(path: Path, of: Callable[[Image.Image], _T]) -> _T | None:
    try:
        with warnings.catch_warnings(action="ignore"), _open(path) as file:
            return of(file)
    except Exception:  # Decoders raise anything; `read_photo` then gives the reason.
        return None


def read_image(path: str | Path) -> np.ndarray:
    """Read an image as a viewer shows it, (H, W, 3) uint8 RGB: upright, scaled to 8 bits, composited over white, its
    first frame.

    Raises:
        UsageError: the file is missing, truncated, too large to be trusted, or no image; with its path.
    """
    try:
        photo = read_photo(Path(path))
    except UsageError as error:
        raise UsageError(f"{path}: {error}; replace or remove the file") from error
    for note in photo.notes:
        log.info("%s: %s", path, note)
    pixels = eight_bits(photo.pixels)
    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    if photo.alpha is None:
        return pixels
    image = Image.fromarray(np.dstack([pixels, eight_bits(photo.alpha)]))
    return np.array(Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB"))


def eight_bits(values: np.ndarray) -> np.ndarray:
    """Scale uint16 values to uint8, rounded; uint8 values stay as they are."""
    return values if values.dtype == np.uint8 else np.rint(values / np.float32(257)).astype(np.uint8)


def read_photo(source: Path | bytes) -> Photo:
    """Read an image with its full depth, alpha, EXIF and profile; upright, and of several frames the first.

    Args:
        source: a file's path or its content.

    Raises:
        UsageError: the file is missing, truncated, too large to be trusted, or no image; without its path.
    """
    try:
        if (len(source) if isinstance(source, bytes) else source.stat().st_size) == 0:
            raise UsageError("the file is empty")
        # A readable image is good enough, whatever Pillow warns of.
        with warnings.catch_warnings(action="ignore"), _open(source) as file:
            return _image(file, source)
    except UsageError:
        raise
    except UnidentifiedImageError as error:
        if (unusual := unusual_photo(source)) is not None:
            return unusual
        other = "it is no PNG, JPEG, WebP, TIFF, BMP, GIF or PPM image, or a broken or rare one"
        raise UsageError(other) from error
    except Image.DecompressionBombError as error:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise UsageError(f"its header claims more than {most} megapixels, the most that is read") from error
    except Exception as error:  # Decoders raise anything on broken files, IndexError included.
        if "MAX_TEXT_CHUNK" in str(error):
            raise UsageError("its colour profile or a text in it unpacks to more than 1 MiB") from error
        reason = " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())
        raise UsageError(f"cannot be read: {reason}") from error


def _open(source: Path | bytes) -> Image.Image:
    image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=READ)
    # By its name Pillow would map it to memory, and take the rows of a TIFF for as long as they are when turned.
    image.filename = ""
    return image


def _image(file: Image.Image, source: Path | bytes) -> Photo:
    need, free = 12 * file.width * file.height, free_memory(torch.device("cpu"))
    if need > free:
        raise UsageError(
            f"{file.width}×{file.height} pixels need {decimal(need)}, {decimal(int(free))} are free"
        )
    notes: list[str] = []
    # An MPO holds a photograph and its previews.
    if file.format != "MPO" and getattr(file, "is_animated", False):
        notes.append(FIRST_FRAME)
    tile = getattr(file, "tile", None)
    args = tile[0][3] if tile else ""
    raw = str(args[0] if isinstance(args, tuple) and args else args)  # The layout of the pixels in the file.
    if file.format != "TIFF":  # Loading drops a TIFF's tags; in other formats EXIF may follow the pixels.
        file.load()
    exif = descriptive_exif(file, notes)
    profile = file.info.get("icc_profile") or None
    turn_upright(file)
    tags = getattr(file, "tag_v2", {})
    if (tags.get(PLANAR) == 2 and max(tags.get(BITS, [8])) > 8) or raw.startswith("RGBa;16"):
        pixels = deep_layers(source, len(file.mode) if file.mode in ("RGB", "RGBA") else 0)
    elif ";16" in raw and not raw.startswith("I"):
        pixels = _sixteen_bits(file, source, raw)
    elif (deep := deep_pixels(file, source, tile)) is not None:
        pixels = deep
    else:
        image = _plain(file, profile, notes)
        pixels = np.array(image, np.uint16 if image.mode.startswith("I") else np.uint8)
        # White that is 0 Pillow heeds in 8 bits only.
        if tags.get(PHOTOMETRIC) == 0 and pixels.dtype == np.uint16:
            pixels = 65535 - pixels
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    alpha, clear = None, file.info.get("transparency")
    # Of a colour Pillow makes alpha in 8 bits only.
    if clear is not None and pixels.dtype == np.uint16:
        alpha = np.where((pixels == np.array(clear)).all(2), 0, 65535).astype(np.uint16)
    elif pixels.shape[2] in (2, 4):
        pixels, alpha = (np.ascontiguousarray(part) for part in (pixels[..., :-1], pixels[..., -1]))
    if profile is not None and profile[16:20] != (b"GRAY" if pixels.shape[2] == 1 else b"RGB "):
        if profile[16:20] != b"CMYK" or file.mode != "CMYK":  # `_plain` has noted that case.
            notes.append("its colour profile is not one for its kind of pixels and is left out")
        profile = None
    return Photo(pixels, alpha, exif, profile, notes, jpeg_step=jpeg_step(file))


def _sixteen_bits(file: Image.Image, source: Path | bytes, raw: str) -> np.ndarray:
    """(h,w,2–4) uint16 of a colour image, or of a grey one with alpha, of which Pillow keeps the high bytes only. A
    second reading with the other byte order takes the low bytes for the high ones.
    """
    grey = raw.startswith("LA")
    big = raw.endswith("B") or (raw.endswith("N") and sys.byteorder == "big")
    with _open(source) as again:
        assert isinstance(again, ImageFile.ImageFile)
        other = "RGBA" if grey else raw[:-1] + ("L" if big else "B")
        again.tile = [
            tile._replace(args=(other, *tile.args[1:]) if isinstance(tile.args, tuple) else other)
            for tile in again.tile
        ]
        turn_upright(again)
        if grey:
            return np.array(again).view(">u2").astype(np.uint16)
        return (np.array(file, np.uint16) << 8) + np.asarray(again)


def _plain(image: Image.Image, profile: bytes | None, notes: list[str]) -> Image.Image:
    """Any image as L, LA, RGB, RGBA or I;16."""
    mode = image.mode
    if mode == "F":
        raise UsageError(
            "its pixels are 32-bit floats, whose white is not defined; save it with 8 or 16 bits, or state the values' "
            "range (data.value_range, or --range of linf upscale)"
        )
    if mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise UsageError(
                f"its values go from {values.min()} to {values.max()}; save it with 8 or 16 bits, 0 to 65535"
            )
        if mode == "I" and image.format == "TIFF" and values.max() <= 255:
            # These are signed integers, or of 32 bits, which say nothing of white; as 16 bits they would be black.
            notes.append(f"its values go up to {values.max()} and are read as 8 bits, with white at 255")
            return Image.fromarray(values.astype(np.uint8))
        return Image.fromarray(values.astype(np.uint16))
    if mode in ("CMYK", "LAB", "YCbCr", "HSV"):
        notes.append(f"its {mode} colours are written as RGB")
        if mode == "CMYK" and profile is not None and profile[16:20] == b"CMYK":
            ours = ImageCms.createProfile("sRGB")
            with contextlib.suppress(ImageCms.PyCMSError):  # A damaged profile.
                theirs = ImageCms.ImageCmsProfile(io.BytesIO(profile))
                return ImageCms.profileToProfile(image, theirs, ours, outputMode="RGB") or image
        return image.convert("RGB")
    grey = mode in ("1", "L", "LA", "La")
    if mode == "P":
        colours = np.reshape(image.getpalette("RGB") or [0, 0, 0], (-1, 3))
        grey = bool((colours == colours[:, :1]).all())
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    return image.convert(("L" if grey else "RGB") + ("A" if image.has_transparency_data else ""))
