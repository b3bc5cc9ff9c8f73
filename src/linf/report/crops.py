"""Details of images, side by side: the same crop by every system of every run that has kept the image."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from linf.coordinates import Scale
from linf.errors import UsageError
from linf.evaluation.panels import fullest_square
from linf.evaluation.schema import METRICS, PERCEPTUAL, UNIT, evenly_spaced, kept_folder, nearest_system
from linf.images.read import read_image
from linf.report.evaluations import EvaluationRun
from linf.report.selection import common_headline
from linf.report.style import GREY, folded_label, image_grid
from linf.report.tables import safe_name

SIDE = 96
"""Side of the detail, in HR pixels."""

MOST_IMAGES = 4

_DEVIATION = "σ at τ=1\ngrey levels"
_Titled = tuple[str, np.ndarray]
# A title, and an image (H,W,3) or a map (H,W).


class ShownImage(NamedTuple):
    """An image at a scale that runs have kept; if its size differs between runs, it is another image."""

    dataset: str
    image: str
    scale: Scale
    size: tuple[int, int]

    @property
    def name(self) -> str:
        """Name of its figure."""
        return f"details_{safe_name(self.dataset)}_x{self.scale:g}_{safe_name(self.image)}"

    def path(self, run: EvaluationRun, name: str) -> Path:
        """Where a run keeps a system's image or a map, by its name with suffix."""
        return kept_folder(run.folder, *self[:3]) / name


def shown_images(runs: Sequence[EvaluationRun]) -> dict[ShownImage, list[EvaluationRun]]:
    """Choose up to `MOST_IMAGES` of the images that most runs have kept, as many from each data set.

    Returns:
        The runs that have kept each image.
    """
    found: dict[ShownImage, list[EvaluationRun]] = {}
    for run in runs:
        for dataset, image, scale in run.images[list(UNIT)].drop_duplicates().itertuples(index=False):
            path = kept_folder(run.folder, dataset, image, scale) / "HR.png"
            if path.exists():
                try:
                    with Image.open(path) as file:
                        shown = ShownImage(dataset, image, scale, file.size)
                except OSError as error:
                    raise UsageError(f"cannot read image {path}: {error}; run eval.py there again") from error
                found.setdefault(shown, []).append(run)
    shared = [shown for shown, keepers in found.items() if len(keepers) == max(map(len, found.values()))]
    datasets = list(dict.fromkeys(shown.dataset for shown in shared))[:MOST_IMAGES]
    each = MOST_IMAGES // max(1, len(datasets))
    chosen = [shown for name in datasets for shown in [of for of in shared if of.dataset == name][:each]]
    return {shown: found[shown] for shown in {shown.name: shown for shown in chosen}.values()}


def detail_figures(runs: Sequence[EvaluationRun]) -> dict[str, Figure]:
    """A figure for each of `shown_images`: first what does not depend on τ, then a row for each run of `Detail`."""
    headline = common_headline(runs)
    shown = shown_images(runs).items()
    return {image.name: _draw(image, read_detail(image, keepers, headline)) for image, keepers in shown}


class Detail(NamedTuple):
    """What is shown of an image: whole images (H,W,3) with their titles, and where the detail is."""

    hr: np.ndarray
    lr: np.ndarray
    """Enlarged to HR's size without interpolation."""
    shared: list[_Titled]
    """What does not depend on τ: bicubic, and models without temperatures."""
    rows: list[tuple[EvaluationRun, dict[str, _Titled], list[_Titled]]]
    """Each run that samples, or whose LR is not that of the first: its images by system, and its maps. Another LR is
    among the images, and bicubic of it."""
    square: tuple[slice, slice]


def read_detail(shown: ShownImage, keepers: Sequence[EvaluationRun], headline: str) -> Detail:
    """Read an image by every system of the runs that have kept it, and find the square where they differ most."""
    hr, lr = _image(shown, keepers[0], "HR.png"), read_image(shown.path(keepers[0], "LR.png"))
    shared: list[_Titled] = []
    rows: list[tuple[EvaluationRun, dict[str, _Titled], list[_Titled]]] = []
    temperatures, bicubic = _temperatures(shown, keepers), False
    for run in keepers:
        given = read_image(shown.path(run, "LR.png"))
        apart = not np.array_equal(given, lr)  # As where the noise of LR is what runs differ in.
        own = {"LR": ("LR", _enlarged(given, shown))} if apart else {}
        titles = _titles(shown, run, headline, temperatures)
        for system, title in sorted(titles.items(), key=lambda each: each[0] != "bicubic"):
            if apart or (run.samples and system != "bicubic"):
                own[system] = (title, _image(shown, run, f"{system}.png"))
            elif system != "bicubic" or not bicubic:  # All runs of one LR have the same.
                shared.append((title, _image(shown, run, f"{system}.png")))
            bicubic = bicubic or system == "bicubic"
        if own:
            rows.append((run, own, _maps(shown, run)))
    titled = [*shared, *(each for _, own, _ in rows for system, each in own.items() if system != "LR")]
    square = fullest_square(_variance([image for _, image in titled] or [hr]), SIDE)
    return Detail(hr, _enlarged(lr, shown), shared, rows, square)


def _enlarged(lr: np.ndarray, shown: ShownImage) -> np.ndarray:
    return np.asarray(Image.fromarray(lr).resize(shown.size, Image.Resampling.NEAREST))


def _draw(shown: ShownImage, detail: Detail) -> Figure:
    hr, lr, shared, rows, square = detail
    y, x = square
    top = [("LR", lr), *shared, ("HR", hr)]
    # In a column of its own in all rows, so that what stands below each other compares.
    columns = sorted({system: None for _, own, _ in rows for system in own}, key=_column)
    across = [1 + len(top), *(len(columns) + 1 + len(maps) for *_, maps in rows)]
    figure, axes = image_grid(1 + len(rows), max(across))
    _show(axes[0, 0], folded_label(f"{shown.image} ×{shown.scale:g}", 22), hr)
    frame = Rectangle((x.start, y.start), x.stop - x.start, y.stop - y.start, fill=False, edgecolor="red")
    axes[0, 0].add_patch(frame)
    for axis, (title, image) in zip(axes[0, 1:], top, strict=False):
        _show(axis, title, image[square])
    deviations = [values[square] for *_, maps in rows for title, values in maps if title == _DEVIATION]
    highest = max(map(_highest, deviations), default=1)
    for line, (run, own, maps) in zip(axes[1:], rows, strict=True):
        line[0].set_ylabel(folded_label(run.label, 24), fontsize=8)
        cells = [own.get(system) for system in columns]
        for axis, cell in zip(line, [*cells, ("HR", hr), *maps], strict=False):
            if cell is not None:
                title, image = cell
                _show(axis, title, image[square], highest if title == _DEVIATION else _highest(image))
    for axis in axes.flat:
        axis.set_visible(bool(axis.images or axis.get_ylabel()))
    return figure


def _column(system: str) -> tuple[int, float]:
    """Where a system stands in the rows: LR, bicubic, temperatures, others."""
    if system.startswith("τ="):
        return 2, float(system.removeprefix("τ="))
    return {"LR": 0, "bicubic": 1}.get(system, 3), 0


def _kept(shown: ShownImage, run: EvaluationRun) -> pd.DataFrame:
    """A run's figures of an image, a line for each system by which it has kept it, temperatures in their order."""
    of = run.images[(run.images[list(UNIT)] == [*shown[:3]]).all(axis=1)]
    of = of[of["system"].map(lambda system: shown.path(run, f"{system}.png").exists()).astype(bool)]
    return of.sort_values("temperature", kind="stable").set_index("system")


def _temperatures(shown: ShownImage, keepers: Sequence[EvaluationRun]) -> set[str]:
    """The temperatures that are shown of all runs: a few that all have kept, or a few of each if those are two or less;
    and the best of each run.
    """
    kept = [
        [name for name in _kept(shown, run).index if name.startswith("τ=")] for run in keepers if run.samples
    ]
    common = [name for name in kept[0] if all(name in names for names in kept)] if kept else []
    best = {name for run in keepers if (name := nearest(shown, run)) is not None}
    return best.union(*(evenly_spaced(names, 5) for names in ([common] if len(common) > 2 else kept)))


def _titles(
    shown: ShownImage, run: EvaluationRun, headline: str, temperatures: Collection[str]
) -> dict[str, str]:
    """For each system by which a run has kept an image, of temperatures some: name, PSNR and perception."""
    of, best = _kept(shown, run), nearest(shown, run)
    metrics = [name for name in (headline, *[name for name in PERCEPTUAL if name in of][:1]) if name in of]
    titles = {}
    for system in [name for name in of.index if name in temperatures or not name.startswith("τ=")]:
        values = [METRICS[name].format(of[name][system]) for name in metrics if pd.notna(of[name][system])]
        label = run.label if system == run.system and system != "bicubic" else system
        titles[system] = f"{folded_label(label, 22)}\n{' / '.join(values)}" + " ★" * (system == best)
    return titles


def nearest(shown: ShownImage, run: EvaluationRun) -> str | None:
    """The temperature that perception puts nearest to HR, of those that a run has kept; None where it is not known."""
    return nearest_system(_kept(shown, run).reset_index().to_dict("records"))


def _image(shown: ShownImage, run: EvaluationRun, name: str) -> np.ndarray:
    """Read an image or a map, of the size that HR has."""
    path = shown.path(run, name)
    try:
        image = read_image(path) if path.suffix == ".png" else np.load(path).astype(np.float32)
    except UsageError:
        raise
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"{path} is truncated or not an array ({error}); run eval.py there again") from error
    if image.shape[1::-1] != shown.size:
        raise UsageError(f"{path} differs in size from HR.png; run eval.py there again")
    return image


def _maps(shown: ShownImage, run: EvaluationRun) -> list[_Titled]:
    """The maps (H,W) that a run has kept: deviation in grey levels, and the best temperature of each pixel."""
    maps = [(_DEVIATION, "deviation.npy", 255), ("best τ\nlowest LPIPS", "best_temperature.npy", 1)]
    return [
        (title, _image(shown, run, name) * unit)
        for title, name, unit in maps
        if shown.path(run, name).exists()
    ]


def _variance(images: Sequence[np.ndarray]) -> torch.Tensor:
    """Variance between images (H,W,3) at each pixel, (H,W)."""
    total = sum(image.astype(np.float32) for image in images)
    squares = sum(np.square(image, dtype=np.float32) for image in images)
    return torch.from_numpy((squares / len(images) - (total / len(images)) ** 2).mean(2))


def _highest(values: np.ndarray) -> float:
    return max(float(values.max(where=np.isfinite(values), initial=0)), 1e-6)


def _show(axis: Axes, title: str, image: np.ndarray, highest: float = 1) -> None:
    """Show an image (H,W,3), or a map (H,W) from 0 to ``highest`` with a colour bar."""
    drawn = axis.imshow(image, cmap="gray", vmin=0, vmax=highest, interpolation="nearest")
    axis.set_title(title, fontsize=7.5, loc="center")
    if image.ndim == 2:
        # Where all of a map is white, the page is, too.
        axis.spines[:].set(visible=True, color=GREY, linewidth=0.6)
        bar = axis.inset_axes((0.05, -0.1, 0.9, 0.06))
        axis.figure.colorbar(drawn, cax=bar, orientation="horizontal")
        bar.tick_params(labelsize=6, length=2)
        bar.grid(False)
