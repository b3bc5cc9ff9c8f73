"""W&B for runs that are killed, restarted and swept, and for days when W&B does not answer."""

import logging
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.loggers.logger import DummyExperiment, rank_zero_experiment
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from linf.files import atomic_write

log = logging.getLogger(__name__)


class Wandb(WandbLogger):
    """Lightning's logger, whose run goes on where its folder does, and ends where the training ends.

    What W&B refuses or cannot send is left out with one warning; the training and its other loggers go on. Only the
    first rank speaks to it.

    Args:
        save_dir: the run's folder; ``wandb/id`` in it keeps the run's id.
        project: of W&B.
        name: of the run.
        group: which runs stand together.
        entity: whose; None for the account's own.
        tags: of the run.
        offline: write to the folder only, for ``wandb sync`` later.
    """

    def __init__(
        self,
        save_dir: str,
        project: str = "linf",
        name: str | None = None,
        group: str | None = None,
        entity: str | None = None,
        tags: Sequence[str] | None = None,
        offline: bool = False,
    ) -> None:
        kept = Path(save_dir) / "wandb" / "id"
        self.kept, identity = kept, kept.read_text() if kept.is_file() else uuid.uuid4().hex[:8]
        super().__init__(
            name,
            save_dir,
            id=identity,
            offline=offline,
            project=project,
            group=group,
            entity=entity,
            tags=tags,
        )

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """W&B's run; one that does nothing, where W&B cannot be reached."""
        if self._experiment is None and not self.kept.is_file():
            with atomic_write(self.kept) as part:
                part.write_text(str(self._id))
        try:
            return WandbLogger.experiment.fget(self)  # type: ignore[attr-defined]
        except Exception as error:
            if type(error).__name__ == "UsageError":  # No account: the user can mend that.
                raise
            self._go_on_without(error)
        return self._experiment

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        """Log the config."""
        self._try(super().log_hyperparams, params)

    @rank_zero_only
    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Log scalars."""
        self._try(super().log_metrics, metrics, step)

    @rank_zero_only
    def log_image(self, key: str, images: list[Any], step: int | None = None, **given: Any) -> None:
        """Log images."""
        self._try(super().log_image, key, images, step, **given)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """End W&B's run, so that the next job of a sweep in this process has its own."""
        self._try(super().finalize, status)
        if self._experiment is not None:
            self._try(self._experiment.finish, 0 if status == "success" else 1)
            self._experiment = None

    def _try(self, what: Callable[..., Any], *given: Any, **named: Any) -> None:
        try:
            what(*given, **named)
        except Exception as error:
            if type(error).__name__ == "UsageError":
                raise
            self._go_on_without(error)

    def _go_on_without(self, error: Exception) -> None:
        if isinstance(self._experiment, DummyExperiment):  # Told before; this error is the dummy's.
            return
        words = " ".join(str(error).split()) or type(error).__name__
        log.warning("W&B failed (%s): the run goes on without it, its other logs have everything", words)
        self._experiment = DummyExperiment()  # type: ignore[assignment]
