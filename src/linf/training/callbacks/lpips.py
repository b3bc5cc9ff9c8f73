"""LPIPS of validation images during training."""

import os
import zlib
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from linf.data.pairs import ImagePair
from linf.metrics.metric import LPIPS


class ValidationLPIPS(Callback):
    """Logs ``val/lpips`` after each validation: the mean over its images at all scales, with one sample of each.

    Args:
        temperature: The temperature of the samples.
        backbone: The network, see `linf.metrics.networks.LPIPSNetwork`.
        weights: The file of the network's weights; None to find it.
        seed: The seed; each image and scale has its own latents, the same at every validation.

    Raises:
        UsageError: The weights cannot be found.
    """

    def __init__(
        self,
        *,
        temperature: float = 0.8,
        backbone: str = "alex",
        weights: str | os.PathLike[str] | None = None,
        seed: int = 0,
    ) -> None:
        self.temperature, self.seed = temperature, seed
        self.metric = LPIPS(backbone, weights)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reset the metric, on the model's device."""
        self.metric.to(pl_module.device)
        self.metric.reset()

    @torch.no_grad()
    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: ImagePair,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add one image."""
        # As `Evaluation` seeds them.
        seed = zlib.crc32(f"{self.seed} {batch.name} {batch.scale:g}".encode())
        sr = pl_module.model.sample(  # type: ignore[operator, union-attr]
            batch.lr,
            (batch.hr.shape[-2], batch.hr.shape[-1]),
            temperature=self.temperature,
            seed=seed,
        )
        self.metric.update(sr, batch.hr, batch.lr, 0)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the mean over the images of all ranks."""
        pl_module.log("val/lpips", self.metric.compute(), prog_bar=True)
