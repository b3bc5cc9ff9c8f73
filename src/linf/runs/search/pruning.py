"""Lightning's callback that stops a trial of a search early."""

import logging
from collections.abc import Callable

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from linf.errors import UsageError
from linf.runs.search import STORAGE_FAILED, Trial

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
        given = storage is not None and study is not None and trial is not None
        self.trial = Trial(str(storage), str(study), int(trial or 0)) if given else None
        self.startup_trials, self.warmup_steps = startup_trials, warmup_steps

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop at once if the trial was stopped earlier but killed before it ended."""
        self._agree(trainer, pl_module, lambda trial: trial.pruned())

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report the figures, and stop if the trial trails."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        step = trainer.global_step
        figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
        # A trial that has been trained to its end is complete.
        complete = step == trainer.max_steps or (
            trainer.current_epoch + 1 == trainer.max_epochs
            and trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        )

        def trails(trial: Trial) -> bool:
            trial.report(step, figures)
            if self.startup_trials is None or complete or step <= self.warmup_steps:
                return False
            stops = trial.trails(step, self.startup_trials)
            if stops:
                trial.prune(step)
                log.info("pruned after step %d: worse than the median in every objective", step)
            return stops

        self._agree(trainer, pl_module, trails)

    def _agree(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, stops: Callable[[Trial], bool]
    ) -> None:
        if self.trial is None:
            return
        wish = False
        if trainer.is_global_zero:
            try:
                wish = stops(self.trial)
            except STORAGE_FAILED as error:
                log.warning("cannot report step %d to the study: %s", trainer.global_step, error)
        agreed = torch.tensor(wish, device=pl_module.device, dtype=torch.int32)
        if trainer.strategy.reduce(agreed, reduce_op="max").item():
            trainer.should_stop = True
