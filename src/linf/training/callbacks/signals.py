"""A stop in good order after a signal."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint

from linf.errors import Stopped, stop_signals_to


class StopOnSignal(Checkpoint):  # Of this kind, so that Lightning calls it after all others.
    """An interrupt, SIGTERM, SIGUSR1 or SIGUSR2 ends an evaluation after the image at hand; a second one at once.

    Lightning's own answer to SIGTERM speaks to the other ranks in the middle of whatever they are doing, and under
    Slurm its answer to SIGUSR1 saves in mid-step.

    Args:
        folder: of the run, for what is said.

    Attributes:
        signum: the signal that came, if one did.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.signum: int | None = None
        self.handling = ExitStack()

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen from here on, in Lightning's place."""
        self._listen()

    def on_test_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Stop if a signal has come."""
        if self.signum is not None:
            raise Stopped(self.signum, "between two images, which are finished", str(self.folder))

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Listen no more."""
        self.handling.close()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Listen no more."""
        self.handling.close()

    def _listen(self) -> None:
        self.signum = None
        self.handling.enter_context(stop_signals_to(self._came))

    def _came(self, signum: int, _: object) -> None:
        if self.signum is not None:
            raise KeyboardInterrupt
        self.signum = signum
