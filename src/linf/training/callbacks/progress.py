"""The progress bar."""

import pytorch_lightning as pl
from pytorch_lightning.callbacks import TQDMProgressBar


class ProgressBar(TQDMProgressBar):
    """Lightning's bar, closed when a run fails, so that the error message starts on a line of its own."""

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Close the bar."""
        if self._train_progress_bar is not None:
            self._train_progress_bar.close()
