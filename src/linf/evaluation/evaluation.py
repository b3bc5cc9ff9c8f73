"""Tables for Lightning: every system over data sets, scales and temperatures, on any number of ranks, restartable."""

import logging
import zlib
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import WandbLogger
from torch import Tensor, nn

from linf.checkpoints.native import resolve_path
from linf.data.pairs import ImagePair
from linf.errors import UsageError
from linf.evaluation.measure import Unit, measure
from linf.evaluation.panels import Row, detail_row, panel
from linf.evaluation.record import Key, Record, commit, digest, file_digest
from linf.images.read import read_image
from linf.metrics.metric import ImageMetric
from linf.metrics.protocol import Protocol
from linf.models.baselines import Bicubic, Regression
from linf.models.linf import LINF
from linf.models.super_resolver import check_temperatures
from linf.report.evaluations import read_run
from linf.report.figures import all_figures
from linf.report.publish import publish
from linf.report.style import spread

log = logging.getLogger(__name__)


class Evaluation(pl.LightningModule):
    """All metrics of all systems over scales and temperatures, from one encoding per image and scale.

    `linf.evaluation.record.Record` says what it leaves in ``folder``; beside the tables there are
    ``contact_sheet.png`` and ``images/``. Started again in the same folder it goes on where it stopped.

    Args:
        model: what is evaluated.
        temperatures: τ ≥ 0, one or more.
        folder: where results go.
        metrics: their constructors by name; one whose weights are not to be had is skipped, and the record says why.
        protocol: what is counted.
        samples: of each temperature, over which its figures are means.
        seed: of the latents; each image and scale has its own, whatever the rank that takes it.
        save_images: keep every image of every system; otherwise those of the first ``shown`` images at one scale.
        shown: images of each data set for the contact sheet and the report, at the scale nearest to 4.
        label: what legends call the model; by default what it is.
        checkpoint: the file it came from, for the record.
        prior: the file its prior came from.
        trained_scale: the largest scale it was trained at, for the record.

    Attributes:
        skipped: why a metric is not there, by its name.
    """

    def __init__(
        self,
        model: LINF | Regression | Bicubic,
        temperatures: Sequence[float],
        folder: str,
        *,
        metrics: Mapping[str, Callable[[], ImageMetric]],
        protocol: Protocol,
        samples: int = 1,
        seed: int = 0,
        save_images: bool = False,
        shown: int = 4,
        label: str | None = None,
        checkpoint: str | None = None,
        prior: str | None = None,
        trained_scale: float | None = 4,
    ) -> None:
        super().__init__()
        for name, value, least in (("samples", samples, 1), ("shown", shown, 0)):
            if value < least:
                raise UsageError(f"{name} is {value}: give a whole number of at least {least}")
        self.model, self.temperatures = model, check_temperatures(list(temperatures))
        if len(set(self.temperatures)) < len(self.temperatures):
            raise UsageError(f"temperatures are {self.temperatures}: name each once")
        self.folder, self.protocol, self.samples, self.seed = Path(folder), protocol, samples, seed
        self.save_images, self.shown = save_images, shown
        self.label = label or describe(model)
        self.checkpoint, self.prior, self.trained_scale = checkpoint, prior, trained_scale
        self.metrics, self.skipped = nn.ModuleDict(), dict[str, str]()
        for name, made in metrics.items():
            try:
                self.metrics[name] = made()
            except UsageError as error:
                self.skipped[name] = str(error)

    def setup(self, stage: str) -> None:
        """Open the folder, and leave out what is finished there."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        self.keys: list[Key] = [pairs.key(i) for pairs in data.test_pairs for i in range(len(pairs))]
        if len(set(self.keys)) < len(self.keys):
            raise UsageError("a data set or a scale is asked for twice: name each once")
        self.record = Record(self.folder, self._about(data), self.global_rank)
        data.tested = self.record.units.keys()
        finished = sum(key in self.record.units for key in self.keys)
        if finished and self.global_rank == 0:
            words = "%d of %d images, counting each scale, are finished in %s"
            log.info(words, finished, len(self.keys), self.folder)

    def _about(self, data: Any) -> dict[str, Any]:
        files = {"checkpoint": self.checkpoint, "prior": self.prior}
        return {
            "label": self.label,
            "model": {
                "name": type(self.model).__name__,
                "config": getattr(self.model, "config", {}),
                "parameters": sum(p.numel() for p in self.model.parameters()),
            },
            "weights": digest(self.model),
            **{
                name: {"path": str(path), "sha256": file_digest(resolve_path(path))} if path else None
                for name, path in files.items()
            },
            "protocol": self.protocol.describe(),
            "metrics": list(self.metrics),
            "skipped": self.skipped,
            "temperatures": self.temperatures,
            "samples": self.samples,
            "seed": self.seed,
            "scales": list(data.test_scales),
            "datasets": [pairs.name for pairs in data.test_pairs],
            "resize": data.test_resize,
            "git": commit(),
            "versions": {"linf": version("linf"), "torch": torch.__version__},
            "device": str(self.trainer.strategy.root_device),
            "max_trained_scale": self.trained_scale,
        }

    def test_step(self, image: ImagePair, batch_idx: int) -> None:
        """One image at one scale, by every system."""
        key = (image.dataset, image.name, image.scale)
        kept: dict[str, Tensor] | None = {} if self._is_kept(key) else None
        unit = self._measured(image, kept)
        if kept is not None:
            self._keep(kept | {"LR": image.lr[0], "HR": image.hr[0]}, self._place(key))
        self.record.add(key, unit)

    def _measured(self, image: ImagePair, kept: dict[str, Tensor] | None) -> Unit:
        seed = zlib.crc32(f"{self.seed} {image.name} {image.scale:g}".encode())
        return measure(
            self.model,
            image,
            self.metrics,  # type: ignore[arg-type]
            temperatures=self.temperatures,
            samples=self.samples,
            border=self.protocol.border(image.scale),
            seed=seed,
            shown=kept,
        )

    def _is_kept(self, key: Key) -> bool:
        return self.save_images or key in self._on_the_sheet()

    def _on_the_sheet(self) -> list[Key]:
        """The first images of each data set, at the scale that is nearest to 4."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        scale = min(map(float, data.test_scales), key=lambda s: abs(s - 4))
        named = [[key for key in self.keys if key[::2] == (pairs.name, scale)] for pairs in data.test_pairs]
        return [key for keys in named for key in keys[: self.shown]]

    def _place(self, key: Key) -> Path:
        dataset, name, scale = key
        return self.folder / "images" / dataset / f"x{scale:g}" / name

    def _keep(self, images: dict[str, Tensor], place: Path) -> None:
        """ImageSet (3,·,·) as PNG, maps (H,W) as half-precision arrays."""
        few = {f"τ={tau:g}" for tau in spread(self.temperatures, 6)}
        for name, image in images.items():
            if not self.save_images and name.startswith("τ=") and name not in few:
                continue
            self.record.keep(place / name, image.cpu())

    def teardown(self, stage: str) -> None:
        """Once all ranks are through, write the tables and the contact sheet."""
        self.trainer.strategy.barrier()
        if not self.trainer.is_global_zero:
            return
        tables = self.record.tables(self.keys)
        self.record.write_tables(tables)
        self.table = tables["metrics"]
        figures = {}
        # What an earlier run of this folder measured it may not have kept.
        if rows := [self._sheet_row(key) for key in self._on_the_sheet() if self._place(key).is_dir()]:
            figures["contact_sheet"] = panel(rows)
            figures["contact_sheet"].savefig(self.folder / "contact_sheet.png")
        for logger in self.trainer.loggers:
            if isinstance(logger, WandbLogger):
                publish(logger, tables, figures | all_figures([read_run(self.folder)]))

    def _sheet_row(self, key: Key) -> Row:
        place = self._place(key)
        systems = list(self.table["system"].unique())
        read = {
            name: torch.from_numpy(read_image(place / f"{name}.png")).permute(2, 0, 1) / 255
            for name in ("LR", *systems, "HR")
            if (place / f"{name}.png").is_file()
        }
        lr, hr = read.pop("LR"), read.pop("HR")
        return detail_row(f"{key[1]} ×{key[2]:g}", lr, hr, read)

    def merits(self) -> dict[str, float]:
        """The protocol's first figure of the model's first row, for each data set and scale."""
        headline = self.protocol.headline
        rows = (
            self.table[self.table["system"] != "bicubic"]
            if self.table["system"].nunique() > 1
            else self.table
        )
        first = rows.groupby(["dataset", "scale"], sort=False).head(1)
        return {
            f"{row['dataset']}/x{row['scale']:g}/{headline}": float(row[headline])
            for row in first.to_dict("records")
            if headline in row
        }

    def report(self) -> str:
        """The table in words, what the model's first row comes to, what is missing, and where the files are."""
        headline = self.protocol.headline
        unit = "dB on Y" if headline == "psnr_y" else "dB on RGB"
        with pd.option_context("display.width", 200):
            lines = [self.table.drop(columns=["temperature", "images"]).round(3).to_string(index=False)]
        for _, group in self.table.groupby(["dataset", "scale"], sort=False):
            of = group.set_index("system")[headline] if headline in group else pd.Series(dtype=float)
            if len(of):
                first = of.index[min(1, len(of) - 1)]
                lines.append(
                    f"{group['dataset'].iloc[0]} ×{group['scale'].iloc[0]:g}: {first} {of[first]:.2f} {unit}, "
                    f"{of[first] - of['bicubic']:+.2f} dB against bicubic"
                )
        lines += [f"{name} skipped: {why}" for name, why in self.skipped.items()]
        return "\n".join([*lines, f"tables, contact sheet and metrics.json: {self.folder}"])


def describe(model: nn.Module) -> str:
    """What a legend calls a model: its name, patch size and encoder."""
    config = getattr(model, "config", {})
    patch = f" P={config['flow']['patch_size']}" if "flow" in config else ""
    encoder = f", {config['encoder']['name']}" if "encoder" in config else ""
    return f"{type(model).__name__}{patch}{encoder}"
