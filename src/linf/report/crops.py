"""Systems side by side: the same detail of an image, by every run that has it."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from linf.errors import UsageError
from linf.evaluation.panels import fullest_square
from linf.images.read import read_image
from linf.report.evaluations import Run
from linf.report.style import spread, words
from linf.report.tables import METRICS, PERCEPTION, headline, safe

SIDE = 96
"""Of the detail, in HR pixels."""

TEMPERATURES = 5
"""Columns of one run."""

UNIT = ["dataset", "scale", "image"]
SIGMA = "σ at τ=1\ngrey levels"
Cell = tuple[str, np.ndarray]
"""Title and image (H,W,3) or map (H,W)."""


class Place(NamedTuple):
    """An image that runs have written; what they made of another size is another image."""

    dataset: str
    scale: float
    image: str
    size: tuple[int, int]

    @property
    def name(self) -> str:
        """Of its figure."""
        return f"details_{safe(self.dataset)}_x{self.scale:g}_{safe(self.image)}"

    def folder(self, run: Run) -> Path:
        """Where a run wrote it."""
        return run.folder / "images" / self.dataset / f"x{self.scale:g}" / self.image


def places(runs: Sequence[Run], most: int = 4) -> dict[Place, list[Run]]:
    """Up to ``most`` images, those that most runs have, from each data set as many; with the runs that have them."""
    found: dict[Place, list[Run]] = {}
    for run in runs:
        for dataset, scale, image in dict.fromkeys(zip(*(run.images[key] for key in UNIT), strict=True)):
            path = Place(dataset, scale, image, (0, 0)).folder(run) / "HR.png"
            if path.exists():
                found.setdefault(Place(dataset, scale, image, _size(path)), []).append(run)
    shared = [place for place, having in found.items() if len(having) == max(map(len, found.values()))]
    sets = list(dict.fromkeys(place.dataset for place in shared))[:most]
    each = most // max(1, len(sets))
    chosen = [place for name in sets for place in [p for p in shared if p.dataset == name][:each]]
    return {place: found[place] for place in {place.name: place for place in chosen}.values()}


def _size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as file:
            return file.size
    except OSError as error:
        raise UsageError(f"cannot read image {path}: {error}; run eval.py there again") from error


def details(runs: Sequence[Run]) -> dict[str, Figure]:
    """A figure for each of `places`: what all have in its first row, then a row for each run with temperatures."""
    return {place.name: _detail(place, having, headline(runs)) for place, having in places(runs).items()}


def _detail(place: Place, having: Sequence[Run], first: str) -> Figure:
    hr, lr = _image(place, having[0], "HR"), _image(place, having[0], "LR")
    shared: list[Cell] = []
    rows: list[tuple[Run, list[Cell], list[Cell]]] = []
    bicubic = next((run for run in having if "bicubic" in _systems(place, run)), None)
    for run in having:
        own: list[Cell] = []
        for system in _systems(place, run):
            if system != "bicubic" or run is bicubic:  # It is every run's.
                cells = own if run.samples and system != "bicubic" else shared
                cells.append((_title(place, run, system, first), _image(place, run, system)))
        if own:
            rows.append((run, own, _maps(place, run)))
    made = [image for _, image in [*shared, *(cell for _, own, _ in rows for cell in own)]]
    square = fullest_square(_variance(made or [hr]), SIDE)

    top = [("LR", _enlarged(lr, hr.shape)), *shared, ("HR", hr)]
    figure, axes = _grid(1 + len(rows), max([1 + len(top), *(len(own) + len(maps) for _, own, maps in rows)]))
    _show(axes[0, 0], _folded(f"{place.image} ×{place.scale:g}", 22), hr)
    y, x = square
    frame = Rectangle((x.start, y.start), x.stop - x.start, y.stop - y.start, fill=False, edgecolor="red")
    axes[0, 0].add_patch(frame)
    for axis, (title, image) in zip(axes[0, 1:], top, strict=False):
        _show(axis, title, image[square])
    highest = max(
        (_highest(values[square]) for *_, maps in rows for name, values in maps if name == SIGMA), default=1
    )
    for line, (run, own, maps) in zip(axes[1:], rows, strict=True):
        line[0].set_ylabel(_folded(run.label, 24), fontsize=8)
        for axis, (title, image) in zip(line, own, strict=False):
            _show(axis, title, image[square])
        for axis, (title, values) in zip(line[len(own) :], maps, strict=False):
            _show_map(axis, title, values[square], highest if title == SIGMA else _highest(values))
    for axis in axes.flat:
        axis.set_visible(bool(axis.images))
    return figure


def _systems(place: Place, run: Run) -> list[str]:
    """What a run has drawn, of many temperatures some."""
    of = run.images[(run.images[UNIT] == [place.dataset, place.scale, place.image]).all(axis=1)]
    of = of.sort_values("temperature", kind="stable")["system"]
    there = [system for system in of if (place.folder(run) / f"{system}.png").exists()]
    taus = [system for system in there if system.startswith("τ=")]
    left = set(taus) - set(spread(taus, TEMPERATURES))
    return [system for system in there if system not in left]


def _image(place: Place, run: Run, name: str) -> np.ndarray:
    path = place.folder(run) / f"{name}.png"
    image = read_image(path)
    if name != "LR" and image.shape[1::-1] != place.size:
        raise UsageError(f"{path} is of another size than HR.png; run eval.py there again")
    return image


def _enlarged(lr: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Nearest neighbours."""
    rows, columns = (
        ((np.arange(n) + 0.5) * m / n).astype(int) for n, m in zip(shape[:2], lr.shape, strict=False)
    )
    return lr[rows][:, columns]


def _maps(place: Place, run: Run) -> list[Cell]:
    """Deviation in grey levels and the best temperatures, (H,W), where they are."""
    maps = []
    for title, name, unit in ((SIGMA, "deviation", 255), ("best τ\nleast LPIPS", "best_temperature", 1)):
        path = place.folder(run) / f"{name}.npy"
        if path.exists():
            try:
                values = np.load(path).astype(np.float32) * unit
            except (OSError, ValueError, EOFError) as error:
                raise UsageError(
                    f"{path} is truncated or no array ({error}); run eval.py there again"
                ) from error
            if values.shape[::-1] != place.size:
                raise UsageError(f"{path} is of another size than HR.png; run eval.py there again")
            maps.append((title, values))
    return maps


def _variance(images: Sequence[np.ndarray]) -> torch.Tensor:
    """How far systems differ, (H,W)."""
    total = np.zeros(images[0].shape, np.float32)
    squares = total.copy()
    for image in images:
        values = image.astype(np.float32)
        total += values
        squares += values * values
    return torch.from_numpy((squares / len(images) - (total / len(images)) ** 2).mean(2))


def _title(place: Place, run: Run, system: str, first: str) -> str:
    """Its name, and PSNR and LPIPS of the whole image."""
    of = run.images[(run.images[UNIT] == [place.dataset, place.scale, place.image]).all(axis=1)]
    of = of[of["system"] == system]
    names = [first, *[name for name in PERCEPTION if name in of][:1]]
    values = [
        f"{of[name].iloc[0]:.{METRICS[name].digits}f}"
        for name in names
        if name in of and of[name].notna().all()
    ]
    label = run.label if system == run.system and system != "bicubic" else system
    return f"{_folded(label, 22)}\n{' / '.join(values)}"


def _grid(rows: int, across: int) -> tuple[Figure, np.ndarray]:
    """Square axes without ticks, with room for three lines above and a colour bar below each, in inches."""
    side, gap, above, below, left = 1.4, 0.08, 0.46, 0.34, 0.4
    width, height = left + across * (side + gap), rows * (above + side + below)
    figure = Figure(figsize=(width, height), dpi=150)
    axes = figure.subplots(rows, across, squeeze=False)
    spaces = {"wspace": gap / side, "hspace": (above + below) / side}
    figure.subplots_adjust(left / width, below / height, 1 - gap / width, 1 - above / height, **spaces)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    return figure, axes


def _folded(label: str, width: int) -> str:
    """In two lines."""
    return words(textwrap.fill(label, width, max_lines=2, placeholder="…"))


def _highest(values: np.ndarray) -> float:
    return max(float(values.max(where=np.isfinite(values), initial=0)), 1e-6)


def _show(axis: Axes, title: str, image: np.ndarray) -> None:
    axis.imshow(image, interpolation="nearest")
    axis.set_title(title, fontsize=7.5, loc="center")


def _show_map(axis: Axes, title: str, values: np.ndarray, highest: float) -> None:
    image = axis.imshow(values, cmap="gray", vmin=0, vmax=highest, interpolation="nearest")
    axis.set_title(title, fontsize=7.5, loc="center")
    bar = axis.inset_axes((0.05, -0.1, 0.9, 0.06))
    axis.figure.colorbar(image, cax=bar, orientation="horizontal")
    bar.tick_params(labelsize=6, length=2)
    bar.grid(False)
