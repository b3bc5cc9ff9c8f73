"""The curves of a training, over all its starts: losses and validation beside bicubic, as a table and a figure."""

import time
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import pandas as pd
import pytorch_lightning as pl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import CSVLogger

from linf.evaluation.fonts import save_figure
from linf.files import atomic_write, folder_errors
from linf.report.logged import logged_rows
from linf.report.style import COLOURS, DOTTED, GREY, STYLE, draw_curve, legend_below, panel_grid, series_style
from linf.training.trainer import validates

SHARE = 0.01
"""The most of a training's time that its figures may take before its end."""

MANY_POINTS = 40
"""Points from which on those of single batches are smoothed."""


class Curves(Callback):
    """Writes ``curves.csv`` after each validation of a training and at its end, and draws ``curves.png`` from it: there
    too, but before the end only as often as it costs next to no time. Both hold what the CSV logger of the run has
    written, over all its starts.

    Args:
        folder: The run's folder.

    Raises:
        UsageError: When they are written, if the folder cannot be written to.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.drawn, self.cost = time.monotonic(), 0.0

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if validates(trainer):
            self._write(trainer, time.monotonic() - self.drawn > self.cost / SHARE)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._write(trainer, True)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Write them also where a signal or an error ends the training."""
        if hasattr(self, "drawn"):
            self._write(trainer, True)

    def _write(self, trainer: pl.Trainer, draw: bool) -> None:
        if not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            if isinstance(logger, CSVLogger):
                logger.save()
        table = read_curves(self.folder)
        if table.empty:
            return
        began = time.monotonic()
        with folder_errors(self.folder):
            with atomic_write(self.folder / "curves.csv") as part:
                table.to_csv(part)
            if draw and (figure := curves_figure(table)):
                save_figure(figure, self.folder / "curves.png")
                self.drawn = time.monotonic()
                self.cost = self.drawn - began


def read_curves(run: Path) -> pd.DataFrame:
    """Read all that a training has logged, a row for each step; of one that a later start repeated, what that logged.

    Args:
        run: The run's folder.

    Returns:
        Columns by the names of what was logged; the index ``step`` is the number of steps taken.
    """
    rows = logged_rows(run)
    return rows.assign(step=rows["step"] + 1).groupby("step").last()


def curves_figure(table: pd.DataFrame) -> Figure | None:
    """Draw the curves of a training: PSNR by scale beside bicubic, other figures of validation, losses, learning rate.

    Args:
        table: That of `read_curves`.

    Returns:
        The figure; None where nothing has two points that a line could join.
    """
    drawn = [str(name) for name in table if table[name].count() > 1]
    psnr = [name for name in drawn if name.startswith("val/psnr_x")]
    kinds = ("val/", "train/", "lr-")
    rest = [name for name in drawn if name.startswith(kinds) and "val/psnr" not in name]
    # A loss that is one part alone is drawn once.
    rest = [name for name in rest if name == "train/loss" or not _same(table, name, "train/loss")]
    rest.sort(key=lambda name: [name.startswith(kind) for kind in kinds].index(True))
    panels = [psnr] * bool(psnr) + [[name] for name in rest]
    if not panels:
        return None
    with matplotlib.rc_context(STYLE):
        figure, axes = panel_grid(len(panels), 3, (3.6, 2.6))
        for names, axis in zip(panels, axes, strict=True):
            axis.set(xlabel="step")
            axis.locator_params(axis="x", nbins=5)
            axis.ticklabel_format(useOffset=False)
            if names is not psnr:
                _draw_one(axis, names[0], table[names[0]].dropna())
        if psnr:
            axes[0].set_title("validation: PSNR on Y, dB ↑")
            legend_below(figure, _draw_psnr(axes[0], psnr, table))
    return figure


def _same(table: pd.DataFrame, name: str, other: str) -> bool:
    return other in table and bool(table[name].equals(table[other]))


def _draw_psnr(axis: Axes, names: Sequence[str], table: pd.DataFrame) -> list[tuple[Artist, str]]:
    """Draw PSNR of each scale and the level of bicubic, and return what the legend names."""
    entries: list[tuple[Artist, str]] = []
    for n, name in enumerate(names):
        values, style = table[name].dropna(), series_style(0, n, alone=True)
        draw_curve(axis, values.index, values, **style)
        entries.append((axis.lines[-1], f"×{name.removeprefix('val/psnr_x')}"))
        of_bicubic = table.get(name.replace("val/", "bicubic/"), pd.Series(dtype=float)).dropna()
        if len(of_bicubic):
            axis.axhline(of_bicubic.iloc[-1], color=style["color"], linestyle=DOTTED)
    if any(name.startswith("bicubic/") for name in table):
        entries.append((Line2D([], [], color=GREY, linestyle=DOTTED), "bicubic"))
    return entries


def _draw_one(axis: Axes, name: str, values: pd.Series) -> None:
    """Draw one figure over the steps; that of single batches pale, and its running mean over it."""
    kind, _, what = name.partition("/")
    titles = {"val": f"validation: {what}", "train": f"training: {what}"}
    axis.set_title(titles.get(kind, "learning rate"))
    if kind == "train" and len(values) >= MANY_POINTS:
        axis.plot(values.index, values, color=COLOURS[0], alpha=0.25, linewidth=0.8)
        low, high = values.quantile([0.01, 0.99])
        axis.set_ylim(low - 0.1 * (high - low), high + 0.1 * (high - low))
        values = values.rolling(len(values) // 20, center=True, min_periods=1).mean()
    if kind.startswith("lr-"):
        axis.set_yscale("log")
    axis.plot(values.index, values, color=COLOURS[0])
