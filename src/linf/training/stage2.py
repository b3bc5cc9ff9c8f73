"""Stage 2 for Lightning."""

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import ParallelStrategy
from torch import Tensor, nn

from linf.data.pairs import SRBatch
from linf.errors import UsageError
from linf.losses.flow import Finetune, latents
from linf.losses.perceptual import Perceptual
from linf.models.linf import LINF
from linf.training.stage1 import Training

log = logging.getLogger(__name__)


class Finetuning(Training):
    """Stage 2: a batch takes an optimizer step for each group of the loss's parts (METHOD §6).

    ``[[nll], [l1, perceptual]]`` are the published two: one on the likelihood, and with the weights that it leaves
    one on the rest. ``[[nll, l1, perceptual]]`` is the joint step. Gradient accumulation, clipping, precision and the
    reduction over ranks are the same for all steps of a batch, which are one to the trainer's counters, the schedule
    and the callbacks.

    Args:
        model: with a flow, from stage 1.
        loss: its parts' names are those of the steps.
        optimizer: see `Training`, as for scheduler, scheduler_interval, val_scales and whitening_batches.
        steps: names of parts; each part that has a weight in exactly one step. Those without are left out.
        seed: of the latents, of which each sample of the run has its own.
    """

    model: LINF
    loss: Finetune

    def __init__(
        self,
        model: LINF,
        loss: Finetune,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        scheduler: Callable[[torch.optim.Optimizer], Any] | None = None,
        *,
        steps: Sequence[Sequence[str]] = (("nll",), ("l1", "perceptual")),
        seed: int = 0,
        scheduler_interval: str = "epoch",
        val_scales: Sequence[float] = (2, 3, 4),
        whitening_batches: int = 0,
    ) -> None:
        super().__init__(
            model,
            loss,
            optimizer,
            scheduler,
            scheduler_interval=scheduler_interval,
            val_scales=val_scales,
            whitening_batches=whitening_batches,
        )
        weighed = {name for name, weight in loss.weights.items() if weight}
        named = [name for step in steps for name in step]
        if len(set(named)) < len(named) or not weighed <= set(named) <= loss.weights.keys():
            raise UsageError(
                f"steps are {[list(step) for step in steps]}: name each of {', '.join(loss.weights)} once, as in "
                "[[nll],[l1,perceptual]] or [[nll,l1,perceptual]]"
            )
        self.steps = [kept for step in steps if (kept := [name for name in step if name in weighed])]
        self.seed = seed
        # Of the batches of one step of the trainer: what later steps take, what was lost, and that to be logged.
        self.batches: list[tuple[SRBatch, int]] = []
        self.losses: list[dict[str, Tensor]] = []
        self.means: dict[str, Tensor] = {}

    def on_fit_start(self) -> None:
        """Check what the perceptual part needs, and record what it is made of."""
        super().on_fit_start()
        if not self.model.flow.initialised:
            log.warning("stage 2 starts from an untrained model: init_from=FILE starts it from stage 1")
        if self.loss.perceptual is None:
            return
        if not self.trainer.datamodule.window:  # type: ignore[attr-defined]
            raise UsageError("the perceptual loss compares whole windows: add data.window=true")
        record_perceptual(self.loss.perceptual, self.trainer)

    def training_step(
        self, batch: SRBatch, batch_idx: int, step: int = 0, first: int | None = None
    ) -> Tensor:
        """The loss of one step.

        Args:
            batch: this rank's samples.
            batch_idx: which of the epoch.
            step: which of the batch.
            first: how many samples of the run, over all ranks, stand before these; None for those at hand.
        """
        if first is None:
            # What is counted here is what `EpochSampler` deals out, so two ranks of half the batch draw the same.
            processed = self.trainer.fit_loop.epoch_loop.batch_progress.state_dict()["total"]["processed"]
            first = (processed * self.trainer.world_size + self.trainer.global_rank) * len(batch.lr)
            if batch_idx % self.trainer.accumulate_grad_batches == 0:
                self.batches, self.losses = [], []
            self.batches.append((batch, first))
        names = self.steps[step]
        z = latents(batch.hr, self.seed, first) if "perceptual" in names else None
        parts = self.loss(self.model, batch, z, names)
        self.parts = {name: value.detach() for name, value in parts.items()}
        self.losses.append(self.parts)
        return parts["loss"]

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        """The trainer's step, which is the first, and those that follow it."""
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
        """Gradients of a later step, from all batches of the accumulation, as the trainer takes those of the first."""
        strategy = self.trainer.strategy
        optimizer.zero_grad()
        for i, (batch, first) in enumerate(self.batches, 1):
            apart = isinstance(strategy, ParallelStrategy) and i < len(self.batches)
            with strategy.block_backward_sync() if apart else nullcontext():  # type: ignore[attr-defined]
                # By way of the strategy, as DDP must see every forward pass and AMP is switched on there.
                loss = strategy.training_step(batch, batch_idx, step, first)
                assert isinstance(loss, Tensor)
                share = strategy.backward(loss / self.trainer.accumulate_grad_batches, optimizer)
        return share

    def on_train_batch_end(self, outputs: Any, batch: SRBatch, batch_idx: int) -> None:
        """Log the loss and its parts, means over the accumulation and the ranks, once all steps are taken."""
        if self.means:
            self.log("train/loss", self.means.pop("loss"), prog_bar=True, sync_dist=True)
            named = {f"train/{name}": value for name, value in sorted(self.means.items())}
            self.log_dict(named, sync_dist=True)
            self.means = {}


def record_perceptual(perceptual: Perceptual, trainer: pl.Trainer) -> None:
    """Name the perceptual part's network and weights in the run's config."""
    made_of = {"backbone": perceptual.backbone, "weights": str(perceptual.weights)}
    for logger in trainer.loggers:
        logger.log_hyperparams({"perceptual": made_of})
