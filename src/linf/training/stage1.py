"""Stage 1 for Lightning, and what every training shares."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from linf.data.pairs import ImagePair, SRBatch
from linf.errors import UsageError
from linf.metrics.metric import PSNR
from linf.models.baselines import Regression
from linf.models.linf import LINF


class Training(pl.LightningModule):
    """Stage 1: the flow learns the residual patches of random-scale crops.

    Args:
        model: what is trained.
        loss: (model, batch) → parts by name, their sum as ``loss``.
        optimizer: called with the parameters.
        scheduler: called with the optimizer, stepped as ``scheduler_interval`` says; None for a constant rate.
        scheduler_interval: ``epoch`` or ``step``.
        val_scales: the scales the datamodule validates on; each gets its key ``val/psnr_x…``.
        whitening_batches: batches from whose residuals an untrained flow starts (METHOD §4); 0 for none.

    Attributes:
        parts: the latest loss with its parts, to look at where it is not finite.
    """

    def __init__(
        self,
        model: LINF | Regression,
        loss: Callable[..., dict[str, Tensor]],
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        scheduler: Callable[[torch.optim.Optimizer], Any] | None = None,
        *,
        scheduler_interval: str = "epoch",
        val_scales: Sequence[float] = (2, 3, 4),
        whitening_batches: int = 4,
    ) -> None:
        super().__init__()
        if not any(p.requires_grad for p in model.parameters()):
            raise UsageError(f"{type(model).__name__} has nothing to train: evaluate it with eval.py")
        self.model, self.loss = model, loss
        self.optimizer, self.scheduler, self.scheduler_interval = optimizer, scheduler, scheduler_interval
        self.whitening_batches = whitening_batches
        self.parts: dict[str, Tensor] = {}
        # A module's name cannot hold the dot of ×3.3.
        self.val_psnr = nn.ModuleDict({_scale_key(s): PSNR(luma=True) for s in val_scales})

    def on_fit_start(self) -> None:
        """Start an untrained flow from the data; what a checkpoint restored stays as it is."""
        if self.whitening_batches and isinstance(self.model, LINF):
            batches = self.trainer.datamodule.initial_batches(self.whitening_batches)  # type: ignore[attr-defined]
            self.model.initialise(SRBatch(*(part.to(self.device) for part in batch)) for batch in batches)

    def training_step(self, batch: SRBatch, batch_idx: int) -> Tensor:
        """The loss of one batch; each of its parts is logged under ``train/``."""
        parts = self.loss(self.model, batch)
        self.parts = {name: value.detach() for name, value in parts.items()}
        self.log("train/loss", parts["loss"], prog_bar=True, sync_dist=True)
        named = {f"train/{name}": value for name, value in parts.items() if name != "loss"}
        self.log_dict(named, sync_dist=True)
        return parts["loss"]

    def validation_step(self, image: ImagePair, batch_idx: int) -> None:
        """PSNR on Y at τ = 0, as `Evaluation` takes it."""
        sr = self._validated(image.lr, (image.hr.shape[-2], image.hr.shape[-1]))
        border = math.ceil(image.scale)  # As the benchmark protocol has it.
        self._psnr_at(_scale_key(image.scale)).update(sr, image.hr, image.lr, border)

    def _validated(self, lr: Tensor, size: tuple[int, int]) -> Tensor:
        """The image that validation scores."""
        return self.model.sample(lr, size)

    def on_validation_epoch_end(self) -> None:
        """Log ``val/psnr_x…`` for each scale, and their mean as ``val/psnr``."""
        values = {}
        for key in self.val_psnr:
            metric = self._psnr_at(key)
            values[f"val/psnr_{key.replace('_', '.')}"] = metric.compute()
            metric.reset()
        self.log_dict(values)
        self.log("val/psnr", torch.stack(list(values.values())).mean(), prog_bar=True)

    def _psnr_at(self, key: str) -> PSNR:
        metric = self.val_psnr[key]
        assert isinstance(metric, PSNR)
        return metric

    def configure_optimizers(self) -> Any:
        """Optimiser and schedule, as the constructor was given them."""
        optimizer = self.optimizer(p for p in self.parameters() if p.requires_grad)
        if self.scheduler is None:
            return optimizer
        schedule = {"scheduler": self.scheduler(optimizer), "interval": self.scheduler_interval}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the model's config beside its weights, so that `linf.load` needs no other file."""
        checkpoint["linf"] = self.model.config


def _scale_key(scale: float) -> str:
    return f"x{scale:g}".replace(".", "_")
