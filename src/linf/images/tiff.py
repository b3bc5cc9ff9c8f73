"""TIFFs that hold more than a photograph: any number of channels, floats, signed numbers and numbers of 32 bits."""

import io
import math
from pathlib import Path
from typing import IO, Any

import numpy as np
import tifffile
import torch
from rich.filesize import decimal

from linf.errors import UsageError
from linf.images.photo import FIRST_FRAME, Layout, Photo
from linf.machine import free_memory

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""The first bytes of TIFF and BigTIFF, in either byte order."""

BIG_TIFF = 2**31
"""Bytes of pixels beyond which a file is written as BigTIFF, since those of TIFF end at 4 GiB."""

PAGES_AS_FRAMES = (0, 1, 3)
"""Numbers of channels for which the pages of a TIFF are frames, of which the first is taken."""

ORIENTATION, EXTRA_SAMPLES = 274, 338
PREMULTIPLIED, STRAIGHT = 1, 2
ALPHA = {PREMULTIPLIED, STRAIGHT}
"""What a further channel may be beside a number of no meaning: transparency, by which colours are multiplied or not."""


def read_layers(source: Path | bytes, channels: int, *, ranged: bool) -> Photo | None:
    """Read a TIFF that Pillow does not read as it is.

    Args:
        source: a file's path or its content.
        channels: that are wanted, 0 for any. Pages are channels where they are so many, but see `PAGES_AS_FRAMES`.
        ranged: whether the values' range is known, so that values of any type will do.

    Returns:
        None for other files and for photographs; otherwise an upright image whose pixels are of the file's type.

    Raises:
        UsageError: the file is damaged, too large, or compressed by what is not installed; without its path.
    """
    try:
        with open(source, "rb") if isinstance(source, Path) else io.BytesIO(source) as file:
            if file.read(4) not in MAGIC:
                return None
            file.seek(0)
            with tifffile.TiffFile(file) as tiff:
                return _layers(tiff, channels, ranged)
    except UsageError:
        raise
    except OSError:  # Which `read_photo` reports, as of any image.
        return None
    except Exception as error:  # Decoders raise anything on broken files.
        reason = " ".join(str(error).split()) or type(error).__name__
        if "imagecodecs" in reason:
            reason += ": pip install imagecodecs, or save it with another compression"
        raise UsageError(f"cannot be read: {reason}") from error


def _layers(tiff: tifffile.TiffFile, channels: int, ranged: bool) -> Photo | None:
    series, page = tiff.series[0], tiff.series[0].keyframe
    sizes = [(axis, n) for axis, n in zip(series.axes, series.shape, strict=True) if n > 1 or axis in "YX"]
    axes, shape = "".join(axis for axis, _ in sizes), tuple(n for _, n in sizes)
    extra: tuple[int, ...] = page.tags[EXTRA_SAMPLES].value if EXTRA_SAMPLES in page.tags else ()
    grey, samples = page.photometric == tifffile.PHOTOMETRIC.MINISBLACK, page.samplesperpixel
    if not grey and page.photometric != tifffile.PHOTOMETRIC.RGB:
        return None
    photo = samples <= 4 and not (grey and samples > 1 and not (samples == 2 and set(extra) <= ALPHA))
    if photo and channels in PAGES_AS_FRAMES and not ranged:
        return None
    need, free = 3 * math.prod(shape) * series.dtype.itemsize, free_memory(torch.device("cpu"))
    if need > free:
        raise UsageError(f"its values of shape {shape} need {decimal(need)}, {decimal(int(free))} are free")
    notes = [f"of a TIFF of {samples} channel{'s' * (samples > 1)} only the pixels are kept"]
    layout: Layout = "contig"
    if axes in ("YX", "YXS"):
        values = series.asarray().reshape(shape)
    elif axes == "SYX":
        values, layout = np.moveaxis(series.asarray().reshape(shape), 0, -1), "separate"
    elif axes[-2:] == "YX" and len(axes) == 3 and channels == shape[0] and channels not in PAGES_AS_FRAMES:
        values, layout = np.moveaxis(series.asarray().reshape(shape), 0, -1), "pages"
    elif channels in PAGES_AS_FRAMES:
        values = tiff.pages[0].asarray()
        values = np.moveaxis(values, 0, -1) if page.planarconfig == 2 and values.ndim == 3 else values
        notes.append(FIRST_FRAME)
    else:
        raise UsageError(
            f"it has {math.prod(shape[:-2])} pages, and {channels} channels are wanted: give as many pages, or "
            "channels side by side"
        )
    values = values[..., None] if values.ndim == 2 else values
    upright = _upright(values, int(page.tags[ORIENTATION].value) if ORIENTATION in page.tags else 1)
    values, alpha = np.ascontiguousarray(upright), None
    if photo and channels in PAGES_AS_FRAMES and set(extra[:1]) & ALPHA:
        values, alpha = _split(values, extra[0] == PREMULTIPLIED)
    return Photo(values, alpha, notes=notes, layout=layout)


def _split(values: np.ndarray, premultiplied: bool) -> tuple[np.ndarray, np.ndarray]:
    """Take (h,w,C+1) apart into (h,w,C) and transparency, uint8 or uint16."""
    values, alpha = (np.ascontiguousarray(part) for part in (values[..., :-1], values[..., -1]))
    white = _opaque(values.dtype)
    if premultiplied:
        whole = values * (np.float32(white) / np.maximum(alpha, 1 if white > 1 else 1e-6))[..., None]
        values = (whole if white == 1 else np.rint(whole.clip(0, white))).astype(values.dtype)
    if alpha.dtype not in (np.uint8, np.uint16):
        alpha = np.rint(alpha.clip(0, None) * (65535 / white)).clip(0, 65535).astype(np.uint16)
    return values, alpha


def _opaque(dtype: np.dtype[Any]) -> float:
    """The value of a channel of transparency where nothing is transparent."""
    return float(np.iinfo(dtype).max) if dtype.kind in "iu" else 1.0


def _upright(values: np.ndarray, orientation: int) -> np.ndarray:
    """Turn (h,w,C) as EXIF's orientation says."""
    if orientation in (5, 6, 7, 8):
        values = values.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return values


def misfit(given: int, channels: int) -> str:
    """What is said of an image with another number of channels than the data set's or the model's."""
    return (
        f"it has {given} channel{'s' * (given > 1)}, and {channels} are asked for: set data.channels={given}, or give "
        "a model that was trained with it"
    )


def deep_layers(source: Path | bytes, channels: int) -> np.ndarray:
    """(h,w,C) uint16 of a photograph whose colours lie in planes, or are multiplied by their transparency, which is the
    last of C = 4; Pillow keeps the high bytes of these or nothing.

    Raises:
        UsageError: it has another number of channels or other values; without its path.
    """
    photo = read_layers(source, 0, ranged=True) if channels else None
    parts = [] if photo is None else [photo.pixels] if photo.alpha is None else [photo.pixels, photo.alpha]
    if not parts or parts[0].dtype != np.uint16 or (pixels := np.dstack(parts)).shape[2] != channels:
        raise UsageError("its channels of more than 8 bits lie in planes: save them side by side")
    return pixels


def unusual_photo(source: Path | bytes) -> Photo | None:
    """A photograph that Pillow does not open: a TIFF of grey with transparency; None for all other files.

    Raises:
        UsageError: it is a TIFF of other channels or values than a photograph's; without its path.
    """
    try:
        layers = read_layers(source, 0, ranged=True)
    except UsageError:
        return None
    if layers is None:
        return None
    given = layers.pixels.shape[2]
    wrong = undefined_white(layers.pixels.dtype) or (None if given in (1, 3) else misfit(given, 3))
    if wrong:
        raise UsageError(wrong)
    return layers if layers.alpha is not None else None


def undefined_white(dtype: np.dtype[Any]) -> str | None:
    """What is said of an image of this type whose range is not known; None where white is the highest number."""
    if dtype in (np.uint8, np.uint16):
        return None
    return (
        f"its values are {dtype}, whose white is not defined: state their range (data.value_range, or --range of linf "
        "upscale)"
    )


def write_layers(out: IO[bytes], values: np.ndarray, layout: Layout, alpha: np.ndarray | None = None) -> None:
    """Write (h,w,C) of any type as TIFF, with the channels laid out as in `Photo.layout`, and transparency."""
    grey = values.shape[2] != 3 or layout == "pages"
    if alpha is not None:
        share = alpha * (_opaque(values.dtype) / _opaque(alpha.dtype))
        share = share if values.dtype.kind == "f" else np.rint(share)
        values = np.dstack([values, share.astype(values.dtype)])
    if layout != "contig":
        values = np.ascontiguousarray(np.moveaxis(values, -1, 0))
    elif values.shape[2] == 1:
        values = values[..., 0]
    tifffile.imwrite(
        out,
        values,
        photometric="minisblack" if grey else "rgb",
        planarconfig=layout if layout != "pages" and values.ndim == 3 else None,
        extrasamples=None if alpha is None else ["unassalpha"],
        compression="zlib",
        bigtiff=values.nbytes > BIG_TIFF,
        metadata=None,
    )
