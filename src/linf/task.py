"""The Lightning shell: `Training` fits a model, `Evaluation` fills a table. Only here the model meets a trainer."""

import json
import logging
import math
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.strategies import ParallelStrategy
from torch import Tensor, nn
from torchmetrics import MeanMetric

from linf.baselines import Bicubic, Regression, systems
from linf.data.pairs import Picture, SRBatch
from linf.errors import UsageError
from linf.losses import Finetune, latents
from linf.metrics.functional import benchmark_border, psnr, ssim
from linf.model import LINF, check_temperatures
from linf.panels import detail_row, panel
from linf.perceptual import Perceptual

log = logging.getLogger(__name__)


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
        self.val_psnr = nn.ModuleDict({_scale_key(s): MeanMetric() for s in val_scales})

    def on_fit_start(self) -> None:
        """Start an untrained flow from the data; what a checkpoint restored stays as it is."""
        if self.whitening_batches and isinstance(self.model, LINF):
            batches = self.trainer.datamodule.initial_batches(self.whitening_batches)  # type: ignore[attr-defined]
            self.model.initialise(SRBatch(*(part.to(self.device) for part in batch)) for batch in batches)

    def training_step(self, batch: SRBatch, batch_idx: int) -> Tensor:
        """The loss of one batch; each of its parts is logged under ``train/``."""
        parts = self.loss(self.model, batch)
        self.parts = {name: value.detach() for name, value in parts.items()}
        self.log("train/loss", parts["loss"], prog_bar=True)
        self.log_dict({f"train/{name}": value for name, value in parts.items() if name != "loss"})
        return parts["loss"]

    def validation_step(self, picture: Picture, batch_idx: int) -> None:
        """PSNR on Y at τ = 0, as `Evaluation` takes it."""
        sr = self._validated(picture.lr, (picture.hr.shape[-2], picture.hr.shape[-1]))
        value = psnr(sr, picture.hr, border=benchmark_border(picture.scale), luma=True)
        self._psnr_at(_scale_key(picture.scale)).update(value)

    def _validated(self, lr: Tensor, size: tuple[int, int]) -> Tensor:
        """The picture that validation scores."""
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

    def _psnr_at(self, key: str) -> MeanMetric:
        metric = self.val_psnr[key]
        assert isinstance(metric, MeanMetric)
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


def _record(perceptual: Perceptual, trainer: pl.Trainer) -> None:
    """Name the perceptual part's network and weights in the run's config."""
    made_of = {"backbone": perceptual.backbone, "weights": str(perceptual.weights)}
    for logger in trainer.loggers:
        logger.log_hyperparams({"perceptual": made_of})


def _scale_key(scale: float) -> str:
    return f"x{scale:g}".replace(".", "_")


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
        _record(self.loss.perceptual, self.trainer)

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
            _record(self.loss.perceptual, self.trainer)  # type: ignore[attr-defined]

    def _validated(self, lr: Tensor, size: tuple[int, int]) -> Tensor:
        return self.model.sample(lr, size, prior=True)


class Evaluation(pl.LightningModule):
    """PSNR, SSIM over scales and temperatures beside bicubic, from one encoding per picture and scale.

    Leaves in ``folder``: ``metrics.json`` and ``metrics.csv`` (means per dataset, scale and system),
    ``pictures.csv`` (every picture), ``contact_sheet.png`` (a detail of the first pictures at the largest scale)
    and, where asked, ``pictures/``.

    Args:
        model: what is evaluated.
        temperatures: τ ≥ 0, one or more.
        folder: where results go.
        seed: of the latents; each picture and scale has its own, whatever the rank that takes it.
        save_pictures: also write every picture of every system as PNG.
        sheet_rows: how many pictures the contact sheet shows.
    """

    def __init__(
        self,
        model: LINF | Regression | Bicubic,
        temperatures: Sequence[float],
        folder: str,
        *,
        seed: int = 0,
        save_pictures: bool = False,
        sheet_rows: int = 4,
    ) -> None:
        super().__init__()
        self.model, self.temperatures = model, check_temperatures(list(temperatures))
        self.folder, self.seed = Path(folder), seed
        self.save_pictures, self.sheet_rows = save_pictures, sheet_rows

    def on_test_start(self) -> None:
        """Begin an empty table."""
        self.rows: list[dict[str, Any]] = []
        self.sheet: list[Any] = []
        self.folder.mkdir(parents=True, exist_ok=True)

    def test_step(self, picture: Picture, batch_idx: int, dataloader_idx: int = 0) -> None:
        """One picture at one scale, by every system."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        dataset, scale = data.test[dataloader_idx].name, picture.scale
        pictures = self.super_resolve(picture)
        for system, sr in pictures.items():
            border = benchmark_border(scale)
            self.rows.append(
                {
                    "dataset": dataset,
                    "picture": picture.name,
                    "scale": scale,
                    "system": system,
                    "psnr_y": psnr(sr, picture.hr, border=border, luma=True).item(),
                    "psnr_rgb": psnr(sr, picture.hr, border=border).item(),
                    "ssim": ssim(sr, picture.hr, border=border).item(),
                }
            )
            if self.save_pictures:
                self._write_picture(
                    sr, self.folder / "pictures" / dataset / f"x{scale:g}" / picture.name / system
                )
        if scale == max(data.test_scales) and len(self.sheet) < self.sheet_rows:
            shown = {name: sr[0] for name, sr in pictures.items()}
            self.sheet.append(detail_row(f"{picture.name} ×{scale:g}", picture.lr[0], picture.hr[0], shown))

    def super_resolve(self, picture: Picture) -> dict[str, Tensor]:
        """Every system's picture by its name; see `linf.baselines.systems`."""
        size = (picture.hr.shape[-2], picture.hr.shape[-1])
        key = zlib.crc32(f"{self.seed} {picture.name} {picture.scale:g}".encode())
        generator = torch.Generator(self.device).manual_seed(key)
        return systems(self.model, picture.lr, size, self.temperatures, generator)

    def on_test_epoch_end(self) -> None:
        """Gather the rows of all ranks and write the results."""
        rows = self.rows
        if self.trainer.world_size > 1:
            gathered: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(gathered, self.rows)
            rows = [row for share in gathered for row in share]
        if self.trainer.is_global_zero:
            self.table = summarise(rows)
            write_results(rows, self.table, self.folder)
            if self.sheet:
                panel(self.sheet).savefig(self.folder / "contact_sheet.png")

    def report(self) -> str:
        """The table in words, what the model's first row comes to, and where the files are."""
        lines = [self.table.round(3).to_string(index=False)]
        for _, group in self.table.groupby(["dataset", "scale"], sort=False):
            of = group.set_index("system")["psnr_y"]
            first = of.index[1] if len(of) > 1 else "bicubic"
            lines.append(
                f"{group['dataset'].iloc[0]} ×{group['scale'].iloc[0]:g}: {first} {of[first]:.2f} dB on Y, "
                f"{of[first] - of['bicubic']:+.2f} dB against bicubic"
            )
        return "\n".join([*lines, f"table, contact sheet and metrics.json: {self.folder}"])

    def _write_picture(self, sr: Tensor, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = sr[0].clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).cpu().numpy()
        Image.fromarray(pixels).save(path.with_name(path.name + ".png"))


METRICS = ("psnr_y", "psnr_rgb", "ssim")


def summarise(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Means over pictures, one line per dataset, scale and system, in the order they came."""
    keys = ["dataset", "scale", "system"]
    means = pd.DataFrame(rows).groupby(keys, sort=False)[list(METRICS)].mean()
    return means.reset_index().sort_values(["dataset", "scale"], kind="stable", ignore_index=True)


def write_results(rows: Sequence[dict[str, Any]], table: pd.DataFrame, folder: Path) -> None:
    """``metrics.json``, ``metrics.csv`` and ``pictures.csv``."""
    table.to_csv(folder / "metrics.csv", index=False)
    pd.DataFrame(rows).to_csv(folder / "pictures.csv", index=False)
    # JSON knows no infinity (a perfect picture) and no NaN (a picture too small for SSIM).
    plain = [
        {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        for row in table.to_dict("records")
    ]
    (folder / "metrics.json").write_text(json.dumps(plain, indent=2, ensure_ascii=False) + "\n")
