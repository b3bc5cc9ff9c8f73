"""How many steps a training takes, and whether its schedules are as long."""

import logging
import math
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Timer

from linf.errors import UsageError
from linf.training.trainer import callbacks_of

log = logging.getLogger(__name__)


def planned_steps(trainer: pl.Trainer) -> float:
    """The number of all steps of a training that begins or goes on now; infinity if there is no limit.

    Lightning's estimate takes it that every earlier step had as many batches as one has now.
    """
    steps = trainer.estimated_stepping_batches
    if trainer.max_epochs in (None, -1) or not trainer.global_step:
        return steps
    epochs: Any = trainer.fit_loop.epoch_progress.current
    batches: Any = trainer.fit_loop.epoch_loop.batch_progress
    each = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
    left = (trainer.max_epochs - epochs.processed) * each
    if epochs.ready > epochs.processed:  # In the middle of an epoch, or in the validation after it.
        left -= each if batches.is_last_batch else batches.current.ready // trainer.accumulate_grad_batches
    steps = trainer.global_step + max(left, 0)
    return steps if trainer.max_steps == -1 else min(steps, trainer.max_steps)


def timer_left(trainer: pl.Trainer) -> float:
    """The seconds that ``trainer.max_time`` leaves, in which a training may end before its last step; else infinity."""
    left = (timer.time_remaining() for timer in callbacks_of(trainer, Timer))
    return min((max(seconds, 0.0) for seconds in left if seconds is not None), default=math.inf)


def check_schedules(trainer: pl.Trainer) -> None:
    """Compare the length of each schedule that has one with the steps that a run plans to take with it.

    Raises:
        UsageError: If a schedule ends before the run does, unless that may end earlier, after some time.
    """
    limited = bool(callbacks_of(trainer, Timer))
    for config in trainer.lr_scheduler_configs:
        epochs = math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs
        planned = planned_steps(trainer) if config.interval == "step" else epochs
        total, name = getattr(config.scheduler, "total_steps", math.inf), type(config.scheduler).__name__
        if total < planned < math.inf and not limited:
            raise UsageError(
                f"the schedule {name} has {total} steps and the run {planned:g}: give "
                f"scheduler.total_steps={planned:g}, or task.scheduler_interval=step if the schedule counts optimizer "
                "steps and not epochs"
            )
        if planned < total < math.inf:
            log.warning(
                "the schedule %s has %d steps, of which the run takes %d: see scheduler.total_steps and "
                "task.scheduler_interval",
                name,
                total,
                planned,
            )
