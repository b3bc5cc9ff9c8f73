"""Data box of the figure: what the name of a folder or a file says of HR, LR, scale and degradation.

The words are those of the field's layouts: ``LR_bicubic/X2`` and ``babyx2`` (EDSR, LIIF), ``X1.50`` and
``X1.50_X4.00``, vertical first (ArbSR), ``GTmod12`` and ``LRbicx2`` (BasicSR), ``LR/LRBI/Set5/x2`` (RCAN), ``Set5_LR``
(IMDN), ``image_SRF_2`` (SelfExSR), ``_HR`` and ``_LR4`` (RealSR), ``LR1dot5`` (RealArbiSR), ``train_sharp_bicubic``
(REDS).
"""

import functools
import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from linf.coordinates import AxisScales, Scale

_NUMBER = r"(\d+(?:(?:\.|dot)\d+)?)"
_BEFORE = r"(?:^|[\s_.-]+|(?<=hr)|(?<=gt)|(?<=lr)|(?<=lq)|(?<=bic)|(?<=bicubic))"
_LR = ("lr", "lq", "input", "inputs", "lowres", "lores")
_FOLDER_WORDS = "|".join((*_LR, "hr", "gt", "groundtruth", "original", "target", "sharp", "highres", "hires"))
_FILE_WORDS = "hr|gt|lr|lq"
_SCALE = rf"(?:x{_NUMBER}|(?:srf|scale)_?{_NUMBER})"
_MARKED = re.compile(rf"{_FILE_WORDS}|x\d|\dx|srf|scale", re.IGNORECASE)  # A file's name that may have marks.


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text, re.IGNORECASE)


_FOLDER_ROLE = _pattern(rf"(?:^|[\s_.-]+)({_FOLDER_WORDS})[\s_-]?{_NUMBER}?$")
_FILE_ROLE = _pattern(rf"(?:[\s_.-]+|(?<=\d))({_FILE_WORDS}){_NUMBER}?$")
_FOLDER_SCALE = _pattern(rf"{_BEFORE}(?:{_SCALE}|{_NUMBER}x)$")
_FILE_SCALE = _pattern(rf"(?<!^)[\s_.-]*(?:{_SCALE}(?:m|d|w\d?)?|(?<=[\s_.-]){_NUMBER}x)$")
_DEGRADATION = _pattern(
    _BEFORE + r"(bicubic|bic|bi|matlab|unknown|mild|difficult|wild|real|blur|bd|dn|noise|mod\d+)$"
)
_FOLDER_VARIANT = _pattern(rf"(?:(.*)[\s_-])?({_FILE_WORDS})[\s_-](.+)")
_FILE_INFIX = _pattern(rf"(?:(.+)[\s_-])?({_FILE_WORDS}){_NUMBER}?[\s_-]+(.+)")

BICUBIC = {"bic", "bi", "matlab"}
"""Other words for a bicubic degradation."""


class Marks(NamedTuple):
    """What a name says.

    Attributes:
        role: ``HR``, ``LR`` or nothing.
        scales: the scale factors in it, two of them, (y, x), for an asymmetric one.
        kind: the degradation of LR, or a variant of HR.
        rest: the name without its marks.
    """

    role: str
    scales: tuple[float, ...]
    kind: str
    rest: str


@functools.lru_cache(10_000)
def read_marks(name: str, *, file: bool = False) -> Marks:
    """Read the marks in a folder's name, such as ``LR_bicubic_X2``, or in a file's, such as ``baby_LRBI_x2``.

    Args:
        name: of a folder, or of a file without its suffix.
        file: whether it is a file's, in which a scale needs no separator and fewer words count.
    """
    if file and not _MARKED.search(name):  # Most names: data sets have many.
        return Marks("", (), "", name)
    rest, word, scales, kinds = name, "", list[str](), list[str]()
    while rest:
        if not word and (found := (_FILE_ROLE if file else _FOLDER_ROLE).search(rest)):
            word, number = found.groups()
            numbers = [number]
        elif found := (_FILE_SCALE if file and not scales else _FOLDER_SCALE).search(rest):
            numbers = list(found.groups())
        elif found := _DEGRADATION.search(rest):
            kind, numbers = found[1].lower(), []
            kinds.insert(0, "bicubic" if kind in BICUBIC else kind)
        else:
            break
        if file and not found.start():  # Of a file's name something must remain.
            break
        scales += filter(None, numbers)
        rest = rest[: found.start()]
    if not word and file and (found := _FILE_INFIX.fullmatch(rest)):
        before, word, number, after = found.groups()
        rest = f"{before}_{after}" if before else after
        scales += filter(None, [number])
    if not word and not file and (found := _FOLDER_VARIANT.fullmatch(rest)):
        rest, word = found[1] or "", found[2]
        kinds.insert(0, found[3].lower())
    if not (word or scales):
        # A word such as unknown alone counts beside other marks, as in LR/unknown/X2.
        return Marks("", (), "" if rest or file else "_".join(kinds), name)
    word = word.lower()
    # They were read from right to left.
    factors = dict.fromkeys(float(scale.lower().replace("dot", ".")) for scale in reversed(scales))
    # LR made of HR may be named after both, as in REDS.
    role = "" if not word else "LR" if word in _LR or "bicubic" in kinds else "HR"
    variant = [word] * (role == "HR") + kinds
    return Marks(role, tuple(factors), "_".join(variant), rest)


@dataclass(frozen=True)
class Member:
    """An image of a dataset, by what its path says.

    Attributes:
        path: the file.
        role: ``HR``, ``LR``, ``?`` where there is a scale alone, or nothing.
        scale: the scale factor, or one for each axis; None where none is said, not a number where more are.
        kind: the degradation of LR, or the variant of HR.
        home: the names of its folders without their marks, which HR and LR share.
        stems: the file's name, and its name without marks.
        group: its folder, down to the last one with marks.
        base: the folder that holds the first one with marks.
        by_file: whether the role is that of the file's name.
    """

    path: Path
    role: str
    scale: Scale | None
    kind: str
    home: tuple[str, ...]
    stems: tuple[str, ...]
    group: Path
    base: Path | None
    by_file: bool = False

    @property
    def keys(self) -> list[tuple[tuple[str, ...], str]]:
        """What two images of a pair have in common, the likeliest first."""
        return [(self.home, stem) for stem in self.stems]


def read_member(path: Path, root: Path, passing: Collection[str] = ()) -> Member:
    """Read the marks in a path below ``root``; folders called as in ``passing``, in lower case, do not count."""
    folders, file = path.relative_to(root).parts[:-1], read_marks(path.stem, file=True)
    marks = [read_marks(folder) for folder in folders]
    if file.role and folders and folders[-1] in map(str, range(2, 17)):  # RealSR's folders 2, 3 and 4.
        marks[-1] = marks[-1]._replace(scales=(float(folders[-1]),), rest="")
    role = next((mark.role for mark in reversed(marks) if mark.role), "")
    scales = next((mark.scales for mark in reversed(marks) if mark.scales), file.scales)
    kinds = [mark.kind for mark in (*marks, file) if mark.kind and (mark.role in ("", role) or not role)]
    if role or file.role:  # As in LR/unknown/X2.
        marks = [mark._replace(rest="") if mark.kind and not mark.role else mark for mark in marks]
    marked = [n for n, (mark, name) in enumerate(zip(marks, folders, strict=True)) if mark.rest != name]
    at = [root.joinpath(*folders[:n]) for n in range(len(folders) + 1)]
    kind = "_".join(dict.fromkeys(kinds))
    scale: Scale | None = math.nan if len(scales) > 2 else scales[0] if scales else None
    if len(scales) == 2:
        scale = AxisScales(*scales)
    if scale is None and (mod := re.fullmatch(r"gt_mod([2-8])", kind)):
        scale = float(mod[1])
    return Member(
        path,
        role or file.role or ("?" if scales else ""),
        scale,
        kind,
        tuple(mark.rest for mark in marks if mark.rest and mark.rest.lower() not in passing),
        tuple(dict.fromkeys((path.stem, file.rest))),
        at[marked[-1] + 1] if marked else path.parent,
        at[marked[0]] if marked else None,
        bool(file.role) and not role,
    )
