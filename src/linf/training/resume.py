"""A resumed run's optimizer and schedule: the progress of the checkpoint, the settings of the command.

A checkpoint stores an optimizer's settings beside its state, and a schedule's beside its position. Lightning restores
all of it, so that a new rate, decay or schedule would be passed over. Here the settings are made anew: a twin of the
optimizer goes through the schedule as the command has it, as many steps as the run has taken. Where no setting changed
this gives what the checkpoint holds, to the last bit.
"""

import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from linf.errors import UsageError

log = logging.getLogger(__name__)

MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
MakeScheduler = Callable[[torch.optim.Optimizer], Any]

ANEW = "or start anew from its weights: init_from=… in place of ckpt_path, in a new folder"
"""What to do where a checkpoint cannot be resumed with the settings of the command."""


def construct(setting: str, make: Callable[[Any], Any], given: Any) -> Any:
    """Make an optimizer of parameters, or a schedule of an optimizer; raise UsageError if its settings are refused."""
    try:
        return make(given)
    except (ValueError, TypeError, ZeroDivisionError) as error:
        hint = "; give trainer.max_steps=…" if "total_steps" in str(error) else ""
        raise UsageError(f"{setting}: {error}{hint}") from error


def step_schedule(scheduler: Any) -> None:
    """Take one step of a schedule; raise UsageError where it has ended."""
    try:
        scheduler.step()
    except ValueError as error:  # OneCycleLR's, the one schedule with an end.
        raise UsageError(
            f"the schedule {type(scheduler).__name__} ends after {getattr(scheduler, 'total_steps', 'fewer')} steps, "
            "and the run goes on: give it more (scheduler.total_steps=…, or trainer.max_steps=… with "
            "task.scheduler_interval=step)"
        ) from error


def apply_settings(
    checkpoint: dict[str, Any],
    parameters: Sequence[nn.Parameter],
    optimizer: MakeOptimizer,
    scheduler: MakeScheduler | None,
    interval: str,
) -> None:
    """Put the settings of the command in place of those in a Lightning checkpoint, and log what changed.

    Args:
        checkpoint: What Lightning is about to restore; changed in place.
        parameters: What the run trains.
        optimizer: See `linf.training.Training`.
        scheduler: See `linf.training.Training`.
        interval: How often the schedule steps, ``epoch`` or ``step``.

    Raises:
        UsageError: If the checkpoint holds the state of another optimizer or of other parameters, or if the schedule
            ends before the step that the checkpoint has reached.
    """
    if not checkpoint.get("optimizer_states"):
        raise UsageError(f"the checkpoint holds no state of an optimizer: choose another, {ANEW}")
    stored = checkpoint["optimizer_states"][0]
    twin = _twin(optimizer, parameters)
    _check_state(stored, twin, parameters)
    twin = _twin(optimizer, parameters)  # Anew, since `_check_state` has taken a step with it.
    position = _position(checkpoint, interval)
    schedule = None
    if scheduler is not None:
        schedule = construct("task.scheduler", scheduler, twin)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # About steps of the schedule without steps of the optimizer.
            for _ in range(position):
                step_schedule(schedule)
    changed = list(_changes(stored, checkpoint["lr_schedulers"], twin, schedule))
    for group, new in zip(stored["param_groups"], twin.param_groups, strict=True):
        kept = {"params": group["params"]}
        group.clear()
        group.update({key: value for key, value in new.items() if key != "params"} | kept)
    checkpoint["lr_schedulers"] = [] if schedule is None else [schedule.state_dict()]
    if changed:
        log.warning("resuming with other settings than the checkpoint's: %s", ", ".join(changed))


def match_layout(optimizer: torch.optim.Optimizer) -> None:
    """Lay the state of an optimizer out in memory as its parameters are. A checkpoint has the layout of the run that
    wrote it, such as channels-last, and a fused optimizer takes it for the one of the parameters.
    """
    for p, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == p.shape and value.stride() != p.stride():
                state[key] = torch.empty_like(p, dtype=value.dtype).copy_(value)


def reopen_epoch(checkpoint: dict[str, Any], accumulated: int) -> None:
    """Let a run go on with an epoch that a limit of steps or of time cut short, which Lightning counts as done.

    Args:
        checkpoint: What Lightning is about to restore; changed in place.
        accumulated: The batches of a step. An epoch that ended in the middle of one stays done.
    """
    if "loops" not in checkpoint:  # Without them Lightning begins at the first epoch.
        return
    loop = checkpoint["loops"]["fit_loop"]
    epochs, batches = loop["epoch_progress"], loop["epoch_loop.batch_progress"]
    done = epochs["current"]["processed"] == epochs["current"]["ready"] > epochs["current"]["completed"]
    if done and not batches["is_last_batch"] and batches["current"]["processed"] % accumulated == 0:
        for count in (epochs["current"], epochs["total"]):
            count["processed"] -= 1


def reached_limits(trainer: pl.Trainer) -> str:
    """Return in words which settings let a training take no step more."""
    limits = []
    if trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps:
        limits.append(f"trainer.max_steps={trainer.max_steps}")
    progress: Any = trainer.fit_loop.epoch_progress
    # Lightning counts an epoch as completed only after it is saved.
    if trainer.max_epochs not in (None, -1) and progress.current.processed >= trainer.max_epochs:
        limits.append(f"trainer.max_epochs={trainer.max_epochs}")
    return " and ".join(limits) or "trainer.max_time"


def _twin(optimizer: MakeOptimizer, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """Return an optimizer like the run's, of one small parameter for each number of dimensions."""
    dimensions = sorted({p.ndim for p in parameters})
    small = [nn.Parameter(torch.zeros((1,) * n, dtype=parameters[0].dtype)) for n in dimensions]
    return construct("task.optimizer", optimizer, small)


def _check_state(
    stored: Mapping[str, Any], twin: torch.optim.Optimizer, parameters: Sequence[nn.Parameter]
) -> None:
    count = sum(len(group["params"]) for group in stored["param_groups"])
    if count != len(parameters) or len(stored["param_groups"]) != len(twin.param_groups):
        raise UsageError(
            f"the checkpoint trained {count} tensors, and this run trains {len(parameters)}: give the task and the "
            f"optimizer that it was trained with, {ANEW}"
        )
    for group in twin.param_groups:
        for p in group["params"]:
            p.grad = torch.zeros_like(p)
    twin.step(lambda: 0.0)
    here, there = ({key for of in state.values() for key in of} for state in (twin.state, stored["state"]))
    if stored["state"] and here != there:
        raise UsageError(
            f"the checkpoint holds the state of another optimizer ({_key_list(there)}) than this run's "
            f"{type(twin).__name__} ({_key_list(here)}): keep the optimizer that it was trained with, {ANEW}"
        )


def _key_list(keys: Iterable[str]) -> str:
    return ", ".join(sorted(keys)) or "none"


def _position(checkpoint: Mapping[str, Any], interval: str) -> int:
    """Return how many steps of a schedule the run has taken."""
    if interval == "step":
        return checkpoint["global_step"]
    epoch = checkpoint["epoch"]
    stepped = [state["last_epoch"] for state in checkpoint["lr_schedulers"] if "last_epoch" in state]
    # Lightning takes the step after an epoch's last batch, and counts the epoch after its validation.
    if stepped and stepped[0] in (epoch, epoch + 1):
        return stepped[0]
    loop = checkpoint["loops"]["fit_loop"]
    validating = loop["epoch_progress"]["current"]["ready"] > epoch
    return epoch + int(validating and loop["epoch_loop.batch_progress"]["is_last_batch"])


def _changes(
    stored: Mapping[str, Any],
    schedules: Sequence[Mapping[str, Any]],
    twin: torch.optim.Optimizer,
    schedule: Any,
) -> Iterator[str]:
    """Yield in words each setting in which the command differs from the checkpoint."""
    for old, new in zip(stored["param_groups"], twin.param_groups, strict=True):
        for key in sorted(new.keys() - {"params", "initial_lr"}):
            if key in old and _plain(old[key]) != _plain(new[key]):
                yield f"{key} {_plain(old[key])} → {_plain(new[key])}"
    before, now = (dict(schedules[0]) if schedules else {}), (schedule.state_dict() if schedule else {})
    if bool(before) != bool(now):
        yield "a schedule" if now else "no schedule"
    for key in sorted(before.keys() & now.keys()):
        if not (key.startswith("_") or key in ("last_epoch", "base_lrs")) and _plain(before[key]) != _plain(
            now[key]
        ):
            yield f"{key} {_plain(before[key])} → {_plain(now[key])}"
    if (total := now.get("total_steps")) != (less := before.get("total_steps")) and total and less:
        yield f"so the schedule is stretched from {less} to {total} steps"


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, Mapping):  # MultiStepLR counts its milestones.
        return sorted(value)
    return value
