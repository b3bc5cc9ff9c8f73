"""What a training run or a sweep leaves, and how alike two of them are."""

import csv
import json
import os
import signal
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import Tensor

import linf
from helpers.commands import Command
from linf.runs.record import read_record
from linf.runs.sweep import sweep_jobs

WITH_CURVES = ("experiment=smoke", "callbacks.progress.refresh_rate=0")

SMOKE = (*WITH_CURVES, "~callbacks.curves")
"""Without the figure of the curves, which takes a third of such a run's time."""

QUIET = (*SMOKE, "data.val_limit=1", "callbacks.panels.every_n_validations=100")
"""A shorter validation, and a panel after the first one only."""


class ScaledLoss(MixedPrecision):
    """What fp16 is on a GPU, but for its rounding: a loss that is scaled."""

    def __init__(self, scale: float = 1024.0) -> None:
        super().__init__("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))

    def autocast_context_manager(self) -> Any:
        return nullcontext()


class PowerCut(Exception):
    """What stands for a power cut."""


class Interrupt(Callback):
    """Break off after a step, when everything else has been done there."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            raise PowerCut

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self.on_train_batch_start(trainer)


class SignalAtImage(Callback):
    """Sends SIGTERM to a rank while it validates an image after a step."""

    def __init__(self, step: int, image: int, rank: int = 0) -> None:
        self.at = (step, image, rank)

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, batch_idx: int
    ) -> None:
        if (trainer.global_step, batch_idx, trainer.global_rank) == self.at:
            os.kill(os.getpid(), signal.SIGTERM)


def fit(
    config: DictConfig, *callbacks: Callback, change: Callable[[Any], object] = lambda task: None
) -> pl.Trainer:
    """What ``train.py`` does, with more callbacks and a change to the task before it starts."""
    pl.seed_everything(config.seed, workers=True)
    data, task, trainer = (
        instantiate(of, _convert_="all") for of in (config.data, config.task, config.trainer)
    )
    trainer.callbacks = [*callbacks, *trainer.callbacks]
    change(task)
    trainer.fit(task, data, ckpt_path=config.ckpt_path)
    return trainer


def logged(run: Path) -> list[dict[str, float]]:
    """The rows of every ``metrics.csv`` of a run, numbers only."""
    rows = []
    for file in sorted(run.glob("csv/version_*/metrics.csv")):
        with file.open() as lines:
            rows += [
                {key: float(value) for key, value in row.items() if value} for row in csv.DictReader(lines)
            ]
    return rows


def column(run: Path, key: str) -> list[float]:
    return [row[key] for row in logged(run) if key in row]


def state(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def same(one: Any, other: Any) -> bool:
    """Whether two nested states hold the same, tensors bit for bit."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


def assert_same_end(whole: Path, resumed: Path) -> None:
    """The last checkpoints of two runs agree bit for bit in all that training goes on from."""
    one, other = (state(run / "checkpoints" / "last.ckpt") for run in (whole, resumed))
    for part in (
        "state_dict",
        "current_model_state",
        "averaging_state",
        "optimizer_states",
        "lr_schedulers",
        "global_step",
        "epoch",
    ):
        assert same(one[part], other[part]), part
    for callback in ("EMA", "PicturePanels"):
        assert same(one["callbacks"][callback], other["callbacks"][callback])
    assert same(linf.load(whole / "checkpoints" / "last.ckpt").state_dict(), one_model(other))


def one_model(content: dict[str, Any]) -> dict[str, Tensor]:
    return {name.removeprefix("model."): value for name, value in content["state_dict"].items()}


TINY = (*SMOKE, "trainer.max_epochs=1", "data.batches_per_epoch=2", "data.val_limit=1", "~callbacks.panels")


ONE_EACH = "hydra.sweep.dir=sweep"


RANKS = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "data.batch_size=2")


def assert_each_job_once(sweep: Path, command: Command) -> None:
    """Three seeds on two ranks each, against one process with the whole batch."""
    assert set(sweep_jobs(sweep)) == {f"seed-{seed}" for seed in range(3)}
    for seed in range(3):
        folder = sweep / f"seed-{seed}"
        job = read_record(folder)
        assert job.state == "finished"
        assert len(list(folder.glob("csv/*"))) == 1, "run once"
        alone = command("train", *TINY, f"seed={seed}", "data.batch_size=4", f"hydra.run.dir=alone-{seed}")
        assert alone.status == 0, alone.err
        expected = read_record(sweep.parent / f"alone-{seed}").result
        assert job.result == pytest.approx(expected, abs=1e-4)
        weights = [
            linf.load(run / "model.safetensors").state_dict()
            for run in (folder, sweep.parent / f"alone-{seed}")
        ]
        for name, value in weights[0].items():
            torch.testing.assert_close(value, weights[1][name], atol=1e-5, rtol=1e-4)
    assert len({json.dumps(read_record(sweep / f"seed-{seed}").result) for seed in range(3)}) == 3
