"""Stage 1 from its command to its outputs; above all, an interrupted run resumes bit for bit."""

import json
import logging
import math
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from PIL import Image
from pytorch_lightning.callbacks import Callback
from torch import Tensor
from torch.distributions import MultivariateNormal

import linf
from helpers.commands import Command, Compose, finish, start, wait_for
from helpers.runs import (
    SMOKE,
    WITH_CURVES,
    Interrupt,
    PowerCut,
    SignalAtImage,
    assert_same_end,
    column,
    fit,
    logged,
    one_model,
    same,
    state,
)
from linf.data.sources import bundled
from linf.errors import Stopped
from linf.images.read import read_image

# Outputs


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a whole smoke run, started as a user would, and what it printed."""
    folder = tmp_path_factory.mktemp("smoke")
    done = finish(*WITH_CURVES, f"hydra.run.dir={folder / 'run'}", cwd=folder)
    assert done.status == 0, done.err
    return folder / "run", done.out


def test_a_run_leaves_its_record(finished: tuple[Path, str]) -> None:
    run, printed = finished
    assert (run / ".hydra" / "config.yaml").is_file()
    assert sorted(path.name for path in run.glob("checkpoints/*")) == [
        "best.ckpt",
        "last.ckpt",
        "previous.ckpt",
    ]
    assert f"trained model: {run / 'model.safetensors'}" in printed
    assert f"best by validation: {run / 'checkpoints' / 'best.ckpt'}" in printed
    hparams = (run / "csv" / "version_0" / "hparams.yaml").read_text()
    assert "experiment" not in hparams
    assert "patch_size: 3" in hparams


def test_a_run_logs_every_step_and_every_validation(finished: tuple[Path, str]) -> None:
    run, _ = finished
    for key, count in {
        "train/loss": 6,
        "train/nll": 6,
        "val/psnr": 2,
        "val/psnr_x2": 2,
        "val/psnr_x3.3": 2,
    }.items():
        assert len(column(run, key)) == count, key
        assert all(map(math.isfinite, column(run, key)))
    assert column(run, "train/loss") == column(run, "train/nll")
    assert set(column(run, "lr-Adam")) == {1e-4}
    means = np.mean([column(run, "val/psnr_x2"), column(run, "val/psnr_x3.3")], axis=0)
    assert column(run, "val/psnr") == pytest.approx(means, abs=1e-5)


def test_a_run_draws_a_panel_after_each_validation(finished: tuple[Path, str]) -> None:
    panels = sorted((finished[0] / "panels").iterdir())
    assert [path.name for path in panels] == ["step_0000003.png", "step_0000006.png"]
    for path in panels:
        pixels = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)
        assert len(np.unique(pixels, axis=0)) > 1000


def test_the_model_left_is_the_averaged_one(finished: tuple[Path, str]) -> None:
    run, _ = finished
    last = state(run / "checkpoints" / "last.ckpt")
    weights = linf.load(run / "model.safetensors").state_dict()
    in_training = {name.removeprefix("model."): value for name, value in last["current_model_state"].items()}
    assert same(weights, {name.removeprefix("model."): value for name, value in last["state_dict"].items()})
    assert same(weights, linf.load(run / "checkpoints" / "last.ckpt").state_dict())
    assert not same(weights, in_training)


def test_validation_and_evaluation_give_the_same_psnr(
    finished: tuple[Path, str], command: Command, tmp_path: Path
) -> None:
    run, _ = finished
    (tmp_path / "crops").mkdir()
    for path in bundled("heldout").hr[:2]:
        image = read_image(path)
        top, left = ((n - 48) // 2 for n in image.shape[:2])
        Image.fromarray(image[top : top + 48, left : left + 48]).save(tmp_path / "crops" / f"{path.stem}.png")
    done = command(
        "eval",
        f"ckpt_path={run / 'checkpoints' / 'last.ckpt'}",
        "data=folder",
        "data.root=crops",
        "data.test_scales=[2,3.3]",
        "temperatures=[0]",
        "hydra.run.dir=scores",
    )
    assert done.status == 0, done.err
    scores = {
        row["scale"]: row["psnr_y"]
        for row in json.loads((tmp_path / "scores" / "metrics.json").read_text())
        if row["system"] == "τ=0"
    }
    assert scores == pytest.approx(
        {2: column(run, "val/psnr_x2")[-1], 3.3: column(run, "val/psnr_x3.3")[-1]}, abs=1e-4
    )


# Training


def test_gradients_are_clipped(composed: Compose, tmp_path: Path) -> None:
    def stride(clip: str) -> float:
        config = composed(
            "train",
            *SMOKE,
            "~callbacks.ema",
            "task.optimizer._target_=torch.optim.SGD",
            "task.optimizer.lr=1",
            "task.loss.nll=1000",
            "trainer.max_steps=1",
            f"trainer.gradient_clip_val={clip}",
            f"run_dir={tmp_path / clip}",
        )
        before: dict[str, Tensor] = {}

        class Start(Callback):
            """Takes the weights as they are after whitening."""

            def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
                before.update((name, p.detach().clone()) for name, p in pl_module.named_parameters())

        after = fit(config, Start()).lightning_module.state_dict()
        return math.sqrt(sum(float((after[name] - p).double().square().sum()) for name, p in before.items()))

    assert composed("train").trainer.gradient_clip_val == 1
    assert stride("1.0") == pytest.approx(1, rel=1e-3)
    assert stride("null") > 10


def test_frozen_parts_keep_their_weights(composed: Compose, tmp_path: Path) -> None:
    class Start(Callback):
        """Takes the weights as they are when training starts."""

        def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            self.weights = {name: value.clone() for name, value in pl_module.model.state_dict().items()}
            assert not pl_module.model.encoder.training
            assert pl_module.model.conditioner.training

    start = Start()
    config = composed("train", *SMOKE, "task.frozen=[encoder]", "trainer.max_steps=2", f"run_dir={tmp_path}")
    after = fit(config, start).lightning_module.model.state_dict()
    kept = {
        name.partition(".")[0] for name, value in after.items() if torch.equal(value, start.weights[name])
    }
    assert "encoder" in kept
    trained = [name for name, value in after.items() if not torch.equal(value, start.weights[name])]
    assert {name.partition(".")[0] for name in trained} == {"conditioner", "flow"}


def test_a_part_that_there_is_not_cannot_be_frozen(composed: Compose) -> None:
    config = composed("train", *SMOKE, "task.frozen=[decoder]")
    with pytest.raises(
        hydra.errors.InstantiationException, match="frozen has decoder; the model's parts are encoder,"
    ):
        instantiate(config.task)
    with pytest.raises(hydra.errors.InstantiationException, match="no parameters to train"):
        instantiate(composed("train", *SMOKE, "task.frozen=[encoder,conditioner,flow]").task)


def test_training_starts_as_the_best_gaussian(composed: Compose, tmp_path: Path) -> None:
    def first_nll(batches: int) -> float:
        run = tmp_path / str(batches)
        fit(
            composed(
                "train", *SMOKE, "trainer.max_steps=1", f"task.whitening_batches={batches}", f"run_dir={run}"
            )
        )
        return column(run, "train/nll")[0]

    config = composed("train", *SMOKE, f"run_dir={tmp_path}")
    data, model = instantiate(config.data), instantiate(config.model)
    seen = torch.cat([model.residual(*b).transpose(0, 1).flatten(1) for b in data.initial_batches(32)], dim=1)
    first = model.residual(*next(iter(data.train_dataloader()))).transpose(0, 1).flatten(1)
    gaussian = MultivariateNormal(seen.double().mean(1), torch.cov(seen.double(), correction=0))
    best = -float(gaussian.log_prob(first.double().T).mean()) / 27
    assert first_nll(32) == pytest.approx(best, abs=0.05)
    assert first_nll(0) > best + 1, "and far better than an untrained flow does"


def test_a_loaded_model_is_not_whitened_again(composed: Compose, tmp_path: Path, checkpoint: Path) -> None:
    still = composed("train", *SMOKE, "task.optimizer.lr=0", "trainer.max_steps=1", f"run_dir={tmp_path}")
    fresh: dict[str, Tensor] = {}
    loaded = linf.load(checkpoint)
    before = {name: value.clone() for name, value in loaded.state_dict().items()}
    fit(still, change=lambda task: setattr(task, "model", loaded.train()))
    assert same(before, dict(loaded.state_dict()))
    trainer = fit(still, change=lambda task: fresh.update(weight=task.model.flow.weight.detach().clone()))
    assert not torch.equal(trainer.lightning_module.model.flow.weight, fresh["weight"])


@pytest.mark.thorough
def test_one_cycle_by_step_goes_up_and_then_down_to_nothing(composed: Compose, tmp_path: Path) -> None:
    config = composed(
        "train",
        *SMOKE,
        "scheduler=one_cycle",
        "scheduler.pct_start=0.3",
        "task.scheduler_interval=step",
        "task.optimizer.lr=1e-3",
        "trainer.max_steps=10",
        "trainer.max_epochs=-1",
        f"run_dir={tmp_path}",
    )
    fit(config)
    rates = column(tmp_path, "lr-Adam")
    assert len(rates) == 10
    assert max(rates) == pytest.approx(1e-3)
    assert rates[0] < 1e-4
    assert rates[-1] < 1e-6


# Resuming


FEW_PANELS = "callbacks.panels.every_n_validations=3"


def settings(composed: Compose, run: Path, *overrides: str) -> DictConfig:
    """Nine steps in three epochs; each run has its own folder."""
    tiny = ("trainer.max_epochs=3", "data.val_limit=1", FEW_PANELS)
    return composed("train", *SMOKE, *tiny, f"run_dir={run}", *overrides)


HALVING = ("scheduler.milestones=[1,2]", "task.optimizer.lr=1e-3")
ONE_CYCLE = (
    "scheduler=one_cycle",
    "task.scheduler_interval=step",
    "task.optimizer.lr=1e-3",
    "trainer.max_steps=9",
    "trainer.max_epochs=-1",
)
IN_MID_EPOCH = ("+trainer.val_check_interval=2",)


Whole = Callable[..., Path]


@pytest.fixture(scope="module")
def whole(composed: Compose, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """The folder of an uninterrupted run with these settings, made once."""
    made: dict[tuple[str, ...], Path] = {}

    def run(*overrides: str) -> Path:
        if overrides not in made:
            made[overrides] = tmp_path_factory.mktemp("whole")
            fit(settings(composed, made[overrides], *overrides))
        return made[overrides]

    return run


@pytest.mark.parametrize(
    "schedule",
    [
        pytest.param(HALVING, id="halving"),
        pytest.param(ONE_CYCLE, id="one_cycle", marks=pytest.mark.thorough),
    ],
)
@pytest.mark.parametrize(
    ("saving", "broken_at", "saved_at"),
    [
        (IN_MID_EPOCH, 6, 5),
        pytest.param(IN_MID_EPOCH, 5, 5, marks=pytest.mark.thorough),
        pytest.param((), 3, 3, marks=pytest.mark.thorough),
        ((), 5, 3),
    ],
)
def test_an_interrupted_run_resumes_bit_for_bit(
    composed: Compose,
    tmp_path: Path,
    whole: Whole,
    schedule: tuple[str, ...],
    saving: tuple[str, ...],
    broken_at: int,
    saved_at: int,
) -> None:
    expected = whole(*schedule, *saving)
    with pytest.raises(PowerCut):
        fit(settings(composed, tmp_path, *schedule, *saving), Interrupt(broken_at))
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert state(last)["global_step"] == saved_at
    trainer = fit(settings(composed, tmp_path, *schedule, *saving, f"ckpt_path={last}"))
    assert trainer.global_step == 9
    assert_same_end(expected, tmp_path)
    for key, rows in (("train/loss", 9 - saved_at), ("lr-Adam", 1), ("val/psnr", 1)):
        assert column(tmp_path, key)[-rows:] == column(expected, key)[-rows:], key


@pytest.mark.parametrize(
    ("more", "step", "image"),
    [
        pytest.param(HALVING, 3, 0, id="after an epoch"),
        pytest.param(HALVING, 3, 1, id="at the last image", marks=pytest.mark.slow),
        pytest.param(HALVING, 9, 0, id="after the last epoch", marks=pytest.mark.slow),
        pytest.param((*ONE_CYCLE, *IN_MID_EPOCH), 5, 0, id="in an epoch", marks=pytest.mark.slow),
        pytest.param(("~callbacks.ema",), 3, 0, id="without an average", marks=pytest.mark.slow),
    ],
)
def test_a_signal_in_a_validation_breaks_it_off_and_the_resumed_run_makes_it_anew(
    composed: Compose,
    tmp_path: Path,
    whole: Whole,
    caplog: pytest.LogCaptureFixture,
    more: tuple[str, ...],
    step: int,
    image: int,
) -> None:
    expected = whole(*more)
    with pytest.raises(Stopped) as stopped:
        fit(settings(composed, tmp_path, *more), SignalAtImage(step, image))
    assert stopped.value.where == f"in the validation after step {step}, which is saved"
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert state(last)["global_step"] == step
    caplog.clear()
    with caplog.at_level(logging.INFO, "linf.training.callbacks.forecast"):
        assert fit(settings(composed, tmp_path, *more, f"ckpt_path={last}")).global_step == 9
    first = next(line for line in caplog.messages if line.startswith("step "))
    assert first.startswith(f"step {step} of 9; PSNR in dB: ×2 ")
    assert "left" not in first, "no step has shown yet how long one takes"
    if "~callbacks.ema" in more:
        assert same(state(expected / "checkpoints" / "last.ckpt")["state_dict"], state(last)["state_dict"])
    else:
        assert_same_end(expected, tmp_path)
    for key in ("val/psnr", "lr-Adam", "train/loss"):
        assert steps_and_values(tmp_path, key) == steps_and_values(expected, key), key


def steps_and_values(run: Path, key: str) -> list[tuple[float, float]]:
    return [(row["step"], row[key]) for row in logged(run) if key in row]


def test_a_signal_in_the_validation_after_the_last_step_waits_for_it(
    composed: Compose, tmp_path: Path
) -> None:
    with pytest.raises(Stopped, match="143"):
        fit(settings(composed, tmp_path, *ONE_CYCLE), SignalAtImage(9, 0))
    assert len(column(tmp_path, "val/psnr")) == 3
    assert state(tmp_path / "checkpoints" / "best.ckpt")["global_step"] <= 9


class CutInValidation(Interrupt):
    """Break off as a validation begins."""

    def on_validation_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self.on_train_batch_start(trainer)


@pytest.mark.slow
def test_a_run_that_is_killed_in_a_validation_makes_it_anew(
    composed: Compose, tmp_path: Path, whole: Whole
) -> None:
    """Also if it was time to save just before."""
    often = settings(composed, tmp_path, *IN_MID_EPOCH, "callbacks.last.minutes=1e-9")
    with pytest.raises(PowerCut):
        fit(often, CutInValidation(5))
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert state(last)["global_step"] == 4
    fit(settings(composed, tmp_path, *IN_MID_EPOCH, f"ckpt_path={last}"))
    assert_same_end(whole(*IN_MID_EPOCH), tmp_path)
    assert [step for step, _ in steps_and_values(tmp_path, "val/psnr")] == [
        step for step, _ in steps_and_values(whole(*IN_MID_EPOCH), "val/psnr")
    ]


@pytest.mark.slow
def test_an_interrupted_run_with_stochastic_depth_resumes_bit_for_bit(
    composed: Compose, tmp_path: Path, whole: Whole
) -> None:
    given = ("encoder=swinir_tiny", "encoder.drop_path=0.9", "encoder.depths=[4]", *IN_MID_EPOCH)
    with pytest.raises(PowerCut):
        fit(settings(composed, tmp_path, *given), Interrupt(6))
    fit(settings(composed, tmp_path, *given, f"ckpt_path={tmp_path / 'checkpoints' / 'last.ckpt'}"))
    assert_same_end(whole(*given), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "length",
    [
        "trainer.max_epochs=2",
        pytest.param("trainer.max_steps=6", marks=pytest.mark.thorough),
        pytest.param("trainer.max_steps=2", marks=pytest.mark.thorough),
    ],
)
def test_a_finished_run_resumes_for_longer(
    composed: Compose, tmp_path: Path, whole: Whole, length: str
) -> None:
    steps = ("trainer.max_steps=9", "trainer.max_epochs=-1")
    fit(settings(composed, tmp_path, *HALVING, length))
    last = tmp_path / "checkpoints" / "last.ckpt"
    fit(settings(composed, tmp_path, *HALVING, *steps, f"ckpt_path={last}"))
    assert_same_end(whole(*HALVING), tmp_path)


def test_last_ckpt_is_the_newest_even_if_validation_got_worse(composed: Compose, tmp_path: Path) -> None:
    fit(settings(composed, tmp_path, "task.optimizer.lr=1e-2"))
    scores = column(tmp_path, "val/psnr")
    best = scores.index(max(scores))
    assert best < 2, "with the best at the end, this would test nothing"
    assert state(tmp_path / "checkpoints" / "best.ckpt")["global_step"] == 3 * (best + 1)
    assert state(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == 9


@pytest.mark.slow
def test_resuming_with_another_number_of_workers_changes_nothing(
    composed: Compose, tmp_path: Path, whole: Whole
) -> None:
    with pytest.raises(PowerCut):
        fit(settings(composed, tmp_path, *HALVING), Interrupt(5))
    last = tmp_path / "checkpoints" / "last.ckpt"
    fit(settings(composed, tmp_path, *HALVING, "data.num_workers=1", f"ckpt_path={last}"))
    assert_same_end(whole(*HALVING), tmp_path)


@pytest.mark.thorough
def test_a_killed_process_resumes_bit_for_bit(composed: Compose, command: Command, tmp_path: Path) -> None:
    arguments = [*SMOKE, "trainer.max_epochs=40", "data.batches_per_epoch=5", *HALVING, FEW_PANELS]
    killed = tmp_path / "killed"
    last = killed / "checkpoints" / "last.ckpt"
    process = start(*arguments, f"hydra.run.dir={killed}", cwd=tmp_path)
    wait_for(last, process)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors
    done = state(last)["global_step"]
    assert 5 <= done < 35
    shorter = ["trainer.max_epochs=8"]
    for arguments_of_run in (
        [f"hydra.run.dir={tmp_path / 'whole'}"],
        [f"hydra.run.dir={killed}", f"ckpt_path={last}"],
    ):
        ended = command("train", *arguments, *shorter, *arguments_of_run)
        assert ended.status == 0, ended.err
    assert_same_end(tmp_path / "whole", killed)


def test_resuming_a_finished_run_leaves_the_averaged_model(
    composed: Compose, command: Command, tmp_path: Path, whole: Whole
) -> None:
    last = whole(*HALVING) / "checkpoints" / "last.ckpt"
    again = ["trainer.max_epochs=3", *HALVING, f"ckpt_path={last}", "hydra.run.dir=again"]
    assert command("train", *SMOKE, *again).status == 0
    assert same(linf.load(tmp_path / "again" / "model.safetensors").state_dict(), one_model(state(last)))


def test_resuming_with_another_model_fails_with_a_message(command: Command, whole: Whole) -> None:
    last = whole(*HALVING) / "checkpoints" / "last.ckpt"
    done = command("train", *SMOKE, f"ckpt_path={last}", "model.flow.steps=3")
    assert done.status == 2
    assert "steps" in done.err.splitlines()[-1]


def test_resuming_past_the_end_fails_with_a_message(command: Command, whole: Whole) -> None:
    last = whole(*HALVING) / "checkpoints" / "last.ckpt"
    done = command("train", *SMOKE, f"ckpt_path={last}", "trainer.max_epochs=1")
    assert done.status == 2
    assert "Traceback" not in done.out + done.err
    assert "max_epochs=1" in done.err.splitlines()[-1]


# Sweeps


@pytest.mark.thorough
def test_every_run_of_a_sweep_has_a_folder_usable_in_commands(
    command: Command, photos: Path, tmp_path: Path
) -> None:
    tiny = ("trainer.max_epochs=1", "data.val_limit=1", "data.batches_per_epoch=1")
    done = command("train", *SMOKE, *tiny, "sweep=patch_size")
    assert done.status == 0, done.err
    models = sorted(tmp_path.glob("outputs/smoke/*/*/model.safetensors"))
    assert sorted(linf.load(path).patch_size for path in models) == [1, 3, 5]
    for path in models:
        path = path.relative_to(tmp_path)
        scored = command(
            "eval", f"ckpt_path={path}", "data=folder", f"data.root={photos}", "data.test_scales=[2]"
        )
        assert scored.status == 0, scored.err


# Loggers


def test_tensorboard_gets_scalars_and_images(composed: Compose, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit(composed("train", *SMOKE, "logger=tensorboard", f"run_dir={tmp_path}"))
    (version,) = (tmp_path / "tensorboard").iterdir()
    events = EventAccumulator(str(version))
    events.Reload()
    tags = events.Tags()
    assert {"train/loss", "train/nll", "val/psnr", "val/psnr_x3.3", "lr-Adam"} <= set(tags["scalars"])
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(
        column(tmp_path, "train/loss")
    )
    assert tags["images"] == ["val/images"]
    assert [event.step for event in events.Images("val/images")] == [3, 6]


@pytest.mark.thorough
def test_wandb_offline_needs_no_account_and_no_network(tmp_path: Path) -> None:
    nowhere = "http://127.0.0.1:9"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    environment |= {"HOME": str(tmp_path / "home"), "HTTPS_PROXY": nowhere, "HTTP_PROXY": nowhere}
    settings = [*SMOKE, "logger=wandb", "logger.wandb.offline=true", f"hydra.run.dir={tmp_path / 'run'}"]
    done = finish(*settings, cwd=tmp_path, env=environment)
    assert done.status == 0, done.err
    (offline,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    (record,) = offline.glob("run-*.wandb")
    assert b"patch_size" in record.read_bytes(), "the config"
    assert len(list(offline.glob("files/media/images/val/images_*.png"))) == 2
