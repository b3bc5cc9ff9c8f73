"""Fonts of the figures: Matplotlib's own, and installed ones for the scripts that it lacks."""

import logging
import warnings
from functools import cache
from pathlib import Path
from typing import IO, Any

from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, fontManager, get_font
from matplotlib.text import Text

from linf.files import atomic_write

log = logging.getLogger(__name__)

_WIDE = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "Noto Sans SC", "Noto Sans JP", "Noto Sans KR"),
    *("Source Han Sans SC", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Droid Sans Fallback"),
    *("PingFang SC", "Hiragino Sans", "Apple SD Gothic Neo"),
    *("Microsoft YaHei", "Yu Gothic", "Malgun Gothic"),
)  # fmt: skip
# Chinese, Japanese and Korean on Linux, macOS and Windows.

# Matplotlib warns of each letter, in each size; `save_figure` does once.
warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font", module=r"linf\.")


@cache
def font_families() -> list[str]:
    """Matplotlib's ``font.family``: what draws a letter, and what draws it where that cannot."""
    installed = set(fontManager.get_font_names())
    return ["sans-serif", *(name for name in _WIDE if name in installed)]


@cache
def _letters() -> frozenset[int]:
    files = (fontManager.findfont(FontProperties(family=[name])) for name in font_families())
    return frozenset().union(*(get_font(file).get_charmap() for file in files))


@cache
def _warn() -> None:
    log.warning(
        "figures show boxes for letters that no font here has: install one that has them, such as fonts-noto-cjk"
    )


def save_figure(figure: Figure, file: Path | IO[bytes], **given: Any) -> None:
    """Save a figure as its ``savefig`` does, a file whole or not at all; log a warning, once, if no font here has a
    letter in it.
    """
    texts = {text.get_text() for text in figure.findobj(Text)}
    if any(letter.isprintable() and ord(letter) not in _letters() for text in texts for letter in text):
        _warn()
    if isinstance(file, Path):
        with atomic_write(file) as part:
            figure.savefig(part, format=file.suffix[1:], **given)
    else:
        figure.savefig(file, **given)
