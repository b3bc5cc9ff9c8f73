"""Averaged weights, by Lightning's `WeightAveraging`; its EMA class has no warm-up and averages flags and counters."""

from itertools import chain
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn

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
        if not 0 <= decay < 1:
            raise UsageError(
                f"EMA decay is {decay}: give a number from 0 up to but below 1, for example 0.999"
            )
        super().__init__(use_buffers=True)
        self.decay = decay
        self.swapped = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if self._average_model is not None:  # Its count is read at every step: on the host, without waiting.
            self._average_model.n_averaged = self._average_model.n_averaged.cpu()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Average after each optimizer step: all weights in one operation, where Lightning takes three for each."""
        if trainer.global_step > self._latest_update_step:
            self._update(pl_module)
            self._latest_update_step = trainer.global_step

    @torch.no_grad()
    def _update(self, pl_module: pl.LightningModule) -> None:
        average = self._average_model
        assert average is not None
        n = int(average.n_averaged)
        decay = min(self.decay, (1 + n) / (10 + n)) if n else 0.0
        pairs = [
            *zip(*(chain(m.parameters(), m.buffers()) for m in (average.module, pl_module)), strict=True)
        ]
        # Flags and counters cannot be averaged.
        numbers = [pair for pair in pairs if pair[1].is_floating_point()]
        get_ema_multi_avg_fn(decay)([a for a, _ in numbers], [c.to(a.dtype) for a, c in numbers], n)
        for averaged, current in pairs:
            if not current.is_floating_point():
                averaged.copy_(current)
        average.n_averaged += 1

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_validation_epoch_start(trainer, pl_module)
        self.swapped = True

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the averaged weights until the other callbacks have used them."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_validation_epoch_end(trainer, pl_module)
        self.swapped = False

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save each under its own name, also in a validation, where the model has the averaged weights."""
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self.swapped:
            current, average = checkpoint["state_dict"], checkpoint["current_model_state"]
            checkpoint["state_dict"], checkpoint["current_model_state"] = average, current

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Wait for `on_fit_end`, which is also called when no step was left to take."""

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the averaged weights as the result."""
        super().on_train_end(trainer, pl_module)
