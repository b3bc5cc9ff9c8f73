"""Checkpoints: written whole, kept in pairs, never further apart than a run can afford to lose."""

import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from linf.errors import Stopped, UsageError
from linf.files import atomic_write, clear
from linf.training.callbacks.signals import StopOnSignal


class CheckpointFiles(TorchCheckpointIO):
    """Lightning's files, which are whole or the ones from before; what cannot be written is told in words."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint beside the one it replaces; UsageError where that fails."""
        try:
            with atomic_write(path) as part:
                torch.save(checkpoint, part)
        # A disk that is full shows as an error of torch's own writer.
        except (OSError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or f"writing failed, {_room(Path(path).parent)}"
            raise UsageError(
                f"cannot write {path}: {reason}; the checkpoints there are whole, and the run goes on from them"
            ) from error


def _room(folder: Path) -> str:
    return f"{shutil.disk_usage(folder).free / 2**20:,.0f} MiB are free"


class LastCheckpoint(StopOnSignal):
    """``last.ckpt``, from which a run goes on: after each validation, every so many minutes, and when a signal ends it.

    The one before stays as ``previous.ckpt``, should the last be damaged. On a signal (see `StopOnSignal`) all ranks
    end after the same step, in a validation after the next.

    Args:
        folder: of the run.
        minutes: between two checkpoints, at most but for a validation; None for after validations only.
    """

    def __init__(self, folder: str, minutes: float | None = 10) -> None:
        super().__init__(folder)
        if minutes is not None and not minutes > 0:
            raise UsageError(f"minutes between checkpoints are {minutes}: give more than 0, or null")
        self.minutes = minutes
        self.last = self.folder / "checkpoints" / "last.ckpt"

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen from here on, in Lightning's place, and remove what a kill left half written."""
        self._listen()
        self.saved, self.step = time.monotonic(), trainer.global_step
        self.good = (
            trainer.ckpt_path is not None and Path(trainer.ckpt_path).absolute() == self.last.absolute()
        )
        if trainer.is_global_zero:
            for name in ("last", "previous", "best"):
                clear(self.last.with_name(f"{name}.ckpt"))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if it is time; stop if a signal has come to any rank."""
        # Part of an accumulated gradient is in no checkpoint; and an epoch's last batch is not yet its end.
        part = (batch_idx + 1) % trainer.accumulate_grad_batches
        if not part and not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self._answer(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The same; and save where training ends between two validations, to go on from for longer."""
        ends = trainer.should_stop or trainer.global_step == trainer.max_steps
        self._answer(trainer, pl_module, save=ends or trainer.current_epoch + 1 == trainer.max_epochs)

    def _answer(self, trainer: pl.Trainer, pl_module: pl.LightningModule, save: bool = False) -> None:
        due = self.minutes is not None and time.monotonic() - self.saved >= 60 * self.minutes
        wishes = torch.tensor([due or save, self.signum or 0], device=pl_module.device, dtype=torch.int32)
        due, signum = trainer.strategy.reduce(wishes, reduce_op="max").tolist()
        if (due or signum) and trainer.global_step > self.step:
            self._save(trainer)
        if signum:
            raise Stopped(signum, f"after step {trainer.global_step}, which is saved", str(self.folder))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        if trainer.is_global_zero and self.good and self.last.exists():
            with atomic_write(self.last.with_name("previous.ckpt")) as part:
                _link(self.last, part)
        trainer.save_checkpoint(self.last, weights_only=False)
        self.good, self.saved, self.step = True, time.monotonic(), trainer.global_step


def _link(source: Path, name: Path) -> None:
    """Another name for a file, or where the file system has no such thing a copy."""
    try:
        os.link(source, name)
    except OSError:
        shutil.copyfile(source, name)
