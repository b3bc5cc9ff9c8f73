"""Schema of the tables that an evaluation leaves: their files and columns, and how each column is printed.

`linf.evaluation` writes by it and `linf.report` reads and prints by it; no other module lists columns.
"""

import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from linf.coordinates import Scale


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: what it is called in print and on axes.
        digits: behind the decimal point; None for as many as a value needs.
        better: 1 where higher is better, -1 where lower is, 0 where neither.
        unit: of its values.
        text: whether it holds words; otherwise it holds numbers.
    """

    title: str
    digits: int | None = 3
    better: int = 0
    unit: str = ""
    text: bool = False

    @property
    def axis(self) -> str:
        """Title and unit, and which direction is better."""
        return self.title + f", {self.unit}" * bool(self.unit) + {1: " ↑", 0: "", -1: " ↓"}[self.better]

    def format(self, value: float) -> str:
        """A value to the column's digits, without its unit."""
        text = f"{value:g}" if self.digits is None else f"{value:.{self.digits}f}"
        if not float(text):  # Not "−0.00", which is neither a gain nor a loss.
            text = text.removeprefix("-")
        return {"nan": "–", "inf": "∞", "-inf": "−∞"}.get(text, text.replace("-", "−"))

    def quantity(self, value: float) -> str:
        """A value with its unit, for a sentence."""
        space = "" if self.unit.startswith("%") else " "
        return self.format(value) + f"{space}{self.unit}" * bool(self.unit)


METRICS = {
    "psnr_y": Column("PSNR (Y)", 2, 1, "dB"),
    "psnr_rgb": Column("PSNR (RGB)", 2, 1, "dB"),
    "ssim": Column("SSIM", 4, 1),
    "lpips_alex": Column("LPIPS", 3, -1),
    "lpips_vgg": Column("LPIPS (VGG)", 3, -1),
    "dists": Column("DISTS", 3, -1),
    "niqe": Column("NIQE", 2, -1),
    "musiq": Column("MUSIQ", 1, 1),
    "maniqa": Column("MANIQA", 3, 1),
    "clipiqa": Column("CLIP-IQA", 3, 1),
    "fid": Column("FID", 1, -1),
    "kid": Column("KID", 4, -1),
    "detail": Column("detail", 0, 0, "% of HR's"),
    "lr_psnr": Column("LR-PSNR", 2, 1, "dB"),
    "self_ssim": Column("SelfSSIM", 4, 1),
    "diversity": Column("diversity", 2, 0, "grey levels"),
    "ntire_diversity": Column("NTIRE diversity", 1, 1, "%"),
    "nonfinite": Column("non-finite", 0, -1),
}
"""The metrics, in the order in which they are printed."""

LARGER = ("psnr", "speed/", *(name for name, column in METRICS.items() if column.better > 0))
SMALLER = ("lpips", "train/", *(name for name, column in METRICS.items() if column.better < 0))
"""Parts of the names of figures of which the larger or the smaller value is better, such as ``val/psnr_x4``."""

HEADLINES = ("psnr_y", "psnr_rgb")
"""The metrics that a protocol may put first."""

OF_SEVERAL_SAMPLES = ("diversity", "ntire_diversity")
"""The metrics that compare the samples of an image, and have no values where there is one."""

PERCEPTUAL = ("lpips_alex", "lpips_vgg", "dists")
"""The metrics that may stand for perception in the perception–distortion plane; the first one measured does."""

COLUMNS = METRICS | {
    "dataset": Column("dataset", text=True),
    "image": Column("image", text=True),
    "scale": Column("scale", None),
    "system": Column("system", text=True),
    "temperature": Column("temperature", None),
    "images": Column("images", 0),
    "lr": Column("LR", text=True),
    "bits_per_dim": Column("bits/dim"),
    "joint_bits_per_dim": Column("joint bits/dim"),
    "whitened_mean": Column("mean of z"),
    "whitened_var": Column("variance of z"),
    "whitened_kurtosis": Column("kurtosis of z"),
    "error_y": Column("squared error (Y)", None),
    "variance_y": Column("variance (Y)", None),
    "error_rgb": Column("squared error (RGB)", None),
    "variance_rgb": Column("variance (RGB)", None),
    "kind": Column("kind", text=True),
    "nominal": Column("nominal", None),
    "covered": Column("covered"),
    "parameters": Column("parameters (M)", 2),
    "gmacs": Column("MACs (G)", 1),
    "seconds": Column("time (s)", 3),
    "memory": Column("memory (MB)", 0),
    "lr_size": Column("LR size", text=True),
    "device": Column("device", text=True),
}
"""Every column by its name in the files."""

UNIT = ("dataset", "image", "scale")
"""The key of what is evaluated at once: one image at one scale."""

CELL = ("dataset", "scale", "system")
"""The key of a mean over images."""

COSTS = ("parameters", "gmacs", "seconds", "memory")
"""What one image costs by a system; see `linf.evaluation.cost.costs`."""

TABLES = {
    "metrics": (*CELL, "temperature", "images", "lr"),
    "images": (*UNIT, "system", "temperature"),
    "distribution": (
        *UNIT,
        *("bits_per_dim", "joint_bits_per_dim", "whitened_mean", "whitened_var", "whitened_kurtosis"),
        *("error_y", "variance_y", "error_rgb", "variance_rgb"),
    ),
    "calibration": (*UNIT, "kind", "nominal", "covered"),
    "cost": ("scale", "system", *COSTS, "lr_size", "device"),
    "deviations": (*UNIT, "system", "temperature"),
}
"""Columns of each table, which is a CSV file; in `metrics`, `images` and `deviations` a column for each metric follows.
`deviations` has the standard deviation of each metric over the samples of an image, where there are several."""

ADDED = {"lr": "not recorded", "joint_bits_per_dim": math.nan}
"""Columns that earlier versions did not write, and what stands for their values."""

FORMER_NAMES = {"pictures": "images", "picture": "image"}
"""Columns, tables and folders by the names that they had in earlier versions."""


def column(name: str) -> Column:
    """A column by its name in the files; of a metric that the schema does not know, one with its name for a title."""
    return COLUMNS.get(name, Column(name))


def best_end(figure: str) -> Literal["max", "min"] | None:
    """Which value of a figure of merit is the best, by its name; None where that does not tell."""
    if any(part in figure for part in LARGER):
        return "max"
    return "min" if any(part in figure for part in SMALLER) else None


def nearest_system(lines: Iterable[Mapping[str, Any]]) -> str | None:
    """The temperature that perception puts nearest to HR, by its system's name; None where it was not measured.

    Args:
        lines: of one image, by `METRICS`, ``system`` and ``temperature``.
    """
    sampled = [line for line in lines if line["temperature"] is not None and line["temperature"] >= 0]
    for name in PERCEPTUAL:
        found = [(line[name], str(line["system"])) for line in sampled if line.get(name) is not None]
        if known := [(value, system) for value, system in found if not math.isnan(value)]:
            return min(known)[1]
    return None


def stored_path(folder: Path, name: str) -> Path:
    """The path of a file or folder of an evaluation, under its former name where only that one exists.

    Args:
        folder: of the evaluation.
        name: such as ``images`` or ``images.csv``.
    """
    stem, dot, suffix = name.partition(".")
    former = [folder / f"{old}{dot}{suffix}" for old, new in FORMER_NAMES.items() if new == stem]
    return next((path for path in former if path.exists() and not (folder / name).exists()), folder / name)


def file_path(name: str) -> str:
    """A name in tables as a path, whose parts are no longer than file systems hold, with a suffix."""

    def part(word: str) -> str:
        content = word.encode(errors="surrogatepass")
        # A byte that is no text is four characters in a table.
        return word if len(content) <= 240 else f"{word[:50]}~{zlib.crc32(content):08x}"

    return "/".join(map(part, name.split("/")))


def kept_folder(folder: Path, dataset: str, image: str, scale: Scale) -> Path:
    """The folder in which an evaluation keeps an image at a scale by every system."""
    return stored_path(folder, "images") / file_path(dataset) / f"x{scale:g}" / file_path(image)


def are_kept(folder: Path, key: tuple[str, str, Scale], systems: Iterable[str]) -> bool:
    """Whether an evaluation has kept the images of a data set, image and scale by all of some systems."""
    return all((kept_folder(folder, *key) / f"{name}.png").is_file() for name in systems)


def kept_names(systems: Iterable[str], rows: Sequence[Mapping[str, Any]], *, all_of_them: bool) -> list[str]:
    """What an evaluation keeps of an image beside maps: of many temperatures six and this image's best, unless it is to
    keep all of them.
    """
    systems = list(systems)
    few = {*evenly_spaced([name for name in systems if name.startswith("τ=")], 6), nearest_system(rows)}
    some = [name for name in systems if all_of_them or not name.startswith("τ=") or name in few]
    return ["LR", "HR", *some]


def evenly_spaced(items: Sequence[Any], most: int) -> list[Any]:
    """Choose at most ``most`` items, evenly spaced from the first to the last, where all would be too many to show."""
    return [items[round(n)] for n in np.linspace(0, len(items) - 1, min(most, len(items)))]
