"""The best checkpoints by validation. The files are the state: what was kept, and at which value, is read from them.

Lightning's `ModelCheckpoint` keeps the names and values in each checkpoint, where they are out of date as soon as a run
goes on from an earlier one or in a folder that was moved; and with a fixed file name every validation overwrites it.
"""

import logging
import math
import zlib
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint

from linf.data.datamodule import datamodule_of
from linf.errors import UsageError
from linf.evaluation.schema import best_end
from linf.training.callbacks.checkpoint import link_file
from linf.training.callbacks.validation import ValidationLPIPS
from linf.training.trainer import callbacks_of, rehearses, validates

log = logging.getLogger(__name__)

LIGHTNING_KEY = (
    "ModelCheckpoint{'monitor': 'val/psnr', 'mode': 'max', 'every_n_train_steps': 0, 'every_n_epochs': 1, "
    "'train_time_interval': None}"
)


class BestCheckpoint(Checkpoint):
    """Keeps the checkpoints with the best values of one figure, each taken right after the validation that measured it
    and with the weights that were validated. ``best.ckpt`` always is the best of all. If several are kept, each also
    has a file ``best_step_….ckpt``. A value that is NaN is never kept.

    Args:
        dirpath: Folder of the checkpoints.
        filename: Name of the best one, without suffix.
        monitor: Name of the figure.
        mode: ``max`` or ``min``; None chooses by the figure.
        save_top_k: Number of checkpoints to keep; -1 for all, 0 for none.

    Raises:
        UsageError: If the mode is the wrong one for the figure, or the number is below -1; when training starts, if
            validation does not measure the figure.
    """

    def __init__(
        self,
        dirpath: str,
        *,
        filename: str = "best",
        monitor: str = "val/psnr",
        mode: str | None = None,
        save_top_k: int = 1,
    ) -> None:
        if save_top_k < -1:
            raise UsageError(f"save_top_k is {save_top_k}: give the number to keep, -1 for all or 0 for none")
        self.folder, self.name, self.monitor = Path(dirpath), filename, monitor
        self.save_top_k = save_top_k  # By this name loggers ask for it, too.
        self.sign = 1 if _mode(monitor, mode) == "max" else -1
        self.kept: dict[Path, tuple[float, int]] = {}
        self.latest: dict[str, Any] = {}

    @property
    def state_key(self) -> str:
        """The key of the state in checkpoints, for ``best`` that of Lightning's callback in the first of them."""
        return LIGHTNING_KEY if self.name == "best" else f"BestCheckpoint {self.name}"

    def state_dict(self) -> dict[str, Any]:
        return self.latest

    @property
    def best(self) -> str:
        """The best checkpoint in words, for the user; empty if there is none."""
        if not self.kept:
            return ""
        path = max(self.kept, key=self._merit)
        value, step = self.kept[path]
        return f"{path} ({self.monitor} {value:.4f} after step {step})"

    # What loggers that keep checkpoints ask of Lightning's `ModelCheckpoint`.

    @property
    def best_model_path(self) -> str:
        """The file of the best checkpoint; empty if there is none."""
        return str(self._path()) if self.kept else ""

    @property
    def best_model_score(self) -> float | None:
        """Its value, or None."""
        return self.kept[max(self.kept, key=self._merit)][0] if self.kept else None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Check that validation will measure the figure, and find what the folder holds."""
        if stage != "fit":
            return
        measured = set(getattr(pl_module, "validated", ()))
        if callbacks_of(trainer, ValidationLPIPS):
            measured.add("val/lpips")
        if self.monitor.startswith("val/") and self.monitor not in measured:
            raise UsageError(
                f"callbacks.checkpoint.monitor is {self.monitor}: give what validation measures, "
                f"{', '.join(sorted(measured))}"
            )
        if trainer.is_global_zero and self.save_top_k:
            self._find(_validation_set(trainer))

    def _find(self, validated: int) -> None:
        """Read the values of the checkpoints in the folder, if the same was measured on the same images."""
        self.kept = {}
        for path in [*sorted(self.folder.glob(f"{self.name}_step_*.ckpt")), self._path()]:
            try:
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
                state, step = content["callbacks"][self.state_key], int(content["global_step"])
                value = float(state["value"] if "value" in state else state["current_score"])
            except Exception:  # There is none, or a damaged one, which `newest` names.
                continue
            same = state.get("monitor") == self.monitor and state.get("validated", validated) == validated
            if not same:
                log.warning(
                    "%s is the best by another measure than this run's (%s on its images and scales): the best is "
                    "chosen anew",
                    path,
                    self.monitor,
                )
            elif not math.isnan(value) and not any(step == other for _, other in self.kept.values()):
                if self.save_top_k != 1 and path == self._path():
                    link_file(path, path := self._path(step))
                self.kept[path] = value, step
        ranked = sorted(self.kept, key=self._merit, reverse=True)
        if self.save_top_k > 0:  # An earlier start may have kept more; those files stay.
            self.kept = {path: self.kept[path] for path in ranked[: self.save_top_k]}
        if self.save_top_k == 1 and ranked and ranked[0] != self._path():
            link_file(ranked[0], self._path())
            self.kept = {self._path(): self.kept[ranked[0]]}

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save a checkpoint if its value is among the best."""
        if not validates(trainer) or rehearses(trainer):
            return
        if self.monitor not in trainer.callback_metrics:
            if self.monitor.startswith("val/"):  # Validation saw none of the images that it is measured on.
                return
            raise UsageError(
                f"callbacks.checkpoint.monitor is {self.monitor}: give one of "
                f"{', '.join(sorted(trainer.callback_metrics))}"
            )
        value, step = float(trainer.callback_metrics[self.monitor]), trainer.global_step
        path = self._path() if self.save_top_k == 1 else self._path(step)
        if not trainer.strategy.broadcast(self._is_kept(value, path)):
            return
        first = not self.kept or self.sign * value > max(map(self._merit, self.kept))
        self.kept[path] = value, step
        self.latest = {"monitor": self.monitor, "value": value, "validated": _validation_set(trainer)}
        trainer.save_checkpoint(path, weights_only=False)
        if trainer.is_global_zero and self.save_top_k != 1:
            if first:
                link_file(path, self._path())
            if 0 < self.save_top_k < len(self.kept):
                worst = min(self.kept, key=self._merit)
                self.kept.pop(worst)
                worst.unlink(missing_ok=True)
        if trainer.is_global_zero and first:
            for logger in trainer.loggers:
                logger.after_save_checkpoint(self)  # type: ignore[arg-type]

    def _path(self, step: int | None = None) -> Path:
        return self.folder / (f"{self.name}.ckpt" if step is None else f"{self.name}_step_{step:07d}.ckpt")

    def _merit(self, path: Path) -> float:
        return self.sign * self.kept[path][0]

    def _is_kept(self, value: float, path: Path | None = None) -> bool:
        if math.isnan(value) or not self.save_top_k:
            return False
        if path in self.kept:  # Of the same step, which a run that went back takes once more.
            return self.sign * value > self._merit(path)
        room = self.save_top_k < 0 or len(self.kept) < self.save_top_k
        return room or self.sign * value > min(map(self._merit, self.kept))


def _mode(monitor: str, mode: str | None) -> str:
    """Return which value of a figure is the best one."""
    usual = best_end(monitor)
    if mode not in (None, "max", "min"):
        raise UsageError(f"callbacks.checkpoint.mode is {mode}: give max, min or null")
    if usual is mode is None:
        raise UsageError(
            f"callbacks.checkpoint.monitor is {monitor}: give a figure such as val/psnr, or whether its best is "
            "callbacks.checkpoint.mode=max or min"
        )
    if usual and mode not in (None, usual):
        raise UsageError(
            f"callbacks.checkpoint.mode is {mode}, which keeps the worst {monitor}: give {usual}, or null"
        )
    return str(mode or usual)


def _validation_set(trainer: pl.Trainer) -> int:
    """Return a number that stands for the images that validation sees, for which alone values compare."""
    data = datamodule_of(trainer)
    pairs = getattr(data, "val_pairs", None)
    keys = [pairs.key(i) for i in range(len(pairs))] if pairs is not None else []
    return zlib.crc32(repr((keys, getattr(data, "val_crop", None), trainer.limit_val_batches)).encode())
