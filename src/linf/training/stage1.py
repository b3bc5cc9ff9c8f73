"""The LightningModule of stage 1, from which the other trainings derive."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Self, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from linf.coordinates import read_scale
from linf.data.crops import SRBatch
from linf.data.datamodule import datamodule_of
from linf.data.pairs import ImagePair
from linf.data.samplers import batches_trained
from linf.errors import UsageError, check_least
from linf.models.linf import LINF
from linf.models.super_resolver import SuperResolver
from linf.training.frozen import freeze
from linf.training.length import check_schedules
from linf.training.resume import (
    MakeOptimizer,
    MakeScheduler,
    apply_settings,
    construct,
    match_layout,
    reopen_epoch,
    step_schedule,
)
from linf.training.scale_psnr import ScalePSNR
from linf.training.trainer import callbacks_of, rehearses

log = logging.getLogger(__name__)


class Training(pl.LightningModule):
    """Stage 1: fits a model to random-scale crops by one loss, with one optimizer step per batch (METHOD §6).

    Args:
        model: Model to train.
        loss: Called with the model and a batch; returns the parts of the loss by name, and their sum as ``loss``.
        optimizer: Called with the trainable parameters.
        scheduler: Called with the optimizer; None means a constant learning rate.
        scheduler_interval: How often the scheduler steps, ``epoch`` or ``step``.
        val_scales: Scales on which the datamodule validates, see there; each is logged as ``val/psnr_x…``.
        whitening_batches: Number of batches whose residuals initialise an untrained flow (METHOD §4); 0 skips this.
        seed: Seed of what the training draws at random; every sample of the run has numbers of its own.
        frozen: Parts of the model that keep their weights, by name, such as ``["encoder"]``.

    Attributes:
        compute: The loss as the steps call it, which may be compiled.
        validated: The figures that validation logs.
        parts: The latest loss and its parts, for the report when they are not finite.
        start: The number of this start of the run and the settings of its command, for its checkpoints.

    Raises:
        UsageError: If the model has no part of a name, or no trainable parameters, or whitening_batches is negative.
    """

    def __init__(
        self,
        model: SuperResolver,
        loss: Callable[..., dict[str, Tensor]],
        optimizer: MakeOptimizer,
        scheduler: MakeScheduler | None = None,
        *,
        scheduler_interval: Literal["epoch", "step"] = "epoch",
        val_scales: Sequence[float | Sequence[float]] = (2, 3, 4),
        whitening_batches: int = 4,
        seed: int = 0,
        frozen: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.frozen = freeze(model, frozen)
        if not any(p.requires_grad for p in model.parameters()):
            raise UsageError(
                f"{type(model).__name__} has no parameters to train: evaluate it with `linf eval`"
            )
        check_least("whitening_batches", whitening_batches, 0)
        self.model, self.loss = model, loss
        self.compute: Callable[..., dict[str, Tensor]] = loss
        self.optimizer, self.scheduler, self.scheduler_interval = optimizer, scheduler, scheduler_interval
        self.whitening_batches, self.seed = whitening_batches, seed
        self.parts: dict[str, Tensor] = {}
        self.start: tuple[int, list[str]] | None = None
        scales = [read_scale(s) for s in val_scales]
        self.val_psnr = ScalePSNR(scales)
        self.validated = ["val/psnr", *(f"val/psnr_x{s:g}" for s in scales)]
        self.unseen: list[str] = []
        self.train()

    def train(self, mode: bool = True) -> Self:
        """Put all but the frozen parts into training mode, in which an encoder could have stochastic depth."""
        super().train(mode)
        for part in self.frozen:
            part.eval()
        return self

    def on_fit_start(self) -> None:
        """Initialise an untrained flow from the data; restored weights stay as they are."""
        if not self.whitening_batches or not self.model.dim:
            return
        model = cast(LINF, self.model)
        if self.trainer.is_global_zero:
            batches = datamodule_of(self.trainer).initial_batches(self.whitening_batches)
            model.initialise(SRBatch(*(part.to(self.device) for part in batch)) for batch in batches)
        if self.trainer.world_size > 1:  # What each rank worked out for itself could differ in its last bits.
            for part in (model.flow, model.conditioner):
                state = {name: value.cpu() for name, value in part.state_dict().items()}
                part.load_state_dict(self.trainer.strategy.broadcast(state))

    def on_train_start(self) -> None:
        """Check that the schedule is as long as the run, and take an optimizer's restored state to its parameters."""
        for optimizer in self.trainer.optimizers:
            match_layout(optimizer)
        if rehearses(self.trainer):  # It takes one step of any schedule.
            return
        check_schedules(self.trainer)

    def training_step(self, batch: SRBatch, batch_idx: int) -> Tensor:
        """Return the loss of one batch, and log each of its parts under ``train/``."""
        self.draw(len(batch.lr), self.first_sample(len(batch.lr)))
        parts = self.compute(self.model, batch)
        self.parts = own_copies(parts)
        self.log_parts(self.parts)
        return parts["loss"]

    def log_parts(self, parts: Mapping[str, Tensor]) -> None:
        """Log the loss and its parts, means over ranks, on the steps that loggers write: on others nothing is sent."""
        if not self.trainer._logger_connector.should_update_logs:
            return
        names = sorted(parts, key=lambda name: (name != "loss", name))
        means = self.trainer.strategy.reduce(torch.stack([parts[name] for name in names]), reduce_op="mean")
        self.log_dict({f"train/{name}": mean for name, mean in zip(names, means, strict=True)})

    def first_sample(self, batch: int) -> int:
        """The number of a batch's first sample among all samples of the run, over all ranks, as they are dealt out."""
        return (batches_trained(self.trainer) * self.trainer.world_size + self.trainer.global_rank) * batch

    def draw(self, batch: int, first: int) -> None:
        """Decide what the encoder draws at random for these samples, so that no resume and no rank changes it."""
        if self.model.encoder is not None:
            self.model.encoder.draw(self.seed, first, batch, self.device)

    def validation_step(self, image: ImagePair, batch_idx: int) -> None:
        """Measure PSNR on Y at τ = 0, as `Evaluation` does."""
        self.val_psnr.add(self._predict(image.lr, image.size), image)

    def _predict(self, lr: Tensor, size: tuple[int, int]) -> Tensor:
        return self.model.sample(lr, size, temperature=0)

    def on_validation_epoch_end(self) -> None:
        """Log PSNR for each scale that was seen as ``val/psnr_x…``, and their mean as ``val/psnr``."""
        named = {f"val/psnr_{scale}": mean for scale, mean in self.val_psnr.means().items()}
        # Other ranks may have seen other scales.
        counts = self.trainer.strategy.reduce(self.val_psnr.counts(), reduce_op="sum")
        seen = [bool(count) for count in torch.as_tensor(counts).tolist()]
        self.val_psnr.reset()
        values = {
            name: value for (name, value), any_image in zip(named.items(), seen, strict=True) if any_image
        }
        self._warn_unseen([name for name in named if name not in values])
        if values:
            self.log_dict(values)
            self.log("val/psnr", torch.stack(list(values.values())).mean(), prog_bar=True)

    def _warn_unseen(self, unseen: list[str]) -> None:
        overfits = self.trainer.overfit_batches  # type: ignore[attr-defined]
        if self.trainer.sanity_checking or rehearses(self.trainer) or overfits:
            return
        if unseen and unseen != self.unseen:
            log.warning(
                "validation sees no image for %s: val/psnr is the mean over the other scales, and does not compare "
                "with that of a run that sees all",
                ", ".join(unseen),
            )
        self.unseen = unseen

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip as the trainer is set to. Lightning refuses to under autocast with a fused optimizer, since that takes
        the scale of a loss (fp16) off the gradient by itself; it leaves that alone where it is off already.
        """
        if not gradient_clip_val:
            return
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            scaler.unscale_(optimizer)
        clip = clip_grad_value_ if gradient_clip_algorithm == "value" else clip_grad_norm_
        clip([p for group in optimizer.param_groups for p in group["params"]], gradient_clip_val)

    def configure_optimizers(self) -> Any:
        optimizer = construct("task.optimizer", self.optimizer, self._trained())
        if self.scheduler is None:
            return optimizer
        schedule = construct("task.scheduler", self.scheduler, optimizer)
        interval = {"scheduler": schedule, "interval": self.scheduler_interval}
        return {"optimizer": optimizer, "lr_scheduler": interval}

    def _trained(self) -> list[nn.Parameter]:
        return [p for p in self.parameters() if p.requires_grad]

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        step_schedule(scheduler)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let the settings of the command hold in place of those that the checkpoint stores."""
        apply_settings(checkpoint, self._trained(), self.optimizer, self.scheduler, self.scheduler_interval)
        reopen_epoch(checkpoint, self.trainer.accumulate_grad_batches)
        if "current_model_state" in checkpoint and not callbacks_of(self.trainer, WeightAveraging):
            log.warning("callbacks.ema is off: training goes on from its own weights, not from their average")
            checkpoint["state_dict"] = checkpoint["current_model_state"]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the model's config, so that `linf.load` needs no other file, and which start of the run this is."""
        checkpoint["linf"] = self.model.config
        if self.start is not None:
            checkpoint["start"] = self.start


def own_copies(parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parts of a loss without their graph, in memory that no later replay of a CUDA graph overwrites."""
    return {name: value.detach().clone() for name, value in parts.items()}
