"""A stop after a signal, with a message and nothing lost."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint

from linf.errors import Stopped, stop_signals_to


class StopOnSignal(Checkpoint):  # A Checkpoint, so that Lightning calls it after all other callbacks.
    """Ends an evaluation after the current image when one of `STOP_SIGNALS` arrives, and at once on a second one.

    It replaces Lightning's own handlers: that of SIGTERM communicates with the other ranks in the middle of whatever
    they are doing, and under Slurm that of SIGUSR1 saves in the middle of a step.

    Args:
        folder: The run's folder, for the message.

    Attributes:
        signum: The signal that arrived, or None.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.signum: int | None = None
        self.handling = ExitStack()

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Handle signals from here on, in place of Lightning."""
        self._handle_signals()

    def on_test_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Stop if a signal has arrived."""
        if self.signum is not None:
            raise Stopped(self.signum, "after an image, which is saved", str(self.folder))

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Restore the handlers from before."""
        self.handling.close()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Restore the handlers from before."""
        self.handling.close()

    def _handle_signals(self) -> None:
        self.signum = None
        self.handling.enter_context(stop_signals_to(self._receive))

    def _receive(self, signum: int, _: object) -> None:
        if self.signum is not None:
            raise KeyboardInterrupt
        self.signum = signum
