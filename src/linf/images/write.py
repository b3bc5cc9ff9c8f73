"""Writing of photographs: 8 or 16 bits, alpha, EXIF and colour profile, as far as the format holds them."""

import struct
import zlib
from collections.abc import Mapping
from dataclasses import replace
from typing import IO, Any

import numpy as np
import tifffile
from PIL import Image, ImageOps

from linf.errors import UsageError
from linf.images.exif import DESCRIPTIVE, EXIF, GPS
from linf.images.photo import Photo
from linf.images.pixels import stored_photo
from linf.images.read import eight_bits
from linf.images.resize import resized_part
from linf.images.tiff import BIG_TIFF, write_layers

FORMATS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "tiff": "TIFF"}
"""The formats that are written: the values of ``--format``, and Pillow's names."""

FORMAT_BY_SUFFIX = {
    ".png": "png",
    ".jpg": "jpg",
    ".jpeg": "jpg",
    ".webp": "webp",
    ".tif": "tiff",
    ".tiff": "tiff",
}
"""The format of a file by its suffix, in lower case."""

LONGEST = {"png": 2**31 - 1, "jpg": 65500, "webp": 16383, "tiff": 2**31 - 1}
"""The largest height and width that a format, or Pillow's encoder of it, can hold."""

SOFTWARE = 0x0131


def enlarged_alpha(
    image: Photo, size: tuple[int, int], part: tuple[slice, slice] | None = None
) -> np.ndarray | None:
    """An image's transparency enlarged to (H, W) by Pillow's bicubic, of the same dtype, or only these rows and columns
    of it; None for an opaque image.
    """
    if image.alpha is None:
        return None
    eight = image.alpha.dtype == np.uint8
    plane = Image.fromarray(image.alpha if eight else image.alpha.astype(np.float32))
    made = np.asarray(resized_part(plane, size, part or (slice(0, size[0]), slice(0, size[1]))))
    return made if eight else made.round().clip(0, 65535).astype(np.uint16)


def check_format(image: Photo, form: str) -> None:
    """Raise UsageError where a format other than TIFF cannot hold an image's channels or its type of values."""
    channels, dtype = image.pixels.shape[2], image.file_dtype
    if form != "tiff" and (channels not in (1, 3) or dtype not in (np.uint8, np.uint16)):
        raise UsageError(
            f"{form} holds no image of {channels} channel{'s' * (channels > 1)} of {dtype}: --format tiff does"
        )


def conversion_notes(image: Photo, form: str) -> list[str]:
    """What a format cannot hold of an image, a message each."""
    lossy = form in ("jpg", "webp")
    lost = []
    if lossy and image.file_dtype != np.uint8:
        lost.append(f"its 16 bits are written as 8: {form} holds no more; --format png or tiff does")
    if form == "jpg" and image.alpha is not None:
        lost.append("its transparency is laid over white: jpg holds none; --format png, webp or tiff does")
    deep = image.file_dtype == np.uint16 and (image.pixels.shape[2] == 3 or image.alpha is not None)
    if form == "tiff" and deep and image.pixels.shape[2] == 1:
        lost.append(
            "its grey is written as RGB: few programs read TIFF of 16-bit grey with transparency; --format png keeps it"
        )
    if form == "tiff" and deep and _has_more_exif(image):
        lost.append("of its EXIF only the description is kept: TIFF of 16 bits is written without the rest")
    return lost


def _has_more_exif(image: Photo) -> bool:
    return image.exif is not None and (EXIF in image.exif or GPS in image.exif)


def write_photo(out: IO[bytes], image: Photo, form: str, quality: int) -> list[str]:
    """Write an image; without its EXIF, or also its profile, where the format refuses them.

    Args:
        out: an empty binary file, seekable and readable.
        image: of at most `LONGEST` pixels a side.
        form: one of `FORMATS`.
        quality: from 1 to 100, for JPEG and WebP.

    Returns:
        What could not be written, at most one message.
    """
    without = replace(image, exif=None)
    attempts = {
        "": image,
        "its EXIF": without,
        "its EXIF and colour profile": replace(without, profile=None),
    }
    for lost, attempt in attempts.items():
        try:
            _write(out, attempt, form, quality)
        except (OSError, MemoryError):
            raise
        except Exception:  # An encoder raises anything on odd EXIF or an odd profile.
            if attempt.exif is None and attempt.profile is None:
                raise
            out.seek(0)
            out.truncate()
        else:
            return [f"{lost} cannot be written to {form}"] if lost else []
    raise AssertionError


def _write(out: IO[bytes], image: Photo, form: str, quality: int) -> None:
    image = stored_photo(image)
    pixels, alpha = image.pixels, image.alpha
    if pixels.dtype not in (np.uint8, np.uint16) or pixels.shape[2] not in (1, 3):
        return write_layers(out, pixels, image.layout, alpha)
    if form in ("jpg", "webp") and image.peak > 255:
        pixels, alpha = eight_bits(pixels), None if alpha is None else eight_bits(alpha)
    exif = None
    if image.exif is not None:
        inner = image.exif.get(EXIF) or {}
        for tag, n in ((0xA002, pixels.shape[1]), (0xA003, pixels.shape[0])):  # Width and height.
            if tag in inner:
                inner[tag] = n
        exif = image.exif.tobytes()
    if pixels.dtype == np.uint16 and form == "png":
        return _write_deep_png(out, pixels, alpha, exif, image.profile)
    if pixels.dtype == np.uint16 and (pixels.shape[2] == 3 or alpha is not None):
        return _write_deep_tiff(out, pixels, alpha, image)
    encoded = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[..., 0])
    if alpha is not None and form == "jpg":
        encoded.paste("white", mask=ImageOps.invert(Image.fromarray(alpha)))
    elif alpha is not None:
        encoded.putalpha(Image.fromarray(alpha))
    # Pillow writes a compressed TIFF without the inner parts of EXIF.
    compression = None if _has_more_exif(image) else "tiff_adobe_deflate"
    by_format: dict[str, dict[str, Any]] = {
        "jpg": {"quality": quality, "subsampling": 0},
        "webp": {"quality": quality},
        "tiff": {"big_tiff": pixels.nbytes > BIG_TIFF, "compression": compression},
        "png": {},
    }
    metadata = {"icc_profile": image.profile, "exif": exif}
    known = {name: content for name, content in metadata.items() if content is not None}
    encoded.save(out, FORMATS[form], **by_format[form], **known)
    return None


def _write_deep_png(
    out: IO[bytes], pixels: np.ndarray, alpha: np.ndarray | None, exif: bytes | None, profile: bytes | None
) -> None:
    """Write PNG of 16 bits (PNG specification, third edition), of which Pillow writes only grey without alpha."""

    def chunk(name: bytes, content: bytes) -> None:
        out.write(struct.pack(">I", len(content)) + name + content)
        out.write(struct.pack(">I", zlib.crc32(name + content)))

    height, width, channels = pixels.shape
    kind = (0 if channels == 1 else 2) + (0 if alpha is None else 4)
    out.write(b"\x89PNG\r\n\x1a\n")
    chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
    if profile is not None:
        chunk(b"iCCP", b"ICC\0\0" + zlib.compress(profile))
    if exif is not None:
        chunk(b"eXIf", exif.removeprefix(b"Exif\0\0"))
    deflate, above = zlib.compressobj(6), None
    for top in range(0, height, 64):
        rows = pixels[top : top + 64]
        if alpha is not None:
            rows = np.concatenate([rows, alpha[top : top + 64, :, None]], axis=2)
        values = np.ascontiguousarray(rows.astype(">u2")).view(np.uint8).reshape(len(rows), -1)
        before = np.zeros_like(values[:1]) if above is None else above
        filtered = np.full((len(rows), values.shape[1] + 1), 2, np.uint8)  # Filter type 2 is "Up".
        filtered[:, 1:] = values - np.concatenate([before, values[:-1]])
        above = values[-1:]
        if compressed := deflate.compress(filtered.tobytes()):
            chunk(b"IDAT", compressed)
    chunk(b"IDAT", deflate.flush())
    chunk(b"IEND", b"")


def _write_deep_tiff(out: IO[bytes], pixels: np.ndarray, alpha: np.ndarray | None, image: Photo) -> None:
    """Write TIFF of 16 bits, of which Pillow writes only grey without alpha."""
    profile = image.profile if pixels.shape[2] == 3 else None
    if alpha is not None:
        pixels = np.concatenate([pixels] * (3 // pixels.shape[2]) + [alpha[..., None]], axis=2)
    tags: Mapping[int, Any] = image.exif or {}
    tifffile.imwrite(
        out,
        pixels,
        photometric="rgb",
        planarconfig="contig",
        extrasamples=None if alpha is None else ["unassalpha"],
        compression="zlib",
        bigtiff=pixels.nbytes > BIG_TIFF,
        iccprofile=profile,
        metadata=None,
        software=str(tags.get(SOFTWARE, "")).encode() or None,
        extratags=[
            (tag, 2, 0, str(tags[tag]).encode(), True)
            for tag in DESCRIPTIVE
            if tag in tags and tag != SOFTWARE
        ],
    )
