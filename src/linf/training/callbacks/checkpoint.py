"""Checkpoints that are written whole, kept in pairs, and never far apart."""

import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.plugins.io import TorchCheckpointIO
from rich.filesize import decimal
from torch import Tensor

from linf.data.datamodule import datamodule_of
from linf.errors import Stopped, UsageError
from linf.files import atomic_write, clear
from linf.training.callbacks.termination import StopOnSignal
from linf.training.trainer import rehearses, validates

TORCH_WRITER = ("PytorchStreamWriter", "inline_container")
"""What marks the errors of torch's file writer."""


class CheckpointFiles(TorchCheckpointIO):
    """Lightning's checkpoint files, each replaced only once the new one is whole."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint beside the one it replaces; raise UsageError if that fails."""
        try:
            with atomic_write(path) as part:
                torch.save(checkpoint, part)
        except (OSError, RuntimeError) as error:
            # torch's writer reports a full disk as a RuntimeError; any other is not about the disk.
            if not isinstance(error, OSError) and not any(word in str(error) for word in TORCH_WRITER):
                raise
            free = shutil.disk_usage(Path(path).parent).free
            reason = getattr(error, "strerror", None) or f"writing failed, {decimal(free)} are free"
            raise UsageError(
                f"cannot write {path}: {reason}; the checkpoints there are intact, and the run can be resumed from them"
            ) from error


class Agreement:
    """The largest of each number that any rank has put in, known to all ranks one call later, the same on all.

    No rank waits for a GPU or for another one: the numbers travel among the hosts by gloo while the step goes on. Every
    rank must make the same calls. With one rank a call returns its own numbers.
    """

    def __init__(self) -> None:
        several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        self.group: Any = dist.new_group(backend="gloo") if several else None
        self.pending: tuple[Any, Tensor] | None = None

    def __call__(self, *numbers: int) -> list[int]:
        """Put in numbers of this call; what was put in at the one before, or zeros at the first."""
        if self.group is None:
            return list(numbers)
        agreed = [0] * len(numbers)
        if self.pending is not None:
            work, put_in = self.pending
            work.wait()
            agreed = put_in.tolist()
        mine = torch.tensor(numbers, dtype=torch.int64)
        self.pending = dist.all_reduce(mine, dist.ReduceOp.MAX, self.group, async_op=True), mine
        return agreed


class LastCheckpoint(StopOnSignal):
    """Saves ``last.ckpt``, to resume from, after each validation, every few minutes and when a signal ends the run. The
    checkpoint before stays as ``previous.ckpt``, in case the last is damaged. After a signal (see `StopOnSignal`) all
    ranks end after the same step, that after the one in which it arrived. A validation stops after the current image,
    and the resumed run repeats it; only the one after the last step is finished.

    Args:
        folder: The run's folder.
        minutes: The most minutes between two checkpoints, apart from validations; None to save after validations only.

    Raises:
        UsageError: The minutes are not positive.
    """

    def __init__(self, folder: str, minutes: float | None = 10) -> None:
        super().__init__(folder)
        if minutes is not None and not minutes > 0:
            raise UsageError(f"minutes is {minutes}: give more than 0, or null")
        self.minutes = minutes
        self.last = self.folder / "checkpoints" / "last.ckpt"

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Handle signals from here on, in place of Lightning, and remove files that a killed run left half written."""
        self._handle_signals()
        self.agreement = Agreement()
        self.saved, self.step, self.late = time.monotonic(), trainer.global_step, False
        given = trainer.ckpt_path
        self.good = given is not None and Path(given).absolute() == self.last.absolute()
        if trainer.is_global_zero:
            for name in ("last", "previous", "best"):
                clear(self.last.with_name(f"{name}.ckpt"))

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Save if it is time; stop if a signal has reached any rank, with several ranks one step later."""
        loop = trainer.fit_loop.epoch_loop
        assert trainer.fit_loop._data_fetcher is not None
        # After its last batch an epoch has not yet ended; and a run that resumes from before a validation would leave
        # it out. Ranks need not agree whether it is time for one that comes by the clock.
        timed = trainer.val_check_batch is None
        validates = not timed and loop._should_check_val_fx(trainer.fit_loop._data_fetcher)
        if not loop._should_accumulate() and not loop.batch_progress.is_last_batch and not validates:
            self._save_or_stop(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Do the same; also save if training ends between two validations, so that it can be resumed for longer."""
        ends = trainer.should_stop or trainer.global_step == trainer.max_steps
        self._save_or_stop(trainer, save=ends or trainer.current_epoch + 1 == trainer.max_epochs)

    def _save_or_stop(self, trainer: pl.Trainer, save: bool = False) -> None:
        due = self.late or (self.minutes is not None and time.monotonic() - self.saved >= 60 * self.minutes)
        # Which ranks know of a step later, and then all at the same one.
        wanted, signum = self.agreement(due, self.signum or 0)
        if (wanted or signum or save) and trainer.global_step > self.step:
            self._save(trainer)
        if signum:
            raise Stopped(signum, f"after step {trainer.global_step}, which is saved", str(self.folder))

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        *_: Any,
    ) -> None:
        """Stop if a signal has reached any rank, with several ranks an image later."""
        if not validates(trainer):
            return
        # No training begins with a validation when it has no step left to take; and some ranks may have an image more.
        last = trainer.should_stop or trainer.global_step == trainer.max_steps
        pairs = datamodule_of(trainer).val_pairs
        assert pairs is not None
        shared = len(pairs) // trainer.world_size
        if last or trainer.fit_loop.epoch_loop._should_accumulate() or batch_idx >= shared:
            return
        signum = self.agreement(False, self.signum or 0)[1]
        if signum:
            self._save(trainer)
            step = trainer.global_step
            raise Stopped(signum, f"in the validation after step {step}, which is saved", str(self.folder))

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Let Lightning begin a validation anew if it is in the middle of it: by its counts, at the first image."""
        images = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
        if images["current"]["processed"] > images["current"]["completed"]:
            images["total"]["processed"] = images["total"]["completed"]
            images["current"] = dict.fromkeys(images["current"], 0)
            images["is_last_batch"] = False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save; in the middle of an accumulated gradient, of which no checkpoint holds a part, after the next step."""
        if not validates(trainer):
            return
        loop = trainer.fit_loop.epoch_loop
        self.late = loop._should_accumulate()
        # An epoch that ends early, as by `max_time`, is saved at its end: a run that went on from here would log its
        # steps with numbers one too low.
        ends = trainer.should_stop and not loop.batch_progress.is_last_batch
        if not self.late and not ends:
            self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        if rehearses(trainer):  # A rehearsal, from which no run should resume.
            return
        if trainer.is_global_zero and self.good and self.last.exists():
            link_file(self.last, self.last.with_name("previous.ckpt"))
        trainer.save_checkpoint(self.last, weights_only=False)
        self.good, self.late, self.saved, self.step = True, False, time.monotonic(), trainer.global_step


def link_file(source: Path, target: Path) -> None:
    """Give a file another name, in place of what had it; by a copy where the file system has no hard links."""
    with atomic_write(target) as part:
        try:
            os.link(source, part)
        except OSError:
            shutil.copyfile(source, part)
