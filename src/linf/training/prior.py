"""The LightningModule that trains the learned prior."""

from collections.abc import Callable, Sequence
from typing import Literal

from torch import Tensor

from linf.data.datamodule import datamodule_of
from linf.errors import UsageError
from linf.models.linf import LINF
from linf.training.frozen import prepare_loss
from linf.training.resume import MakeOptimizer, MakeScheduler
from linf.training.stage1 import Training


class PriorTraining(Training):
    """Trains the learned prior: a U-Net learns to predict the latents of a frozen LINF (METHOD §9). The weights of the
    LINF do not change by a single bit.

    Args:
        model: Trained LINF with a prior.
        loss: See `Training`, also for scheduler, scheduler_interval, val_scales and seed.
        optimizer: Called with the prior's parameters.

    Raises:
        UsageError: If the model has no prior, or, when the training starts, if the LINF is untrained.
    """

    model: LINF

    def __init__(
        self,
        model: LINF,
        loss: Callable[..., dict[str, Tensor]],
        optimizer: MakeOptimizer,
        scheduler: MakeScheduler | None = None,
        *,
        scheduler_interval: Literal["epoch", "step"] = "epoch",
        val_scales: Sequence[float | Sequence[float]] = (2, 3, 4),
        seed: int = 0,
    ) -> None:
        if model.prior is None:
            raise UsageError(
                f"{type(model).__name__} has no prior to train: give a LINF that has model.prior"
            )
        super().__init__(
            model,
            loss,
            optimizer,
            scheduler,
            scheduler_interval=scheduler_interval,
            val_scales=val_scales,
            whitening_batches=0,
            seed=seed,
            frozen=[name for name, _ in model.named_children() if name != "prior"],
        )

    def on_fit_start(self) -> None:
        """Check that the LINF is trained, and record the network of the perceptual loss."""
        if not self.model.flow.initialised:
            raise UsageError("the prior needs a trained LINF: give its checkpoint as init_from=…")
        if not datamodule_of(self.trainer).window:
            raise UsageError(
                "a prior is trained on contiguous windows of whole patches: set data.window=true"
            )
        prepare_loss(self)

    def _predict(self, lr: Tensor, size: tuple[int, int]) -> Tensor:
        return self.model.sample_prior(lr, size)
