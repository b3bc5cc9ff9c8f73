"""PPM images of 16 bits, of which Pillow keeps the high bytes only."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def deep_pixels(file: Image.Image, source: Path | bytes, tile: Sequence[Any] | None) -> np.ndarray | None:
    """The pixels of a PPM, binary or plain, whose white is above 255, (h,w,3) uint16; None of any other file.

    Args:
        file: the opened image.
        source: its path or its content.
        tile: what the file said of its pixels before they were loaded.
    """
    if file.format != "PPM" or file.mode != "RGB" or not tile:
        return None
    kind, offset = tile[0].codec_name, tile[0].offset
    if kind not in ("ppm", "ppm_plain") or (white := tile[0].args[1]) < 256:
        return None
    content = source.read_bytes() if isinstance(source, Path) else source
    count = 3 * file.width * file.height
    if kind == "ppm":
        values = np.frombuffer(content, ">u2", count, offset)
    else:
        values = np.array(re.sub(rb"#[^\r\n]*", b"", content[offset:]).split()[:count], np.uint16)
    levels = (np.minimum(values, white).astype(np.uint32) * 65535 + white // 2) // white
    return levels.astype(np.uint16).reshape(file.height, file.width, 3)
