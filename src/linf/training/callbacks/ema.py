"""Averaged weights, by Lightning's `WeightAveraging`; its EMA class has no warm-up and averages flags and counters."""

import pytorch_lightning as pl
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor

from linf.errors import UsageError


class EMA(WeightAveraging):
    """Keeps an exponential moving average of the weights, which validation and checkpoints use. The decay of update n
    is ``min(decay, (1 + n) / (10 + n))``, so that the first weights are soon forgotten.

    Args:
        decay: Decay of the average, in [0, 1).

    Raises:
        UsageError: If the decay is out of range.
    """

    def __init__(self, decay: float = 0.999) -> None:
        def average(averaged: Tensor, current: Tensor, n: Tensor | int) -> Tensor:
            if not current.is_floating_point():  # Flags and counters cannot be averaged.
                return current
            weight = min(decay, (1 + int(n)) / (10 + int(n)))
            # In this form the average of a constant is that constant, to the last bit.
            return current + weight * (averaged - current)

        if not 0 <= decay < 1:
            raise UsageError(
                f"EMA decay is {decay}: give a number from 0 up to but below 1, for example 0.999"
            )
        super().__init__(use_buffers=True, avg_fn=average)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the averaged weights until the other callbacks have used them."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_validation_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Wait for `on_fit_end`, which is also called when no step was left to take."""

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the averaged weights as the result."""
        super().on_train_end(trainer, pl_module)
