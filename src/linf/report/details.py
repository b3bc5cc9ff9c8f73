"""What runs have kept of some images: the detail of each in which the systems differ most, by every system."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from PIL import Image

from linf.coordinates import Scale
from linf.errors import UsageError
from linf.evaluation.panels import fullest_square
from linf.evaluation.schema import METRICS, PERCEPTUAL, UNIT, evenly_spaced, kept_folder, nearest_system
from linf.images.read import read_image
from linf.report.about import repeat
from linf.report.evaluations import EvaluationRun
from linf.report.selection import common_headline
from linf.report.style import folded_label
from linf.report.tables import safe_name

SIDE = 96
"""Side of the detail, in HR pixels."""

MOST_IMAGES = 4

Titled = tuple[str, np.ndarray]
"""A title, and an image (H,W,3) or a map (H,W)."""


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
                    raise UsageError(
                        f"cannot read image {path}: {error}; delete it and {repeat(run.folder)}"
                    ) from error
                found.setdefault(shown, []).append(run)
    shared = [shown for shown, keepers in found.items() if len(keepers) == max(map(len, found.values()))]
    datasets = list(dict.fromkeys(shown.dataset for shown in shared))[:MOST_IMAGES]
    each = MOST_IMAGES // max(1, len(datasets))
    chosen = [shown for name in datasets for shown in [of for of in shared if of.dataset == name][:each]]
    return {shown: found[shown] for shown in {shown.name: shown for shown in chosen}.values()}


class Detail(NamedTuple):
    """The square of an image in which its systems differ most, by each of them.

    Attributes:
        shown: the image.
        keepers: the runs that have kept it.
        whole: all of HR (H,W,3).
        square: rows and columns of the detail; what follows is of these.
        hr: HR.
        lr: LR, enlarged to HR's size without interpolation.
        shared: what does not depend on τ: bicubic, and models without temperatures.
        rows: each run that samples, or whose LR is not that of the first: its images by system, and its maps. Another
            LR is among the images, and bicubic of it.
    """

    shown: ShownImage
    keepers: list[EvaluationRun]
    whole: np.ndarray
    square: tuple[slice, slice]
    hr: np.ndarray
    lr: np.ndarray
    shared: list[Titled]
    rows: list[tuple[EvaluationRun, dict[str, Titled], list[Titled]]]


def read_details(runs: Sequence[EvaluationRun]) -> list[Detail]:
    """Read each of `shown_images` by every system of the runs that have kept it; in memory only details stay."""
    headline = common_headline(runs)
    return [_read(shown, keepers, headline) for shown, keepers in shown_images(runs).items()]


def _read(shown: ShownImage, keepers: list[EvaluationRun], headline: str) -> Detail:
    hr, lr = _image(shown, keepers[0], "HR.png"), read_image(shown.path(keepers[0], "LR.png"))
    shared: list[Titled] = []
    rows: list[tuple[EvaluationRun, dict[str, Titled], list[Titled]]] = []
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

    def cut(each: Titled) -> Titled:
        return each[0], each[1][square].copy()

    rows = [
        (run, {system: cut(each) for system, each in own.items()}, [cut(each) for each in maps])
        for run, own, maps in rows
    ]
    lr = _enlarged(lr, shown)[square].copy()
    return Detail(shown, keepers, hr, square, hr[square], lr, [cut(each) for each in shared], rows)


def _enlarged(lr: np.ndarray, shown: ShownImage) -> np.ndarray:
    return np.asarray(Image.fromarray(lr).resize(shown.size, Image.Resampling.NEAREST))


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
        raise UsageError(
            f"{path} is truncated or not an array ({error}): delete it and {repeat(run.folder)}"
        ) from error
    if image.shape[1::-1] != shown.size:
        raise UsageError(f"{path} differs in size from HR.png: delete both and {repeat(run.folder)}")
    return image


def _maps(shown: ShownImage, run: EvaluationRun) -> list[Titled]:
    """The maps (H,W) that a run has kept: deviation in grey levels, and the best temperature of each pixel."""
    maps = [
        ("σ at τ=1\ngrey levels", "deviation.npy", 255),
        ("best τ\nlowest LPIPS", "best_temperature.npy", 1),
    ]
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
