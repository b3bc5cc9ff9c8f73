"""Tables for Lightning: PSNR and SSIM of every system, over scales and temperatures."""

import json
import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl
import torch
from PIL import Image
from torch import Tensor

from linf.baselines import Bicubic, Regression, systems
from linf.data.pairs import Picture
from linf.metrics.functional import benchmark_border, psnr, ssim
from linf.model import LINF, check_temperatures
from linf.panels import detail_row, panel


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
