"""Averaged weights."""

import pytorch_lightning as pl
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor

from linf.errors import UsageError


class EMA(WeightAveraging):
    """Exponential moving average of the weights; validation and checkpoints use it.

    The decay grows as ``min(decay, (1 + n) / (10 + n))`` over the updates n, so that the start is soon forgotten.

    Args:
        decay: of the average, in [0, 1).
    """

    def __init__(self, decay: float = 0.999) -> None:
        def average(averaged: Tensor, current: Tensor, n: Tensor | int) -> Tensor:
            if not current.is_floating_point():  # Flags and counters have no average.
                return current
            kept = min(decay, (1 + int(n)) / (10 + int(n)))
            # In this form the average of what stays the same is the same, to the last bit.
            return current + kept * (averaged - current)

        if not 0 <= decay < 1:
            raise UsageError(f"EMA decay is {decay}: give a number from 0 up and below 1, such as 0.999")
        super().__init__(use_buffers=True, avg_fn=average)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the average in place until the other callbacks have drawn with it."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Train on with the current weights."""
        super().on_validation_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the average to `on_fit_end`, which comes also where there was nothing left to train."""

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the average as the result."""
        super().on_train_end(trainer, pl_module)
