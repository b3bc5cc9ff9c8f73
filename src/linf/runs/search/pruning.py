"""Lightning's callback that stops a trial of a search early."""

import logging
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import numpy as np
import optuna
import pytorch_lightning as pl
import torch
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage
from pytorch_lightning.callbacks import Callback

from linf.errors import UsageError
from linf.runs.search.trial import PRUNED, REPORT, STORAGE_FAILED, open_storage, reports
from linf.training.trainer import validates

log = logging.getLogger(__name__)


class Pruning(Callback):
    """Reports each validation's figures to the study of a search, and stops a trial that trails behind the others.

    A trial trails if it is worse in every objective than the median of the others at the same step. Of several ranks
    only the first talks to the storage, and all stop together. If the storage does not answer, training goes on.

    Args:
        storage: The URL of the study's storage. The search sets it, and the study and the trial; without them the
            callback does nothing.
        study: The study's name.
        trial: The trial's number.
        startup_trials: The number of other trials that must have come as far; None never stops a trial.
        warmup_steps: The number of steps before which no trial is stopped.

    Raises:
        UsageError: A number is out of its range.
    """

    def __init__(
        self,
        storage: str | None = None,
        study: str | None = None,
        trial: int | None = None,
        *,
        startup_trials: int | None = 5,
        warmup_steps: int = 0,
    ) -> None:
        if (startup_trials is not None and startup_trials < 1) or warmup_steps < 0:
            raise UsageError(
                f"startup_trials and warmup_steps are {startup_trials} and {warmup_steps}: give 1 or more, or null, "
                "and 0 or more"
            )
        self.given = storage is not None and study is not None and trial is not None
        self.storage, self.study, self.number = str(storage), str(study), int(trial or 0)
        self.startup_trials, self.warmup_steps = startup_trials, warmup_steps

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop at once if the trial was stopped earlier but killed before it ended."""
        self._agree(trainer, pl_module, self._pruned)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not validates(trainer):
            return
        step = trainer.global_step
        figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
        # A trial that has been trained to its end is complete.
        complete = step == trainer.max_steps or (
            trainer.current_epoch + 1 == trainer.max_epochs
            and trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        )

        def trails() -> bool:
            self.report(step, figures)
            if complete or step <= self.warmup_steps or not self._trails(step):
                return False
            self.prune(step)
            log.info("pruned after step %d: worse than the median in every objective", step)
            return True

        self._agree(trainer, pl_module, trails)

    def report(self, step: int, figures: Mapping[str, float]) -> None:
        """Store the objectives among a validation's figures."""
        storage, _, trial, objectives = self._stored
        known = {name: figures[name] for name in objectives if name in figures}
        storage.set_trial_user_attr(trial, f"{REPORT}{step}", known)

    def prune(self, step: int) -> None:
        """Mark the trial as stopped."""
        storage, _, trial, _ = self._stored
        storage.set_trial_user_attr(trial, PRUNED, step)

    @cached_property
    def _stored(self) -> tuple[BaseStorage, int, int, dict[str, str]]:
        """The storage, the study's and the trial's id in it, and the directions of the objectives."""
        storage = open_storage(self.storage)
        study = storage.get_study_id_from_name(self.study)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            names = optuna.load_study(study_name=self.study, storage=storage).metric_names
        directions = [direction.name.lower() for direction in storage.get_study_directions(study)]
        trial = storage.get_trial_id_from_study_id_trial_number(study, self.number)
        return storage, study, trial, dict(zip(names or (), directions, strict=True))

    def _pruned(self) -> bool:
        storage, _, trial, _ = self._stored
        return PRUNED in storage.get_trial(trial).user_attrs

    def _trails(self, step: int) -> bool:
        if self.startup_trials is None:
            return False
        storage, study, _, objectives = self._stored
        reported = {t.number: reports(t) for t in storage.get_all_trials(study, deepcopy=False)}
        own = reported.pop(self.number)[step]
        # Of each of the others that has come as far, its last figures up to this step.
        others = [
            [figures for at, figures in of.items() if at <= step][-1]
            for of in reported.values()
            if of and min(of) <= step <= max(of)
        ]
        return worse(own, others, objectives, self.startup_trials)

    def _agree(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stops: Callable[[], bool]) -> None:
        if not self.given:
            return
        wish = False
        if trainer.is_global_zero:
            try:
                wish = stops()
            except STORAGE_FAILED as error:
                log.warning("cannot report step %d to the study: %s", trainer.global_step, error)
        agreed = torch.tensor(wish, device=pl_module.device, dtype=torch.int32)
        if trainer.strategy.reduce(agreed, reduce_op="max").item():
            trainer.should_stop = True


def worse(
    own: Mapping[str, float],
    others: Sequence[Mapping[str, float]],
    objectives: Mapping[str, str],
    startup_trials: int,
) -> bool:
    """Tell whether figures are worse in every objective than the median of at least ``startup_trials`` others.

    A single objective stops no trial: one that loses in PSNR and gains in LPIPS may still be on the front.
    """
    for name, direction in objectives.items():
        theirs = [other[name] for other in others if math.isfinite(other.get(name, math.nan))]
        if len(theirs) < max(startup_trials, 1):
            return False
        sign = 1 if direction == "maximize" else -1
        if sign * own.get(name, math.nan) >= sign * np.median(theirs):
            return False
    return True
