"""Every setting of conf: null is off or one line, and a value of the wrong kind or out of its range is one line."""

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from helpers.commands import Command, Compose, assert_in_words
from helpers.paths import ROOT
from helpers.runs import SMOKE, WITH_CURVES
from linf.errors import UsageError, find_mistake, message
from linf.runs.arguments import check_arguments
from linf.runs.switches import switch_off, without_null_groups
from linf.training.callbacks import CheckpointFiles
from linf.upscale.run import _reason

CONF = ROOT / "conf" / "train.yaml"
QUICK = (
    *SMOKE,
    "trainer.max_steps=1",
    "data.val_limit=1",
    "callbacks.panels=null",
    "callbacks.throughput=null",
)
EVAL = ("data=folder", "data.test_scales=[2]", "temperatures=[0]", "metrics=fidelity")


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        elif not key.startswith("_"):
            yield prefix + key, value


def construct(config: DictConfig) -> None:
    """What a run does before its first step."""
    switch_off(config)
    check_arguments(config)
    instantiate(config.trainer)
    data, task = instantiate(config.data), instantiate(config.task)
    data.setup("fit" if "optimizer" in config.task else "test")
    if "optimizer" in config.task:
        task.configure_optimizers()


CHOICES = {
    "stage 1": ("train", *WITH_CURVES),
    "one cycle": (
        "train",
        *WITH_CURVES,
        "encoder=swinir_tiny",
        "task=mixture",
        "scheduler=one_cycle",
        "trainer.max_steps=9",
    ),
    "evaluation": ("eval", "model=bicubic"),
}


@pytest.fixture(params=["stage 1", pytest.param("one cycle", marks=pytest.mark.thorough), "evaluation"])
def config(request: pytest.FixtureRequest, composed: Compose, tmp_path: Path) -> DictConfig:
    script, *choices = CHOICES[request.param]
    return composed(script, *choices, f"run_dir={tmp_path}")


@pytest.mark.slow
def test_no_number_takes_another_kind_of_value(config: DictConfig) -> None:
    numbers = {
        key: value for key, value in leaves(OmegaConf.to_container(config)) if type(value) in (int, float)
    }
    assert len(numbers) > 10
    for key, value in numbers.items():
        wrong: list[Any] = ["text", True, math.nan, math.inf, [1]]
        wrong += [value + 0.5] if isinstance(value, int) and key not in REAL else []
        for given in wrong:
            if key == "trainer.devices" and given in ("text", [1]):
                continue  # "auto", and the numbers of GPUs.
            OmegaConf.update(config, key, given)
            with pytest.raises(UsageError, match=r"is .*: give ") as raised:  # noqa: PT012
                check_arguments(config)
                pytest.fail(f"{key}={given} is taken")
            assert key.split(".")[-1] in str(raised.value), (key, given)
        OmegaConf.update(config, key, value)


REAL = {
    *("callbacks.last.minutes", "callbacks.forecast.minutes", "callbacks.forecast.seconds"),
    "callbacks.progress_file.seconds",
    *("trainer.gradient_clip_val", "trained_scale"),
}
"""Numbers that are whole in conf and need not be."""

BELOW_ZERO = {
    "callbacks.checkpoint.save_top_k",
    "encoder.residual_scale",
    "seed",
}
BELOW_ZERO |= {f"trainer.{name}" for name in ("devices", "max_epochs", "max_steps", "num_sanity_val_steps")}
"""Numbers that may be −1; a run checks its seed before."""


@pytest.mark.slow
def test_no_number_that_counts_or_weighs_is_negative(config: DictConfig) -> None:
    for key, value in leaves(OmegaConf.to_container(config)):
        if type(value) in (int, float) and key not in BELOW_ZERO:
            changed = copy.deepcopy(config)
            OmegaConf.update(changed, key, -1)
            with pytest.raises(Exception) as raised:  # noqa: PT011, PT012
                construct(changed)
                pytest.fail(f"{key}=-1 is taken")
            mistake = find_mistake(raised.value)
            assert mistake is not None, f"{key}: {raised.value!r}"
            assert "-1" in message(mistake), key


@pytest.mark.slow
def test_null_is_off_or_one_line_for_every_setting(config: DictConfig) -> None:
    for key, value in leaves(OmegaConf.to_container(config)):
        if value is None or key in ("run_dir", "name"):
            continue
        changed = copy.deepcopy(config)
        OmegaConf.update(changed, key, None)
        found: BaseException | None = None
        try:
            construct(changed)
        except Exception as error:
            found = error
        if found is not None:
            mistake = find_mistake(found)
            assert mistake is not None, f"{key}: {found!r}"
            assert "NoneType" not in message(mistake), key


# By the command


@pytest.mark.slow
@pytest.mark.parametrize(
    "part", ["experiment", "launcher", "scheduler", "task.scheduler", "logger", "logger.csv"]
)
def test_what_a_training_can_do_without_is_off(command: Command, tmp_path: Path, part: str) -> None:
    # Without an experiment, all is of full size.
    small = (
        "encoder=edsr_tiny",
        "data.batch_size=2",
        "data.queries=64",
        "data.val_crop=48",
        "data.num_workers=0",
    )
    given = small if part == "experiment" else ()
    done = command("train", *QUICK, *given, f"{part}=null", "hydra.run.dir=run")
    assert done.status == 0, done.err
    assert (tmp_path / "run" / "csv").exists() == ("logger" not in part)
    assert not (tmp_path / "run" / "lightning_logs").exists()


def test_all_callbacks_at_once_are_off(command: Command, tmp_path: Path) -> None:
    tiny = [setting for setting in QUICK if "callbacks." not in setting]
    done = command("train", *tiny, "callbacks=null", "trainer.plugins=null", "hydra.run.dir=run")
    assert done.status == 0, done.err
    assert (tmp_path / "run" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    "part", ["ema", "checkpoint", "last", "finite", "acceleration", "summary", "progress"]
)
def test_each_callback_is_off(composed: Compose, tmp_path: Path, part: str) -> None:
    config = composed("train", *SMOKE, f"callbacks.{part}=null", f"run_dir={tmp_path}")
    target = composed("train", f"run_dir={tmp_path}").callbacks[part]._target_.split(".")[-1]
    switch_off(config)
    found = [type(callback).__name__ for callback in instantiate(config.trainer).callbacks]
    assert target not in found
    assert not {"TQDMProgressBar", "RichProgressBar", "ModelSummary"} & set(found), (
        "Lightning's own in its place"
    )


@pytest.mark.parametrize("part", ["metrics.psnr_rgb", "metrics.lpips_alex", "callbacks.publish", "logger"])
def test_what_an_evaluation_can_do_without_is_off(
    command: Command, checkpoint: Path, photos: Path, tmp_path: Path, part: str
) -> None:
    given = [f"ckpt_path={checkpoint}", f"data.root={photos}", *EVAL, "hydra.run.dir=run"]
    more = ["metrics=generative"] if "lpips" in part else []
    done = command("eval", *given, *more, f"{part}=null")
    assert done.status == 0, done.err
    table = (tmp_path / "run" / "metrics.json").read_text()
    assert part.split(".")[-1] not in table


@pytest.mark.parametrize(
    ("script", "setting", "words"),
    [
        ("train", "encoder=null", ("encoder=null", "edsr_baseline")),
        ("train", "~model", ("~model", "linf_patch")),
        ("train", "data=null", ("data=null", "bundled")),
        ("train", "task=null", ("task=null", "nll")),
        ("train", "trainer=null", ("trainer=null", "cpu")),
        ("train", "task.optimizer=null", ("task.optimizer is null",)),
        ("train", "model.flow=null", ("model.flow is null",)),
        ("train", "seed=null", ("seed is null",)),
        ("eval", "metrics=null", ("metrics=null", "fidelity")),
        ("eval", "protocol=null", ("protocol=null", "benchmark")),
        ("eval", "task=null", ("task=null",)),
        ("eval", "temperatures=null", ("temperatures is null", "a list of numbers")),
        ("eval", "data.test_scales=null", ("data.test_scales is null", "a list of numbers")),
        ("eval", "data.test_scales=[2,[1,2,3]]", ("[1, 2, 3]", "one for each axis, vertical first")),
        ("train", "scheduler=null,halving", ("scheduler=null,halving", "scheduler=null by itself")),
        ("train", "data.batch_size=2.5", ("data.batch_size is 2.5", "a whole number")),
        ("train", "trainer.max_steps=1e5", ("trainer.max_steps is 100000.0", "a whole number, 100000")),
        ("train", "data.crop=12.5", ("data.crop is 12.5", "a whole number")),
        ("train", "encoder.channels=0", ("channels is 0", "at least 1")),
        ("train", "task.optimizer.lr=-1", ("task.optimizer", "-1")),
        ("train", "task.optimizer.lr=nan", ("task.optimizer.lr is nan",)),
        ("train", "task.scheduler_interval=batch", ("'batch'", "epoch or step")),
        ("train", "callbacks.ema.decay=true", ("callbacks.ema.decay is true", "a number")),
        ("train", "trainer.max_time=10", ("trainer.max_time is 10", "days:hours:minutes:seconds")),
        ("train", "ckpt_path=3", ("ckpt_path is 3", "a file")),
        ("train", "optimizer=adam", ("no setting 'optimizer'", "write optimizer@task.optimizer=…")),
        ("train", "+trainer.foo=1", ("no setting trainer.foo", "Trainer takes no foo: leave it out")),
        (
            "train",
            "+task.optimizer.weight_decays=1",
            ("no setting task.optimizer.weight_decays", "weight_decay,"),
        ),
        (
            "train",
            "+task.loss.weight=1",
            ("no setting task.loss.weight", "'~task.loss.weight' takes it out of a config"),
        ),
        ("train", "+callbacks.ema.foo=1", ("no setting callbacks.ema.foo", "EMA takes no foo")),
        ("train", "trainer.precision=bf16-true", ("trainer.precision is bf16-true", "bf16-mixed")),
        ("train", "trainer.precision=16-true", ("trainer.precision is 16-true", "16-mixed")),
        ("train", "trainer.strategy=ddp_spawn", ("trainer.strategy is ddp_spawn", "ddp")),
        ("train", "trainer.strategy=fsdp", ("trainer.strategy is fsdp", "ddp")),
        ("eval", "trainer.strategy=deepspeed", ("trainer.strategy is deepspeed", "ddp")),
        ("train", "trainer.accelerator=mps", ("trainer.accelerator is mps", "float64")),
        ("eval", "trainer.accelerator=tpu", ("trainer.accelerator is tpu", "cpu")),
        (
            "train",
            "data.degradation.first.jpeg.quality=much",
            ("quality is 'much'", "a number or a list of numbers"),
        ),
        ("train", "data.degradation.first.noise.probability=[1]", ("probability is [1]", "a number")),
        (
            "train",
            "+trainer.val_check_interval=10",
            ("interval is 10", "3 batches", "check_val_every_n_epoch=null"),
        ),
        ("train", "speed=gpuu", ("there is no speed=gpuu", "gpu, gpus, none")),
        pytest.param(
            *("train", "trainer=gpu", ("asks for a GPU", "trainer=cpu")),
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
        ("eval", "samples=2.5", ("samples is 2.5", "a whole number")),
        ("eval", "temperatures=[nan]", ("temperatures", "nan")),
    ],
)
def test_one_line_says_what_is_allowed(
    command: Command, script: str, setting: str, words: tuple[str, ...]
) -> None:
    given = QUICK if script == "train" else ("model=bicubic",)
    done = command(script, *given, setting)
    assert_in_words(done.status, done.out, done.err, *words)


def test_a_training_that_may_take_no_step_says_so(command: Command) -> None:
    done = command("train", *QUICK[:1], "data.val=null", "trainer.max_epochs=0")
    assert done.status == 0, done.err
    assert "no step was taken: at step 0, trainer.max_epochs=0 is reached" in done.out + done.err


def test_a_range_may_be_one_number(command: Command) -> None:
    jpeg = "data.test_degradation.first.jpeg"
    severity = (
        "data/degradation@data.test_degradation=severity",
        f"{jpeg}.probability=1.0",
        f"{jpeg}.quality=30",
    )
    done = command(
        "eval", "model=bicubic", *severity, "data.test_scales=[4]", "data.num_workers=0", "shown=0"
    )
    assert done.status == 0, done.err
    assert "JPEG quality 30" in done.out


def test_apples_gpu_is_not_taken_by_itself(composed: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    check_arguments(composed("train", "run_dir=x"))
    with pytest.raises(UsageError, match="give cpu"):
        check_arguments(composed("train", "run_dir=x", "trainer.accelerator=auto"))


@pytest.mark.parametrize("precision", ["64-true", "bf16-mixed", "32"])
def test_precisions_that_work(command: Command, precision: str) -> None:
    done = command("train", *QUICK, f"trainer.precision={precision}")
    assert done.status == 0, done.err


def test_no_panels_are_zero_panels(command: Command, tmp_path: Path) -> None:
    tiny = (
        *SMOKE,
        "trainer.max_epochs=1",
        "data.val_limit=1",
        "callbacks.panels.images=0",
        "hydra.run.dir=run",
    )
    assert command("train", *tiny).status == 0
    assert not (tmp_path / "run" / "panels").exists()


def test_groups_that_are_null_are_spelt_as_hydra_does() -> None:
    spelt = without_null_groups(
        ["scheduler=null", "seed=null", "experiment=smoke", "experiment=null", "-m"], CONF
    )
    assert spelt == ["~scheduler", "seed=null", "-m"]


def test_no_callbacks_are_none_in_an_evaluation_too(composed: Compose) -> None:
    spelt = without_null_groups(["callbacks=null", "seed=1", "experiment=null"], CONF.with_name("eval.yaml"))
    assert spelt[-1] == "seed=1"
    cfg = composed("eval", *spelt, "model=bicubic")
    switch_off(cfg)
    assert cfg.callbacks == {}


# Memory


SHORTAGES = {
    "gpu": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    "cpu": RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
}


@pytest.mark.parametrize("kind", SHORTAGES)
def test_a_training_without_memory_says_what_helps(
    command: Command, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise SHORTAGES[kind]

    monkeypatch.setattr("linf.training.stage1.Training.training_step", full)
    done = command("train", *QUICK)
    words = ("memory is too small", "data.batch_size", "encoder.checkpoint=true", "bf16-mixed")
    assert_in_words(done.status, done.out, done.err, *words)


@pytest.mark.parametrize("kind", SHORTAGES)
def test_only_a_shortage_is_told_as_one(kind: str) -> None:
    assert "memory is too small" in (_reason(SHORTAGES[kind]) or "")
    assert _reason(RuntimeError("CUDA error: an illegal memory access was encountered")) is None


def test_only_the_disk_is_told_as_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(text: str) -> Any:
        def save(*_: object, **__: object) -> None:
            raise RuntimeError(text)

        return save

    monkeypatch.setattr("torch.save", failing("CUDA error: an illegal memory access was encountered"))
    with pytest.raises(RuntimeError, match="illegal memory access"):
        CheckpointFiles().save_checkpoint({}, tmp_path / "last.ckpt")
    monkeypatch.setattr(
        "torch.save", failing("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0")
    )
    with pytest.raises(UsageError, match="cannot write"):
        CheckpointFiles().save_checkpoint({}, tmp_path / "last.ckpt")
