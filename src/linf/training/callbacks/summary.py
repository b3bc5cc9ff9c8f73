"""What a training is, once its images and its model are there; and bicubic beside its validation."""

import copy
import logging
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, Timer

from linf.data.datamodule import SRDataModule, datamodule_of
from linf.data.layouts import ImageSet
from linf.data.paired import PairedCrops
from linf.data.pairs import ImagePair
from linf.data.shards import ShardSet
from linf.errors import shorten
from linf.evaluation.systems import model_label
from linf.files import atomic_write, folder_errors
from linf.images.resize import bicubic
from linf.training.callbacks.forecast import count_steps
from linf.training.length import planned_steps
from linf.training.scale_psnr import ScalePSNR
from linf.training.trainer import callbacks_of, rehearses

log = logging.getLogger(__name__)


class RunSummary(Callback):
    """Logs what a training has when it starts: images to train and to validate on, parameters, steps and devices. The
    paths of the validation images are in ``validation_images.txt``.

    Args:
        folder: The run's folder.

    Raises:
        UsageError: When training starts, if the folder cannot be written to.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        data = datamodule_of(trainer)
        if not trainer.is_global_zero or not isinstance(data, SRDataModule):
            return
        log.info("trained on: %s", _trained_on(data))
        images = self._validated_on(data, resumed=trainer.global_step > 0)
        log.info("validated on: %s", _never_validated(trainer) or images)
        log.info("parameters: %s", _parameters(pl_module.model))
        log.info("%s", _length(trainer, data.batch_size))

    def _validated_on(self, data: SRDataModule, *, resumed: bool) -> str:
        if data.val_pairs is None or not isinstance(data.val, ImageSet):
            return "nothing, so that no checkpoint is the best"
        paths = data.val_pairs.hr.paths
        file = self.folder / "validation_images.txt"
        if resumed and file.is_file():
            _warn_of_others(file, paths)
        with folder_errors(self.folder), atomic_write(file) as part:
            text = "".join(f"{path}\n" for path in paths)
            part.write_text(text, encoding="utf-8", errors="surrogateescape")
        names = ", ".join(path.name for path in paths[:10]) + ", …" * (len(paths) > 10)
        scales = ", ".join(f"×{s:g}" for s in data.val_pairs.scales)
        given = data.val_crop is None and bool(data.val.lr)
        lr = ", with LR made by bicubic, unlike that of the training" if data.foreign_lr else ""
        if data.val_degradation is not None:
            lr = ", with degraded LR"
        return f"{_images(len(paths))} of {data.val.name} at {scales}{'' if given else lr}: {names} ({file.name})"


def _never_validated(trainer: pl.Trainer) -> str:
    """Say why a training ends without any validation; empty if it has one, as also at the end of ``max_time``."""
    if not trainer.limit_val_batches:
        return "nothing, for trainer.limit_val_batches is 0"
    every, interval = trainer.check_val_every_n_epoch, trainer.val_check_batch
    if callbacks_of(trainer, Timer) or interval is None or rehearses(trainer):
        return ""
    whole, last = trainer.num_training_batches, min(interval, trainer.num_training_batches)
    epochs, batches = (0, interval) if every is None else (every - 1, last)
    first = epochs * math.ceil(whole / trainer.accumulate_grad_batches)
    first += math.ceil(batches / trainer.accumulate_grad_batches)
    if (steps := trainer.estimated_stepping_batches) >= first:
        return ""
    advice = f"lower trainer.{'val_check_interval' if every is None else 'check_val_every_n_epoch'}"
    shorter = int(steps) * trainer.accumulate_grad_batches // (every or 1)
    if every is not None and steps == trainer.max_steps and shorter:
        advice = f"data.batches_per_epoch={shorter} makes epochs short enough"
    return f"nothing, for the run ends after step {steps:,}, the first validation comes after step {first:,}: {advice}"


def _warn_of_others(file: Path, paths: Sequence[Path]) -> None:
    """Warn where a resumed run validates on other images than those in a file: folders may have grown meanwhile."""
    # Not by splitlines, which also ends lines at letters that a name may have, such as U+2028.
    lines = file.read_text(encoding="utf-8", errors="surrogateescape").removesuffix("\n").split("\n")
    former = {Path(line).name for line in lines}
    present = {path.name for path in paths}
    if former != present:
        log.warning(
            "validated on other images than before (new: %s; no longer: %s): earlier figures are not comparable, and "
            "the run may have been trained on the new ones; data.val.root=FOLDER names a folder of others",
            *(shorten(sorted(some)) for some in (present - former, former - present)),
        )


def _trained_on(data: SRDataModule) -> str:
    crops = data.train_crops
    if crops is None:
        return "nothing"
    count = len(crops.cache)
    images = f"{count:,} LR–HR pairs" if isinstance(crops, PairedCrops) else _images(count)
    if isinstance(data.train, ShardSet):
        return f"{count:,} sub-images in {data.train.root}"
    assert data.train is not None
    home = os.path.commonpath([os.path.abspath(path.parent) for path in data.train.hr])
    return f"{images} of {data.train.name}, in {home}"


def _images(count: int) -> str:
    return f"{count:,} image{'s' * (count != 1)}"


def _parameters(model: Any) -> str:
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    named = ", ".join(f"{name} {count:,}" for name, count in parts.items() if count)
    frozen = f", of which {trained:,} are trained" if trained < total else ""
    return f"{total:,} in {model_label(model)}{frozen}" + (f": {named}" if named else "")


def _length(trainer: pl.Trainer, batch: int) -> str:
    steps, done = planned_steps(trainer), trainer.global_step
    accumulated, ranks = trainer.accumulate_grad_batches, trainer.world_size
    samples = " × ".join(
        [f"{batch}", *(f"{n} {what}" for n, what in ((accumulated, "batches"), (ranks, "ranks")) if n > 1)]
    )
    device = trainer.strategy.root_device.type
    return (
        f"{count_steps(steps)} of {samples} samples{f', from step {done:,}' if done else ''}; on {ranks} × {device}, "
        f"precision {trainer.precision}"
    )


class BicubicReference(Callback):
    """Logs PSNR of bicubic enlargement beside that of the model after each validation, as ``bicubic/psnr`` and
    ``bicubic/psnr_x…``. It is measured during the first whole validation of a start, on the same images.
    """

    def __init__(self) -> None:
        self.found: dict[str, float] = {}
        self.metric: ScalePSNR | None = None

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        psnr = getattr(pl_module, "val_psnr", None)
        if not (self.found or trainer.sanity_checking) and isinstance(psnr, ScalePSNR):
            self.metric = copy.deepcopy(psnr)
            self.metric.reset()

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: ImagePair, *_: Any
    ) -> None:
        if self.metric is not None:
            self.metric.add(bicubic(batch.lr, batch.size, batch.peak), batch)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.metric is not None:
            psnr = {scale: float(mean) for scale, mean in self.metric.means().items()}
            seen = {scale: mean for scale, mean in psnr.items() if not math.isnan(mean)}
            self.metric, self.found = None, {f"bicubic/psnr_{scale}": mean for scale, mean in seen.items()}
            if seen:
                self.found["bicubic/psnr"] = sum(seen.values()) / len(seen)
        pl_module.log_dict(self.found)
