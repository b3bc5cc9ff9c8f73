"""Users' own images out of files: with their 8 or 16 bits, grey or colour, alpha, EXIF and colour profile."""

import contextlib
import io
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, ImageFile, UnidentifiedImageError

from linf.errors import UsageError
from linf.memory import free_memory

READ = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM")
"""Not all that Pillow reads: some of its formats start other programs."""

ORIENTATION, INTEROPERABILITY = 0x0112, 0xA005
EXIF, GPS = 0x8769, 0x8825
DESCRIPTIVE = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x013C, 0x8298)
"""What EXIF says of an image rather than of its file: description, make, model, software, date, artist, host,
copyright."""


TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image of each EXIF orientation upright; 1 is."""


@dataclass
class Photo:
    """An image from a file, upright."""

    pixels: np.ndarray
    """(h,w,3), or (h,w,1) where it is grey; uint8 or uint16."""
    alpha: np.ndarray | None = None
    """(h,w), of the same type."""
    exif: Image.Exif | None = None
    profile: bytes | None = None
    """ICC."""
    notes: list[str] = field(default_factory=list)
    """What of the file is not in here, in words."""

    @property
    def peak(self) -> int:
        """The value of white."""
        return int(np.iinfo(self.pixels.dtype).max)


def header_size(path: Path) -> tuple[int, int] | None:
    """(h, w) as a file's header claims, of an image lying or upright; None where it cannot be read."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path, formats=READ) as file:
            return file.height, file.width
    except Exception:  # As in `read_photo`, which then tells why.
        return None


def read_photo(source: Path | bytes) -> Photo:
    """An image as it is in a file, upright; of several frames the first.

    Raises:
        UsageError: why the file cannot be read, without its name.
    """
    try:
        if (len(source) if isinstance(source, bytes) else source.stat().st_size) == 0:
            raise UsageError("the file is empty")
        with (
            warnings.catch_warnings(action="ignore"),  # An image that is read is good enough.
            Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=READ) as file,
        ):
            return _image(file, source)
    except UsageError:
        raise
    except UnidentifiedImageError as error:
        raise UsageError(
            "it is no PNG, JPEG, WebP, TIFF, BMP, GIF or PPM image, or a broken or rare one"
        ) from error
    except Image.DecompressionBombError as error:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise UsageError(f"its header claims more than {most} megapixels, the most that is read") from error
    except Exception as error:  # Decoders answer broken files with anything, IndexError included.
        if "MAX_TEXT_CHUNK" in str(error):
            raise UsageError("its colour profile or a text in it unpacks to more than 1 MiB") from error
        reason = " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())
        raise UsageError(f"cannot be read: {reason}") from error


def _image(file: Image.Image, source: Path | bytes) -> Photo:
    need, free = 12 * file.width * file.height, free_memory(torch.device("cpu"))
    if need > free:
        raise UsageError(
            f"{file.width}×{file.height} pixels need {need / 2**30:.1f} GiB, {free / 2**30:.1f} are free"
        )
    notes: list[str] = []
    if file.format != "MPO" and getattr(file, "is_animated", False):  # MPO: a photograph and its previews.
        notes.append("only the first of its frames or pages is taken")
    raw = _raw_mode(file)
    if (
        file.format != "TIFF"
    ):  # The tags of that one go as it is loaded, the EXIF of others may come with the end.
        file.load()
    orientation, exif = _descriptive(file, notes)
    profile = file.info.get("icc_profile") or None
    if ";16" in raw and not raw.startswith("I"):
        pixels = _sixteen_bits(file, source, raw, orientation)
    else:
        image = _plain(_upright(file, orientation), profile, notes)
        pixels = np.array(image, np.uint16 if image.mode.startswith("I") else np.uint8)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    alpha = None
    if pixels.shape[2] in (2, 4):
        pixels, alpha = (np.ascontiguousarray(part) for part in (pixels[..., :-1], pixels[..., -1]))
    if profile is not None and profile[16:20] != (b"GRAY" if pixels.shape[2] == 1 else b"RGB "):
        if profile[16:20] != b"CMYK" or file.mode != "CMYK":  # That one has been told.
            notes.append("its colour profile is not one for its kind of pixels and is left out")
        profile = None
    return Photo(pixels, alpha, exif, profile, notes)


def _raw_mode(file: Image.Image) -> str:
    """How the pixels lie in the file, in Pillow's words."""
    tile = getattr(file, "tile", None)
    args = tile[0][3] if tile else ""
    return str(args[0] if isinstance(args, tuple) and args else args)


def _descriptive(file: Image.Image, notes: list[str]) -> tuple[int, Image.Exif | None]:
    """How the pixels are to be turned, and what else of EXIF is worth keeping, if anything."""
    try:
        found, kept = file.getexif(), Image.Exif()
        for tag in DESCRIPTIVE:
            if tag in found:
                kept[tag] = found[tag]
        for tag in (EXIF, GPS):
            # A pointer to another part would point astray.
            if inner := {key: value for key, value in found.get_ifd(tag).items() if key != INTEROPERABILITY}:
                kept[tag] = inner
        kept.tobytes()
        orientation = found.get(ORIENTATION, 1)
        return orientation if orientation in range(1, 9) else 1, kept if len(kept) else None
    except Exception:  # As for pixels: anything.
        notes.append("its EXIF is damaged and left out")
        return 1, None


def _upright(file: Image.Image, orientation: int) -> Image.Image:
    # Pillow turns TIFF as it reads it.
    if orientation == 1 or file.format == "TIFF":
        return file
    return file.transpose(TURNS[orientation])


def _sixteen_bits(file: Image.Image, source: Path | bytes, raw: str, orientation: int) -> np.ndarray:
    """(h,w,2–4) uint16 of colour, or of grey with alpha, of which Pillow keeps 8 bits: the high bytes, then the low.

    The low bytes are what the other byte order takes for the high ones.
    """
    if raw.startswith("LA"):
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=READ) as again:
            _read_as(again, "RGBA")
            return np.array(_upright(again, orientation)).view(">u2").astype(np.uint16)
    big = raw.endswith("B") or (raw.endswith("N") and sys.byteorder == "big")
    high = np.array(_upright(file, orientation), np.uint16)
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=READ) as again:
        _read_as(again, raw[:-1] + ("L" if big else "B"))
        return (high << 8) + np.asarray(_upright(again, orientation))


def _read_as(file: Image.Image, raw: str) -> None:
    assert isinstance(file, ImageFile.ImageFile)
    file.tile = [
        tile._replace(args=(raw, *tile.args[1:]) if isinstance(tile.args, tuple) else raw)
        for tile in file.tile
    ]


def _plain(image: Image.Image, profile: bytes | None, notes: list[str]) -> Image.Image:
    """Any image as L, LA, RGB, RGBA or I;16."""
    mode = image.mode
    if mode == "F":
        raise UsageError(
            "its pixels are 32-bit floats, whose white is not defined; save it with 8 or 16 bits"
        )
    if mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise UsageError(
                f"its values go from {values.min()} to {values.max()}; save it with 8 or 16 bits, 0 to 65535"
            )
        return Image.fromarray(values.astype(np.uint16))
    if mode == "P" and not image.has_transparency_data:
        colours = np.reshape(image.getpalette("RGB") or [0, 0, 0], (-1, 3))
        return image.convert("L" if (colours == colours[:, :1]).all() else "RGB")
    if mode in ("CMYK", "LAB", "YCbCr", "HSV"):
        notes.append(f"its {mode} colours are written as RGB")
        if mode == "CMYK" and profile is not None and profile[16:20] == b"CMYK":
            ours = ImageCms.createProfile("sRGB")
            with contextlib.suppress(ImageCms.PyCMSError):  # A damaged profile.
                theirs = ImageCms.ImageCmsProfile(io.BytesIO(profile))
                return ImageCms.profileToProfile(image, theirs, ours, outputMode="RGB") or image
        return image.convert("RGB")
    grey = mode in ("1", "L", "LA", "La")
    return image.convert(("L" if grey else "RGB") + ("A" if image.has_transparency_data else ""))
