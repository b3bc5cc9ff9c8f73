"""What a training is and when it will end, told before the hours are spent."""

import logging
import math
import time
from datetime import datetime, timedelta
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, Timer

from linf.data.paired import PairedCrops
from linf.errors import UsageError

log = logging.getLogger(__name__)

MANY = 100_000
"""Steps that take a CPU weeks: it takes seconds for each, at any published size."""


class Forecast(Callback):
    """Logs the run's folder, images and steps at its start, and after the first steps when it will end.

    Args:
        folder: The run's folder.
        after: Number of steps, whose time is measured without that of the first.

    Raises:
        UsageError: If that number is below 2.
    """

    def __init__(self, folder: str, after: int = 20) -> None:
        if after < 2:
            raise UsageError(f"after is {after}: give a whole number of at least 2")
        self.folder, self.after = folder, after

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.steps, self.taken = trainer.estimated_stepping_batches, 0
        crops = getattr(trainer.datamodule, "train_crops", None)  # type: ignore[attr-defined]
        kind = "LR–HR pairs" if isinstance(crops, PairedCrops) else "images"
        images = f"{len(crops.cache)} {kind}, " if crops is not None else ""
        done = f" from step {trainer.global_step}" if trainer.global_step else ""
        log.info("%s: %s%s steps%s", self.folder, images, _count(self.steps), done)
        if pl_module.device.type == "cpu" and self.steps - trainer.global_step >= MANY:
            log.warning(
                "%s steps take weeks on a CPU: experiment=demo is a training of minutes, trainer=gpu uses a GPU",
                _count(self.steps),
            )

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.taken += 1
        if self.taken == 1:
            self.began = time.monotonic()
        if self.taken != self.after * trainer.accumulate_grad_batches:
            return
        batches = (self.steps - trainer.global_step) * trainer.accumulate_grad_batches
        seconds = batches * (time.monotonic() - self.began) / (self.taken - 1)
        for timer in (callback for callback in trainer.callbacks if isinstance(callback, Timer)):  # type: ignore[attr-defined]
            seconds = min(seconds, timer.time_remaining() or math.inf)
        if math.isfinite(seconds):
            ends = datetime.now() + timedelta(seconds=seconds)
            log.info("%s left, without validations: until %s", _duration(seconds), f"{ends:%a %d %b, %H:%M}")


def _count(steps: float) -> str:
    return f"{steps:,.0f}" if math.isfinite(steps) else "any number of"


def _duration(seconds: float) -> str:
    """A time in its two largest units."""
    minutes = math.ceil(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} days {minutes % 1440 // 60} h"
