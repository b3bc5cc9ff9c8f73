"""Training by the real `Trainer` with the callbacks of ``conf``, watched: what several sections share."""

import json
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.gpu.work import Run, batch, composed, release, sync
from linf.data.crops import SRBatch


class Row(NamedTuple):
    """A row of the paper's tables."""

    encoder: str
    model: str
    size: int
    """Samples of a batch."""
    counted: float | None
    """GiB that are live at once in a step in fp32, counted on tensors without a GPU."""


ROWS = {
    "EDSR-baseline P=1": Row("edsr_baseline", "linf", 16, 0.9),
    "EDSR-baseline P=3": Row("edsr_baseline", "linf_patch", 16, None),
    "EDSR P=1": Row("edsr", "linf", 16, 3.0),
    "RDN P=1": Row("rdn", "linf", 16, 8.3),
    "RRDB P=3": Row("rrdb", "linf_patch", 16, 7.9),
    "SwinIR P=1": Row("swinir", "linf", 32, 26.7),
}
TINY = {"edsr_baseline": "edsr_tiny", "edsr": "edsr_tiny"}
"""The tiny size of an encoder, where it is not its name and ``_tiny``."""
BF16 = ("trainer.precision=bf16-mixed",)
USUAL = ("speed=gpu",)
"""What users of a GPU have by default."""
FAST = (*USUAL, "callbacks.acceleration.compile=true")


class InMemory(pl.LightningDataModule):
    """The same batch, in the device's memory, over and over; ``change`` may replace some."""

    window = True

    def __init__(self, data: SRBatch, steps: int, change: dict[int, SRBatch] | None = None) -> None:
        super().__init__()
        self.data, self.steps, self.change = data, steps, change or {}

    def initial_batches(self, n: int) -> list[SRBatch]:
        return [self.data]

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader([self.change.get(i, self.data) for i in range(self.steps)], batch_size=None)  # type: ignore[arg-type]


class Watch(pl.Callback):
    """Times some steps and then profiles others.

    Args:
        warm: Steps before.
        timed: Steps that are timed together.
        profiled: Steps after those, whose kernels are looked at.
        folder: For the profile.
    """

    def __init__(self, warm: int, timed: int, profiled: int, folder: Path) -> None:
        self.warm, self.timed, self.profiled, self.folder = warm, timed, profiled, folder
        self.steps = warm + timed + profiled
        self.milliseconds = self.first_seconds = 0.0
        self.kernels, self.busy = 0.0, 0.0
        self.losses: list[Tensor] = []

    def on_train_start(self, *_: Any) -> None:
        self.began = time.perf_counter()

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, data: Any, batch_idx: int) -> None:
        if batch_idx == self.warm:
            sync()
            self.start = time.perf_counter()
        if self.profiled and batch_idx == self.warm + self.timed:
            activity = torch.profiler.ProfilerActivity
            kinds = [activity.CUDA] if torch.cuda.is_initialized() else [activity.CPU]
            self.profiler = torch.profiler.profile(activities=kinds)
            self.profiler.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: Any, outputs: Any, data: Any, batch_idx: int
    ) -> None:
        self.losses.append(module.parts["loss"])
        if batch_idx == 1:  # Both kinds of step, with and without counting, have been compiled.
            sync()
            self.first_seconds = time.perf_counter() - self.began
        if batch_idx == self.warm + self.timed - 1:
            sync()
            self.milliseconds = 1e3 * (time.perf_counter() - self.start) / self.timed
        if self.profiled and batch_idx == self.steps - 1:
            sync()
            self.profiler.stop()
            self._look(self.folder / "trace.json")

    def _look(self, trace: Path) -> None:
        self.profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
        on_gpu = any(event.get("cat") == "kernel" for event in events)
        kinds = ("kernel", "gpu_memcpy", "gpu_memset") if on_gpu else ("cpu_op",)
        spans = sorted((e["ts"], e["ts"] + e["dur"]) for e in events if e.get("cat") in kinds)
        busy, until = 0.0, 0.0
        for start, end in spans:  # Kernels of several streams may overlap.
            busy, until = busy + max(0.0, end - max(start, until)), max(until, end)
        self.kernels = sum(e.get("cat") == kinds[0] for e in events) / self.profiled
        self.busy = busy / 1e3 / self.profiled


def fit(
    run: Run,
    *overrides: str,
    data: pl.LightningDataModule | None = None,
    watch: Watch,
    more: tuple[pl.Callback, ...] = (),
    task: Any = None,
    callbacks: bool = True,
) -> tuple[Any, pl.Trainer]:
    """What ``train.py`` does with these overrides, without validation; the task and the trainer."""
    release()
    folder = run.folder / f"fit-{time.monotonic_ns()}"
    given = [
        "+trainer.limit_val_batches=0",
        f"trainer.max_steps={watch.steps}",
        f"data.batches_per_epoch={watch.steps}",
    ]
    config = composed("train", folder, *run.plain, *given, *overrides)
    pl.seed_everything(config.seed, workers=True)
    task = instantiate(config.task) if task is None else task
    trainer = instantiate(config.trainer)
    trainer.callbacks = [*(trainer.callbacks if callbacks else ()), *more, watch]
    trainer.fit(task, instantiate(config.data) if data is None else data)
    return task, trainer


def sized(run: Run, encoder: str) -> tuple[str, ...]:
    """The overrides that choose an encoder, or its tiny size and that of the rest."""
    if not run.tiny:
        return (f"encoder={encoder}",)
    return (
        f"encoder={TINY.get(encoder, f'{encoder}_tiny')}",
        "model.conditioner.width=16",
        "model.flow.steps=2",
    )


def made(run: Run, row: Row) -> tuple[tuple[str, ...], SRBatch]:
    """The overrides of a row and a batch for it."""
    patch_size = 3 if row.model == "linf_patch" else 1
    data = batch(run.device, patch_size, *((2, 12, 8) if run.tiny else (row.size, 48, 48)))
    return (*sized(run, row.encoder), f"model={row.model}"), data


def compiler(run: Run) -> Any:
    """A rehearsal traces graphs and leaves them as they are: no compiler is needed."""
    return mock.patch("torch.compile", partial(torch.compile, backend="eager")) if run.tiny else ExitStack()
