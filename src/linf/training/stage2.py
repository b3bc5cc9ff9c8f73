"""The LightningModule of stage 2: one or several optimizer steps per batch."""

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, Literal

import torch
from pytorch_lightning.strategies import ParallelStrategy
from torch import Tensor

from linf.data.crops import SRBatch
from linf.data.datamodule import datamodule_of
from linf.errors import UsageError
from linf.losses.flow import Finetune, check_flow
from linf.models.correlation import chosen_correlation
from linf.models.linf import LINF
from linf.training.frozen import prepare_loss
from linf.training.resume import MakeOptimizer, MakeScheduler
from linf.training.stage1 import Training, own_copies

log = logging.getLogger(__name__)


class Finetuning(Training):
    """Stage 2: takes one optimizer step per batch for each group of the loss's parts (METHOD §6). ``[[nll], [l1,
    perceptual]]`` is the published pair of steps: the first on the likelihood, the second on the rest, with the weights
    after the first. ``[[nll, l1, perceptual]]`` is the joint step. All steps of a batch share gradient accumulation,
    clipping, precision and the reduction over ranks; the trainer's counters, the scheduler and the callbacks see them
    as one step.

    Args:
        model: Model with a flow, from stage 1.
        loss: Loss whose parts the steps name.
        steps: Groups of part names. Each part with a weight is in exactly one group; parts without one are skipped.
        optimizer: See `Training`, also for what follows; the seed decides the latents, too.

    Raises:
        UsageError: If the steps do not name each weighted part once, or, when the training starts, if the perceptual
            loss is used without contiguous windows, or on consistent samples of LR that is not clean.
        ValueError: If its latents are to be correlated, and the model does not know how.
    """

    model: LINF
    loss: Finetune

    def __init__(
        self,
        model: LINF,
        loss: Finetune,
        optimizer: MakeOptimizer,
        scheduler: MakeScheduler | None = None,
        *,
        steps: Sequence[Sequence[str]] = (("nll",), ("l1", "perceptual")),
        scheduler_interval: Literal["epoch", "step"] = "epoch",
        val_scales: Sequence[float | Sequence[float]] = (2, 3, 4),
        whitening_batches: int = 0,
        seed: int = 0,
        frozen: Sequence[str] = (),
    ) -> None:
        super().__init__(
            model,
            loss,
            optimizer,
            scheduler,
            scheduler_interval=scheduler_interval,
            val_scales=val_scales,
            whitening_batches=whitening_batches,
            seed=seed,
            frozen=frozen,
        )
        weighted = {name for name, weight in loss.weights.items() if weight}
        named = [name for step in steps for name in step]
        if len(set(named)) < len(named) or not weighted <= set(named) <= loss.weights.keys():
            raise UsageError(
                f"steps are {[list(step) for step in steps]}: name each of {', '.join(loss.weights)} once, for example "
                "[[nll],[l1,perceptual]] or [[nll,l1,perceptual]]"
            )
        self.steps = [kept for step in steps if (kept := [name for name in step if name in weighted])]
        # Of the current optimizer step: its batches, which later groups reuse, their losses, and the means to log.
        self.batches: list[tuple[SRBatch, int]] = []
        self.losses: list[dict[str, Tensor]] = []
        self.means: dict[str, Tensor] = {}

    def on_fit_start(self) -> None:
        """Check that the perceptual loss gets whole windows, and record its network."""
        check_flow(self.model)
        super().on_fit_start()
        if not self.model.flow.initialised:
            log.warning("stage 2 starts from an untrained model: init_from=FILE starts it from stage 1")
        if self.loss.perceptual is None:
            return
        data = datamodule_of(self.trainer)
        if not data.window:
            raise UsageError("the perceptual loss compares whole windows: add data.window=true")
        chosen_correlation(self.model.correlation, self.loss.latents)
        if self.loss.consistency and data.foreign_lr:
            raise UsageError(
                f"task.loss.consistency={self.loss.consistency} takes LR for a bicubic reduction of HR, which "
                "data.pairs and data.degradation do not give: set it to 0"
            )
        prepare_loss(self)

    def training_step(
        self, batch: SRBatch, batch_idx: int, step: int = 0, first: int | None = None
    ) -> Tensor:
        """Return the loss of one step.

        Args:
            batch: Samples of this rank.
            batch_idx: Index of the batch in the epoch.
            step: Index of the step for this batch.
            first: Number of samples of the run, over all ranks, before these; None means the batch at hand.
        """
        if first is None:
            # This counts samples as `EpochSampler` deals them out: two ranks of half the batch get the same latents.
            first = self.first_sample(len(batch.lr))
            if batch_idx % self.trainer.accumulate_grad_batches == 0:
                self.batches, self.losses = [], []
            self.batches.append((batch, first))
        self.draw(len(batch.lr), first)
        names = self.steps[step]
        z = self.loss.sample_latents(self.model, batch, self.seed, first) if "perceptual" in names else None
        parts = self.compute(self.model, batch, z, names)
        self.parts = own_copies(parts)
        self.losses.append(self.parts)
        return parts["loss"]

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        """Take the trainer's own step, which is the first, and then the others."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        for step in range(1, len(self.steps)):
            gradients = partial(self._gradients, step, batch_idx, optimizer)
            super().optimizer_step(epoch, batch_idx, optimizer, gradients)
        names = {name for parts in self.losses for name in parts}
        self.means = {
            name: torch.stack([parts[name] for parts in self.losses if name in parts]).sum()
            / len(self.batches)
            for name in names
        }

    def _gradients(self, step: int, batch_idx: int, optimizer: Any) -> Tensor:
        """Compute the gradients of a later step from all accumulated batches, as the trainer does for the first."""
        strategy = self.trainer.strategy
        optimizer.zero_grad()
        for i, (batch, first) in enumerate(self.batches, 1):
            no_sync = isinstance(strategy, ParallelStrategy) and i < len(self.batches)
            with strategy.block_backward_sync() if no_sync else nullcontext():  # type: ignore[attr-defined]
                # Through the strategy, since DDP must see every forward pass and AMP is enabled there.
                loss = strategy.training_step(batch, batch_idx, step, first)
                assert isinstance(loss, Tensor)
                scaled = strategy.backward(loss / self.trainer.accumulate_grad_batches, optimizer)
        return scaled

    def on_train_batch_end(self, outputs: Any, batch: SRBatch, batch_idx: int) -> None:
        """Log the loss and its parts, averaged over accumulated batches and ranks, after all steps."""
        if self.means:
            self.log_parts(self.means)
            self.means = {}
