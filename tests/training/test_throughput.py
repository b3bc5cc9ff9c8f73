"""The logged throughput, and the switches that raise it."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch._dynamo.testing
from torch import _dynamo, nn
from torch.utils._python_dispatch import _len_torch_dispatch_stack
from torch.utils.data import DataLoader

import linf
from helpers.commands import Command, Compose
from helpers.runs import SMOKE, TINY, ScaledLoss, column, fit, same
from linf.data.crops import SRBatch
from linf.errors import UsageError
from linf.losses.flow import LikelihoodL1
from linf.models.conditioner import FourierConditioner
from linf.models.encoders import EDSR
from linf.models.flow import ConditionalFlow
from linf.models.linf import LINF
from linf.training import Training
from linf.training.callbacks import EMA
from linf.training.callbacks.throughput import Acceleration, Throughput, measure_peak

RUN = (
    *SMOKE,
    "trainer.max_steps=6",
    "trainer.max_epochs=-1",
    "data.batches_per_epoch=6",
    "model.flow.steps=2",
    "hydra.run.dir=run",
)


def test_throughput_is_logged_and_adds_up(command: Command, tmp_path: Path) -> None:
    done = command("train", *RUN)
    assert done.status == 0, done.err
    samples, tflops, share = (
        column(tmp_path / "run", f"speed/{name}") for name in ("samples_per_s", "tflops", "of_peak")
    )
    assert len(samples) == len(tflops) == len(share) == 5, "every step but the first"
    peaks = [rate / part for rate, part in zip(tflops, share, strict=True)]
    assert peaks == pytest.approx([peaks[0]] * 5)
    model = linf.load(tmp_path / "run" / "model.safetensors")
    pixels, queries = 24 * 24, 64
    work = 2 * sum(
        m.weight.numel() * (pixels if isinstance(m, nn.Conv2d) else queries)
        for m in model.modules()
        if isinstance(m, nn.Conv2d | nn.Linear)
    )
    for rate, speed in zip(tflops, samples, strict=True):
        # Forward, and twice that backward, but for the first layer; and a little for the flow.
        assert 0.8 < 1e12 * rate / speed / (3 * work) < 1.3


def test_counting_ends_where_the_first_step_fails(command: Command) -> None:
    done = command("train", *RUN, "task.loss.nll=1e39")
    assert done.status == 2
    assert "not finite" in done.err
    assert _len_torch_dispatch_stack() == 0


@pytest.mark.slow
def test_accumulated_batches_count(command: Command, tmp_path: Path) -> None:
    one, two = (
        command(
            "train",
            *RUN[:-1],
            f"trainer.accumulate_grad_batches={n}",
            f"hydra.run.dir=run{n}",
            "trainer.max_steps=3",
        )
        for n in (1, 2)
    )
    assert (one.status, two.status) == (0, 0), one.err + two.err
    work = [
        column(tmp_path / f"run{n}", "speed/tflops")[0]
        / column(tmp_path / f"run{n}", "speed/samples_per_s")[0]
        for n in (1, 2)
    ]
    assert work[0] == pytest.approx(work[1], rel=1e-6)


def test_the_peak_is_that_of_a_matrix_product() -> None:
    cpu = torch.device("cpu")
    single, double = (measure_peak(cpu, dtype, seconds=0.5) for dtype in (torch.float32, torch.float64))
    assert single > 1e9
    assert single > double, "double numbers take twice the room"


@pytest.mark.slow
def test_channels_last_trains_alike(command: Command, tmp_path: Path) -> None:
    for choice in ("false", "true"):
        done = command(
            "train",
            *RUN[:-1],
            f"callbacks.acceleration.channels_last={choice}",
            f"hydra.run.dir=run_{choice}",
        )
        assert done.status == 0, done.err
    one, other = (column(tmp_path / f"run_{choice}", "train/loss") for choice in ("false", "true"))
    assert one == pytest.approx(other, abs=1e-4)


class _Compilations(pl.Callback):
    """The number of graphs after each step."""

    def __init__(self) -> None:
        _dynamo.reset()
        self.counter = _dynamo.testing.CompileCounterWithBackend("eager")
        self.after: list[int] = []

    def setup(self, trainer: pl.Trainer, pl_module: Any, stage: str) -> None:
        pl_module.compute = torch.compile(pl_module.loss.__call__, backend=self.counter)

    def on_train_batch_end(self, *_: Any) -> None:
        self.after.append(self.counter.frame_count)


def small_training(**adam: Any) -> Training:
    torch.manual_seed(0)
    model = LINF(EDSR(1, 8), partial(FourierConditioner, width=8), ConditionalFlow(1, steps=2))
    model.flow.whiten(torch.randn(model.dim, 200))
    return Training(model, LikelihoodL1(), partial(torch.optim.Adam, **adam), whitening_batches=0)


def fit_small(module: Training, steps: int, ckpt_path: Path | None = None, **kwargs: Any) -> pl.Trainer:
    """Train on one batch again and again."""
    torch.manual_seed(1)
    lr, hr, coord = torch.rand(2, 3, 12, 12), torch.rand(2, 3, 8, 8), torch.rand(2, 8, 8, 2)
    data = DataLoader([SRBatch(lr, hr, coord, torch.full((2, 2), 0.05))] * 4, batch_size=None)  # type: ignore[arg-type]
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        **kwargs,
    )
    trainer.fit(module, data, ckpt_path=ckpt_path)
    return trainer


def test_the_step_that_is_counted_is_not_compiled_and_the_next_is() -> None:
    graphs = _Compilations()
    fit_small(small_training(lr=1e-4), 4, callbacks=[graphs, Throughput()])
    # torch 2.11 never compiles a function that it first met under a mode, such as the one that counts.
    assert graphs.after == [0, 1, 1, 1]


def test_every_job_of_a_process_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    counter = _dynamo.testing.CompileCounterWithBackend("eager")
    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, mode: compile(function, backend=counter))
    with _dynamo.config.patch(recompile_limit=1):
        for _ in range(2):
            fit_small(small_training(lr=1e-4), 1, callbacks=[Acceleration(compile=True)])
    assert counter.frame_count == 2


class _Overwritten(pl.Callback):
    """Overwrites the gradients of a backward pass at the next batch, as a CUDA graph does that is replayed."""

    def __init__(self) -> None:
        self.given: list[torch.Tensor] = []

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.given = [p.grad for p in pl_module.parameters() if p.grad is not None]

    def on_train_batch_start(self, *_: Any) -> None:
        for grad in self.given:
            grad.fill_(torch.nan)


def test_replayed_cuda_graphs_overwrite_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, mode: function)
    plain, replayed = small_training(lr=1e-3), small_training(lr=1e-3)
    fit_small(plain, 2, accumulate_grad_batches=2)
    callbacks = [_Overwritten(), Acceleration(compile=True, mode="reduce-overhead")]
    fit_small(replayed, 2, accumulate_grad_batches=2, callbacks=callbacks)
    assert same(plain.state_dict(), replayed.state_dict())


@pytest.mark.thorough
def test_a_compiled_model_trains_alike(command: Command, tmp_path: Path) -> None:
    for choice in ("false", "true"):
        done = command(
            "train", *RUN[:-1], f"callbacks.acceleration.compile={choice}", f"hydra.run.dir=run_{choice}"
        )
        assert done.status == 0, done.err
    for key in ("train/loss", "val/psnr"):
        one, other = (column(tmp_path / f"run_{choice}", key) for choice in ("false", "true"))
        assert one == pytest.approx(other, abs=1e-3)
    names = [
        set(linf.load(tmp_path / f"run_{choice}" / "model.safetensors").state_dict())
        for choice in ("false", "true")
    ]
    assert names[0] == names[1]


def test_an_unknown_mode_of_the_compiler_is_refused() -> None:
    with pytest.raises(UsageError, match="'fast': choose one of default, reduce-overhead"):
        Acceleration(compile=True, mode="fast")


@pytest.mark.slow
def test_the_presets_of_a_gpu_train(command: Command, tmp_path: Path) -> None:
    done = command("train", *TINY, "speed=gpu", "trainer.log_every_n_steps=1", "hydra.run.dir=run")
    assert done.status == 0, done.err
    assert len(column(tmp_path / "run", "train/loss")) == 2


class _Layouts(pl.Callback):
    """Where the weights that are averaged have another layout than their average."""

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        (ema,) = (callback for callback in trainer.callbacks if isinstance(callback, EMA))
        assert ema._average_model is not None
        pairs = zip(pl_module.parameters(), ema._average_model.module.parameters(), strict=True)
        self.other = [current.shape for current, average in pairs if current.stride() != average.stride()]
        self.seen = pl_module.model.encoder.head[0].weight


def test_weights_and_their_average_have_one_memory_format(composed: Compose, tmp_path: Path) -> None:
    config = composed("train", *TINY, "speed=gpu", f"run_dir={tmp_path}")
    for epochs in (1, 2):  # The second one resumes.
        config.trainer.max_epochs = epochs
        config.ckpt_path = str(tmp_path / "checkpoints" / "last.ckpt") if epochs > 1 else None
        layouts = _Layouts()
        fit(config, layouts)
        assert layouts.seen.is_contiguous(memory_format=torch.channels_last)
        assert layouts.other == []


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_a_fused_optimizer_clips_also_where_the_loss_is_scaled(algorithm: str) -> None:
    ends = []
    for settings in ({}, {"plugins": [ScaledLoss()]}, {"precision": "bf16-mixed"}):
        module = small_training(lr=1e-3, fused=bool(settings))
        # About Adam's ε, so that the size of a gradient counts.
        fit_small(module, 3, gradient_clip_val=1e-8, gradient_clip_algorithm=algorithm, **settings)
        ends.append(dict(module.named_parameters()))
    plain, half, _ = ends
    for name, value in plain.items():
        torch.testing.assert_close(half[name], value, rtol=0, atol=1e-6)


@pytest.mark.parametrize("before", [False, True])
def test_a_fused_optimizer_resumes_in_another_memory_format(tmp_path: Path, before: bool) -> None:
    first = fit_small(small_training(lr=1e-3), 3, callbacks=[Acceleration(channels_last=before)])
    first.save_checkpoint(tmp_path / "last.ckpt")
    ends = []
    for channels_last in (before, not before):
        module = small_training(lr=1e-3, fused=True)
        resumed = fit_small(
            module, 8, tmp_path / "last.ckpt", callbacks=[Acceleration(channels_last=channels_last)]
        )
        ends.append(dict(module.named_parameters()))
        for p, state in resumed.optimizers[0].state.items():
            assert state["exp_avg"].stride() == state["exp_avg_sq"].stride() == p.stride()
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, rtol=0, atol=1e-5)
