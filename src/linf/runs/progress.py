"""Lightning's callback that writes down how far a training is, for ``linf sweep status``."""

import json
import math
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from linf.errors import UsageError
from linf.files import atomic_write
from linf.runs.record import PROGRESS_FILE, TrainingProgress, now
from linf.training.length import planned_steps, timer_left
from linf.training.trainer import validates


class ProgressFile(Callback):
    """Writes ``progress.json`` to the run's folder: step, number of steps, speed and time left.

    Only the first rank writes, and nothing is read from the device.

    Args:
        folder: The run's folder.
        seconds: The time from one writing to the next.

    Raises:
        UsageError: That time is not above 0.
    """

    def __init__(self, folder: str, seconds: float = 10) -> None:
        if not seconds > 0:
            raise UsageError(f"seconds is {seconds}: give a time above 0, or callbacks.progress_file=null")
        self.folder, self.seconds = Path(folder), seconds

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        steps = planned_steps(trainer)
        self.steps = int(steps) if math.isfinite(steps) else None
        model = pl_module.get_submodule("model")
        self.parameters = sum(p.numel() for p in model.parameters())
        self.speed: float | None = None
        # Time counts from the end of the first batch, which may compile.
        self.began: tuple[float, int] | None = None
        self.last, self.paused = (time.monotonic(), trainer.global_step), 0.0
        self._write(trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        at, step = time.monotonic(), trainer.global_step
        if self.began is None:
            self.began = self.last = (at, step)
        elif at - self.last[0] >= self.seconds and step > self.last[1]:
            self._measure(at, step)
            self._write(trainer)

    def on_validation_start(self, *_: Any) -> None:
        self.paused_at = time.monotonic()

    def on_validation_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if validates(trainer):
            self.paused += time.monotonic() - self.paused_at

    def on_train_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if self.began is not None and trainer.global_step > self.last[1]:
            self._measure(time.monotonic(), trainer.global_step)
        self._write(trainer)

    def _measure(self, at: float, step: int) -> None:
        self.speed = (step - self.last[1]) / max(at - self.last[0] - self.paused, 1e-9)
        self.last, self.paused = (at, step), 0.0

    def _write(self, trainer: pl.Trainer) -> None:
        if not trainer.is_global_zero:
            return
        progress = TrainingProgress(
            trainer.global_step, self.steps, self.speed, self._left(trainer), self.parameters, now()
        )
        with suppress(OSError), atomic_write(self.folder / PROGRESS_FILE) as part:  # Training matters more.
            part.write_text(json.dumps(asdict(progress)) + "\n", encoding="utf-8")

    def _left(self, trainer: pl.Trainer) -> float | None:
        """Return the seconds to the end, at the mean speed of this start with its validations."""
        left = math.inf
        if self.steps is not None and self.began is not None and self.last[1] > self.began[1]:
            each = (self.last[0] - self.began[0]) / (self.last[1] - self.began[1])
            left = each * (self.steps - trainer.global_step)
        left = min(left, timer_left(trainer))
        return left if math.isfinite(left) else None
