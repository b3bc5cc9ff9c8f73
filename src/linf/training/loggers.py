"""A W&B logger for runs that are killed, restarted or swept, and that go on when W&B does not answer."""

import logging
import os
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.loggers.logger import DummyExperiment, rank_zero_experiment
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from linf.files import atomic_write

log = logging.getLogger(__name__)

LONGEST_TAG = 64
"""Characters that W&B takes for a tag."""


class Wandb(WandbLogger):
    """Lightning's W&B logger with one W&B run per run folder. A run that is restarted in its folder continues the same
    W&B run, and the W&B run ends with the training. If W&B fails, the logger warns once and stays silent from then on;
    the training and its other loggers go on. Only the first rank logs.

    Args:
        save_dir: Folder of the run; the id of the W&B run is kept in ``wandb/id`` there, and in ``wandb/folder`` where
            this was, since a folder that was copied is another run, and one that was moved is not.
        project: W&B project.
        name: Name of the run.
        group: Group of runs.
        job_type: What the run does.
        entity: User or team; None for that of the account.
        tags: Tags of the run.
        offline: Write to the folder only, for a later ``wandb sync``.
        log_model: Whether the best checkpoint becomes an artifact at the end of a training; ``all`` for one whenever it
            is a new one.
    """

    def __init__(
        self,
        save_dir: str,
        project: str = "linf",
        *,
        name: str | None = None,
        group: str | None = None,
        job_type: str | None = None,
        entity: str | None = None,
        tags: Sequence[str] | None = None,
        offline: bool = False,
        log_model: Literal["all"] | bool = False,
    ) -> None:
        self.id_file = Path(save_dir) / "wandb" / "id"
        run_id = _id_of_folder(self.id_file) or uuid.uuid4().hex[:8]
        run: dict[str, Any] = {"group": group, "job_type": job_type, "entity": entity}
        run["tags"] = [tag[:LONGEST_TAG] for tag in tags or ()]
        if "WANDB_SWEEP_ID" in os.environ:  # Its agent has chosen them.
            run_id, project, run["entity"] = None, None, None  # type: ignore[assignment]
        # The run's own lines say where it is, and its figures are in its files.
        run["settings"] = {"silent": True}
        super().__init__(
            name, save_dir, id=run_id, project=project, offline=offline, log_model=log_model, **run
        )
        self._wandb_init.pop("anonymous")  # Of which W&B says only that it has no effect.

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run, or a dummy that does nothing if W&B has failed."""
        if self._experiment is None and self._id:
            folder = os.path.realpath(self.id_file.parents[1])
            for file, text in (self.id_file, str(self._id)), (self.id_file.with_name("folder"), folder):
                with atomic_write(file) as part:
                    part.write_text(text, errors="surrogateescape")
        begins = self._experiment is None
        try:
            run = WandbLogger.experiment.fget(self)  # type: ignore[attr-defined]
        except Exception as error:
            self._disable(error)
            return self._experiment
        if begins and not isinstance(run, DummyExperiment):
            log.info("W&B run: %s", f"{Path(run.dir).parent}, for wandb sync" if run.offline else run.url)
        return run

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        self._try(super().log_hyperparams, params)

    @rank_zero_only
    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self._try(super().log_metrics, metrics, step)

    @rank_zero_only
    def log_image(self, key: str, images: list[Any], step: int | None = None, **kwargs: Any) -> None:
        self._try(super().log_image, key, images, step, **kwargs)

    @rank_zero_only
    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        self._try(super().after_save_checkpoint, checkpoint_callback)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """End the W&B run, so that the next job of a sweep in this process gets a run of its own."""
        self._try(super().finalize, status)
        if self._experiment is not None:
            self._try(self._experiment.finish, 0 if status == "success" else 1)
            self._experiment = None

    def _try(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        try:
            call(*args, **kwargs)
        except Exception as error:
            self._disable(error)

    def _disable(self, error: Exception) -> None:
        if type(error).__name__ == "UsageError":  # There is no account, which the user can fix.
            raise error
        # Then the failure is known, and this error is the dummy's.
        if isinstance(self._experiment, DummyExperiment):
            return
        message = " ".join(str(error).split()) or type(error).__name__
        log.warning("W&B failed (%s): the run continues without it, and its other logs are complete", message)
        self._experiment = DummyExperiment()  # type: ignore[assignment]


def _id_of_folder(file: Path) -> str | None:
    """Return the id that a run's folder holds; None if there is none, or only that of a folder it was copied from."""
    if not file.is_file():
        return None
    place = file.with_name("folder")
    former = Path(place.read_text(errors="surrogateescape"), *file.parts[-2:]) if place.is_file() else file
    # One folder may have several paths.
    copied = former.is_file() and former.read_text() == file.read_text() and not former.samefile(file)
    return None if copied else file.read_text()
