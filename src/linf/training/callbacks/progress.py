"""What a user sees of a run while it goes on."""

import pytorch_lightning as pl
from pytorch_lightning.callbacks import TQDMProgressBar


class ProgressBar(TQDMProgressBar):
    """Lightning's bar, which ends its line where a run fails: what is said then stands on a line of its own."""

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Close the bar."""
        if self._train_progress_bar is not None:
            self._train_progress_bar.close()
