"""The learned prior for Lightning."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from linf.errors import UsageError
from linf.models.linf import LINF
from linf.training.stage1 import Training
from linf.training.stage2 import record_perceptual


class PriorTraining(Training):
    """The learned prior: a U-Net learns latents for a LINF that stays as it is, to the last bit (METHOD §9).

    Args:
        model: a trained LINF and its prior.
        loss: see `Training`, as for optimizer, scheduler, scheduler_interval and val_scales.
        optimizer: called with the prior's parameters.
        scheduler: called with the optimizer.
    """

    model: LINF

    def __init__(
        self,
        model: LINF,
        loss: Callable[..., dict[str, Tensor]],
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        scheduler: Callable[[torch.optim.Optimizer], Any] | None = None,
        *,
        scheduler_interval: str = "epoch",
        val_scales: Sequence[float] = (2, 3, 4),
    ) -> None:
        if getattr(model, "prior", None) is None:
            raise UsageError(
                f"{type(model).__name__} has no prior to train: give a LINF that has model.prior"
            )
        model.requires_grad_(False)
        model.prior.requires_grad_(True)  # type: ignore[union-attr]
        super().__init__(
            model,
            loss,
            optimizer,
            scheduler,
            scheduler_interval=scheduler_interval,
            val_scales=val_scales,
            whitening_batches=0,
        )
        self.train()

    def train(self, mode: bool = True) -> "PriorTraining":
        """Training mode for the prior alone: a LINF that dropped paths would give other conditions."""
        super().train(mode)
        for part in self.model.children():
            part.train(mode and part is self.model.prior)
        return self

    def on_fit_start(self) -> None:
        """Check that there is a LINF to learn a prior for, and record what the perceptual part is made of."""
        if not self.model.flow.initialised:
            raise UsageError("a prior is learned for a trained LINF: give its checkpoint as init_from=…")
        if getattr(self.loss, "perceptual", None) is not None:
            record_perceptual(self.loss.perceptual, self.trainer)  # type: ignore[attr-defined]

    def _validated(self, lr: Tensor, size: tuple[int, int]) -> Tensor:
        return self.model.sample_prior(lr, size)
