"""Early stopping of a search's trials."""

import logging
from collections.abc import Callable

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from linf.errors import UsageError
from linf.runs.search import STORAGE_FAILED, Trial

log = logging.getLogger(__name__)


class Pruning(Callback):
    """Tells the study of a search each validation's figures, and stops a trial that trails behind the others.

    That is one whose every objective is worse than the median of the others at the same step. Of several ranks the
    first speaks to the storage, and all stop together. Where the storage does not answer, the training goes on.

    Args:
        storage: the study's, its URL; given by the search, as are study and trial. Without a trial nothing is done.
        study: its name.
        trial: its number.
        startup_trials: others that must have come as far; None never stops a trial.
        warmup_steps: up to which none is stopped.
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
        """End at once what was stopped before, and killed before it could end."""
        self._agree(trainer, pl_module, lambda trial: trial.pruned())

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report, and stop if it trails."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        step = trainer.global_step
        figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
        # What has been trained to its end is whole.
        whole = step == trainer.max_steps or (
            trainer.current_epoch + 1 == trainer.max_epochs
            and trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        )

        def trails(trial: Trial) -> bool:
            trial.report(step, figures)
            if self.startup_trials is None or whole or step <= self.warmup_steps:
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
                log.warning("the study does not hear of step %d: %s", trainer.global_step, error)
        agreed = torch.tensor(wish, device=pl_module.device, dtype=torch.int32)
        if trainer.strategy.reduce(agreed, reduce_op="max").item():
            trainer.should_stop = True
