"""The Lightning shell: `Training` fits a model, `Evaluation` fills a table. Only here the model meets a trainer."""

import json
import logging
import math
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl
import torch
from PIL import Image
from torch import Tensor, nn
from torchmetrics import MeanMetric

from linf.data.pairs import Picture, SRBatch
from linf.data.resize import bicubic
from linf.metrics.functional import benchmark_border, psnr, ssim
from linf.model import LINF, check_temperatures
from linf.panels import detail_row, panel

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
    """

    def __init__(
        self,
        model: LINF,
        loss: Callable[..., dict[str, Tensor]],
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        scheduler: Callable[[torch.optim.Optimizer], Any] | None = None,
        *,
        scheduler_interval: str = "epoch",
        val_scales: Sequence[float] = (2, 3, 4),
        whitening_batches: int = 4,
    ) -> None:
        super().__init__()
        self.model, self.loss = model, loss
        self.optimizer, self.scheduler, self.scheduler_interval = optimizer, scheduler, scheduler_interval
        self.whitening_batches = whitening_batches
        # A module's name cannot hold the dot of ×3.3.
        self.val_psnr = nn.ModuleDict({_scale_key(s): MeanMetric() for s in val_scales})

    def on_fit_start(self) -> None:
        """Start an untrained flow from the data; what a checkpoint restored stays as it is."""
        if self.whitening_batches:
            batches = self.trainer.datamodule.initial_batches(self.whitening_batches)  # type: ignore[attr-defined]
            self.model.initialise(SRBatch(*(part.to(self.device) for part in batch)) for batch in batches)

    def training_step(self, batch: SRBatch, batch_idx: int) -> Tensor:
        """The loss of one batch; each of its parts is logged under ``train/``."""
        parts = self.loss(self.model, batch)
        self.log("train/loss", parts["loss"], prog_bar=True)
        self.log_dict({f"train/{name}": value for name, value in parts.items() if name != "loss"})
        return parts["loss"]

    def validation_step(self, picture: Picture, batch_idx: int) -> None:
        """PSNR on Y at τ = 0, as `Evaluation` takes it."""
        sr = self.model.sample(picture.lr, (picture.hr.shape[-2], picture.hr.shape[-1]))
        value = psnr(sr, picture.hr, border=benchmark_border(picture.scale), luma=True)
        self._psnr_at(_scale_key(picture.scale)).update(value)

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


def _scale_key(scale: float) -> str:
    return f"x{scale:g}".replace(".", "_")


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
        model: LINF,
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
        systems = self.super_resolve(picture)
        for system, sr in systems.items():
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
            shown = {name: sr[0] for name, sr in systems.items()}
            self.sheet.append(detail_row(f"{picture.name} ×{scale:g}", picture.lr[0], picture.hr[0], shown))

    def super_resolve(self, picture: Picture) -> dict[str, Tensor]:
        """Every system's picture by its name: bicubic, then a LINF for each temperature."""
        size = (picture.hr.shape[-2], picture.hr.shape[-1])
        key = zlib.crc32(f"{self.seed} {picture.name} {picture.scale:g}".encode())
        generator = torch.Generator(self.device).manual_seed(key)
        samples = self.model.sample(picture.lr, size, temperature=self.temperatures, generator=generator)
        named = {f"τ={t:g}": sr for t, sr in zip(self.temperatures, samples, strict=True)}
        return {"bicubic": bicubic(picture.lr, size), **named}

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
        """The table in words, what it comes to at the first temperature, and where the files are."""
        lines = [self.table.round(3).to_string(index=False)]
        for _, group in self.table.groupby(["dataset", "scale"], sort=False):
            of = group.set_index("system")["psnr_y"]
            first = f"τ={self.temperatures[0]:g}"
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
