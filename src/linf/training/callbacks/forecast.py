"""How far a training is and when it will end, told before the hours are spent and after each validation."""

import logging
import math
import time
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from linf.errors import UsageError
from linf.training.length import planned_steps, timer_left
from linf.training.trainer import validates

log = logging.getLogger(__name__)

MANY = 100_000
"""Steps that take a CPU weeks: it takes seconds for each, at any published size."""


class Forecast(Callback):
    """Logs when a training will end: after its first steps, after each validation beside what that measured, and every
    few minutes between two that are far apart.

    Args:
        after: Number of steps, whose time is measured without that of the first.
        minutes: The most minutes from one line to the next.

    Raises:
        UsageError: If the number is below 2, or the minutes are not positive.
    """

    def __init__(self, after: int = 20, minutes: float = 10) -> None:
        if after < 2 or not minutes > 0:
            raise UsageError(
                f"after and minutes are {after} and {minutes}: give a whole number of at least 2, and more than 0"
            )
        self.after, self.minutes = after, minutes

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.steps, self.taken, self.first = planned_steps(trainer), 0, trainer.global_step
        self.started = self.began = self.said = time.monotonic()
        if pl_module.device.type == "cpu" and self.steps - self.first >= MANY:
            log.warning(
                "%s take weeks on a CPU: experiment=demo is a training of minutes, trainer=gpu uses a GPU",
                count_steps(self.steps),
            )

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.taken += 1
        if self.taken == 1:
            self.began = time.monotonic()
        if self.taken == self.after * trainer.accumulate_grad_batches:
            left = self._left(trainer, (self.taken - 1) / trainer.accumulate_grad_batches)
            if left:
                self._say("%s, without validations", left)
        elif self.taken > self.after and time.monotonic() - self.said >= 60 * self.minutes:
            self._say("%s", self._so_far(trainer))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log what validation measured, and the time left by the speed so far, validations included."""
        if not validates(trainer):
            return
        measured = _measured({name: float(value) for name, value in trainer.callback_metrics.items()})
        self._say("%s", self._so_far(trainer, measured))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        steps = trainer.global_step - self.first
        log.info("took %s for %s", _duration(time.monotonic() - self.started), count_steps(steps))

    def _say(self, text: str, *given: str) -> None:
        log.info(text, *given)
        self.said = time.monotonic()

    def _so_far(self, trainer: pl.Trainer, measured: str = "") -> str:
        step = trainer.global_step
        left = self._left(trainer, step - self.first) if step < self.steps else ""
        parts = [
            f"step {step:,}" + (f" of {self.steps:,}" if math.isfinite(self.steps) else ""),
            measured,
            left,
        ]
        return "; ".join(part for part in parts if part)

    def _left(self, trainer: pl.Trainer, taken: float) -> str:
        """Say how long the rest takes and when it ends, from the number of steps since the first; empty if unknown."""
        if taken < 1:  # A run that was resumed in a validation.
            return ""
        seconds = (self.steps - trainer.global_step) * (time.monotonic() - self.began) / taken
        seconds = min(seconds, timer_left(trainer))
        return _until(seconds) if 0 < seconds < math.inf else ""


class EvaluationForecast(Callback):
    """Logs how many images an evaluation has, and every so often how far it is and when it will end.

    Args:
        seconds: From one line to the next; the first comes after a third of them.

    Raises:
        UsageError: If they are not positive.
    """

    def __init__(self, seconds: float = 60) -> None:
        if not seconds > 0:
            raise UsageError(f"seconds is {seconds}: give more than 0")
        self.seconds = seconds

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.began, self.due = time.monotonic(), time.monotonic() + self.seconds / 3
        self.done, self.images = 0, int(sum(trainer.num_test_batches))
        device, ranks = trainer.strategy.root_device.type, trainer.world_size
        share = f" on each of {ranks} ranks" if ranks > 1 else ""
        images = f"{self.images:,} image{'s' * (self.images != 1)}"
        log.info("%s, counting each scale%s; on %s × %s", images, share, ranks, device)

    def on_test_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.done += 1
        now = time.monotonic()
        if now >= self.due and self.done < self.images:
            self.due = now + self.seconds
            left = _until((self.images - self.done) * (now - self.began) / self.done)
            log.info("%s of %s images, counting each scale; %s", self.done, self.images, left)


def _until(seconds: float) -> str:
    ends = datetime.now() + timedelta(seconds=seconds)
    return f"{_duration(seconds)} left, until {ends:%a %d %b, %H:%M}"


def _measured(metrics: Mapping[str, float]) -> str:
    """What a validation measured, by scale beside bicubic, in one line."""
    psnr = {name: value for name, value in metrics.items() if name.startswith("val/psnr_x")}
    of_bicubic = {name: metrics.get(name.replace("val/", "bicubic/")) for name in psnr}
    words = [
        f"×{name.removeprefix('val/psnr_x')} {value:.2f}"
        + (f" (bicubic {beside:.2f})" if (beside := of_bicubic[name]) is not None else "")
        for name, value in psnr.items()
    ]
    others = [
        f"{name.removeprefix('val/')} {value:.4g}"
        for name, value in metrics.items()
        if name.startswith("val/") and not name.startswith("val/psnr")
    ]
    return "; ".join([*(["PSNR in dB: " + ", ".join(words)] if words else []), *others])


def count_steps(steps: float) -> str:
    """A number of steps in words."""
    return f"{steps:,.0f} step{'s' * (steps != 1)}" if math.isfinite(steps) else "any number of steps"


def _duration(seconds: float) -> str:
    """A time in its two largest units."""
    if seconds < 60:
        return f"{math.ceil(seconds)} s"
    minutes = math.ceil(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} days {minutes % 1440 // 60} h"
