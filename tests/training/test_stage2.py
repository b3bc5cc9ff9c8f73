"""Stage 2: its steps against ones written by hand, over batches, ranks and interruptions; and its initial weights."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.callbacks import Callback
from torch import Tensor

import linf
from helpers.commands import Command, Compose
from helpers.networks import write_network
from helpers.paths import REFERENCE, ROOT
from helpers.runs import (
    SMOKE,
    TINY,
    Interrupt,
    PowerCut,
    ScaledLoss,
    assert_same_end,
    column,
    fit,
    logged,
    same,
    state,
)
from linf.checkpoints.start import start_from
from linf.data.cache import ImageCache
from linf.data.crops import RandomScaleCrops, SRBatch
from linf.data.sources import bundled
from linf.errors import UsageError
from linf.losses.flow import white_latents
from linf.models.correlation import LatentCorrelation
from linf.models.linf import LINF
from linf.training.callbacks.termination import LEAST_SCALE

TASKS = ("finetune", "finetune_joint")
IN_CI = ["finetune", pytest.param("finetune_joint", marks=pytest.mark.thorough)]  # Of two steps, the harder.
PARTS = ("loss", "nll", "l1", "perceptual")


@pytest.fixture(scope="module")
def vgg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_network(tmp_path_factory.mktemp("vgg") / "vgg16.pth")


def overrides(task: str, vgg: Path | None, run: Path, *more: str) -> list[str]:
    """A tiny stage 2 whose parts weigh about the same: three batches in each of two epochs."""
    features = [f"task.loss.features.weights={vgg}", "task.loss.perceptual=3"] if vgg else []
    small = (
        "data.crop=18",
        "data.queries=null",
        "data.val_limit=1",
        "task.whitening_batches=8",  # Of an untrained flow, as in stage 1.
        "task.loss.nll=1e-2",
        "task.optimizer.lr=1e-3",
        "callbacks.panels.every_n_validations=100",
    )
    return [*SMOKE, f"task={task}", *small, *features, f"run_dir={run}", *more]


Settings = Callable[..., DictConfig]


@pytest.fixture
def settings(composed: Compose, vgg: Path, tmp_path: Path) -> Settings:
    """``settings("finetune", "data.batch_size=4")`` is a run in ``tmp_path``."""

    def config(task: str, *more: str, run: str = "run") -> DictConfig:
        return composed("train", *overrides(task, vgg, tmp_path / run, *more))

    return config


class Start(Callback):
    """Takes the weights as they are when training starts."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.weights = {name: value.clone() for name, value in pl_module.model.state_dict().items()}


def assert_close(one: dict[str, Tensor], other: dict[str, Tensor], atol: float) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(
            value, other[name], rtol=0, atol=atol, msg=lambda text, name=name: f"{name}: {text}"
        )


# Its steps


@pytest.mark.parametrize("task", IN_CI)
def test_it_takes_one_optimizer_step_per_group(settings: Settings, tmp_path: Path, task: str) -> None:
    config = settings(task, "~callbacks.ema", "trainer.max_epochs=1")
    start = Start()
    trained = fit(config, start).lightning_module.model

    model, loss = instantiate(config.model), instantiate(config.task.loss)
    model.load_state_dict(start.weights)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    groups = {"finetune": [["nll"], ["l1", "perceptual"]], "finetune_joint": [["nll", "l1", "perceptual"]]}[
        task
    ]
    expected: dict[str, list[float]] = {name: [] for name in PARTS}
    data = instantiate(config.data)
    data.setup("fit")
    for i, batch in enumerate(data.train_dataloader()):
        sums = dict.fromkeys(PARTS, 0.0)
        for group in groups:
            parts = loss(model, batch, white_latents(batch.hr, config.seed, i * len(batch.lr)), group)
            optimizer.zero_grad()
            parts["loss"].backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            sums = {name: sums[name] + float(parts[name].detach() if name in parts else 0) for name in PARTS}
        for name, value in sums.items():
            expected[name].append(value)
    assert len(expected["loss"]) == 3
    for name in PARTS:
        assert column(tmp_path / "run", f"train/{name}") == pytest.approx(expected[name], abs=1e-6)
    assert_close(dict(trained.state_dict()), dict(model.state_dict()), 1e-6)


def test_the_second_step_sees_the_weights_that_the_first_left(settings: Settings, tmp_path: Path) -> None:
    for task in TASKS:
        fit(settings(task, "trainer.max_steps=1", run=task))
    two, joint = ({name: column(tmp_path / task, f"train/{name}") for name in PARTS} for task in TASKS)
    assert two["nll"] == pytest.approx(joint["nll"], abs=1e-6)
    for name in ("l1", "perceptual"):
        assert two[name] != pytest.approx(joint[name], abs=1e-6)
        assert two[name] == pytest.approx(joint[name], rel=0.2)


def test_the_trainer_counts_batches_not_steps(settings: Settings, tmp_path: Path) -> None:
    trainer = fit(
        settings("finetune", "scheduler.milestones=[1]", "trainer.max_steps=5", "trainer.max_epochs=-1")
    )
    assert trainer.global_step == 5
    content = state(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert content["global_step"] == 5
    assert content["averaging_state"]["n_averaged"] == 5
    assert column(tmp_path / "run", "lr-Adam") == [1e-3, 5e-4]


def test_parts_without_a_weight_take_no_step(settings: Settings, tmp_path: Path) -> None:
    config = settings(
        "finetune", "task.loss.nll=0", "task.loss.perceptual=0", "task.loss.features.weights=nowhere"
    )
    task = fit(config).lightning_module
    assert task.steps == [["l1"]]
    rows = logged(tmp_path / "run")
    assert not {"train/nll", "train/perceptual"} & {key for row in rows for key in row}
    assert column(tmp_path / "run", "train/loss") == column(tmp_path / "run", "train/l1")


@pytest.mark.parametrize(
    "steps", ["[[nll]]", "[[nll],[l1,perceptual,nll]]", "[[nll],[l1,perceptual,vgg]]", "[]"]
)
def test_steps_that_are_not_the_losses_parts_fail_with_a_message(settings: Settings, steps: str) -> None:
    with pytest.raises(
        UsageError,
        match=r"name each of nll, l1, distillation, perceptual once, for example \[\[nll\],\[l1,perceptual\]\]",
    ):
        build(settings("finetune", f"task.steps={steps}").task)


def build(config: DictConfig) -> Any:
    """Instantiate, with the cause of Hydra's complaint."""
    try:
        return instantiate(config)
    except Exception as error:
        raise (error.__cause__ or error) from None


# Batches, ranks, precision


EXACT = ("trainer.precision=64-true",)
# The whitening sees 16 samples in each.
HALVES = ("data.batch_size=2", "data.batches_per_epoch=4", "trainer.accumulate_grad_batches=2")
WHOLE = ("data.batch_size=4", "data.batches_per_epoch=2", "task.whitening_batches=4")


@pytest.mark.slow
@pytest.mark.parametrize("task", IN_CI)
def test_two_half_batches_are_a_whole_one(settings: Settings, tmp_path: Path, task: str) -> None:
    whole, halves = (
        fit(settings(task, *more, *EXACT, run=run)).lightning_module.state_dict()
        for run, more in (("whole", WHOLE), ("halves", HALVES))
    )
    for name in PARTS:
        of_whole, of_halves = (column(tmp_path / run, f"train/{name}") for run in ("whole", "halves"))
        assert len(of_whole) == 4
        assert of_halves == pytest.approx(of_whole, abs=1e-9)
    assert_close(whole, halves, 1e-9)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("task", "more"),
    [
        ("finetune_joint", ("data.batch_size=2", "data.batches_per_epoch=2")),
        ("finetune", ("data.batch_size=1", *HALVES[1:])),
    ],
)
def test_two_ranks_of_half_the_batch_are_one_of_the_whole(
    command: Command, checkpoint: Path, vgg: Path, tmp_path: Path, task: str, more: tuple[str, ...]
) -> None:
    start = (*sized(linf.load(checkpoint)), f"init_from={checkpoint}", *EXACT)
    one = command("train", *overrides(task, vgg, tmp_path / "whole", *start, *WHOLE))
    assert one.status == 0, one.err
    folder = tmp_path / "ranks"
    two = two_ranks(*overrides(task, vgg, folder, *start, *more, f"hydra.run.dir={folder}"))
    assert two.returncode == 0, two.stderr
    for name in PARTS:
        whole, ranks = (column(tmp_path / run, f"train/{name}") for run in ("whole", "ranks"))
        assert len(whole) == 4
        assert ranks == pytest.approx(whole, abs=1e-9)
    whole, ranks = (
        state(tmp_path / run / "checkpoints" / "last.ckpt")["current_model_state"]
        for run in ("whole", "ranks")
    )
    assert_close(whole, ranks, 1e-9)


def two_ranks(*arguments: str) -> subprocess.CompletedProcess[str]:
    """``train.py`` on two ranks of this machine."""
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    devices = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")
    return subprocess.run(
        [*torchrun, str(ROOT / "train.py"), *arguments, *devices],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "tests")},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
@pytest.mark.parametrize("task", IN_CI)
def test_bfloat16_changes_little(settings: Settings, tmp_path: Path, task: str) -> None:
    for precision in ("32-true", "bf16-mixed"):
        fit(settings(task, f"trainer.precision={precision}", run=precision))
    for name in PARTS:
        exact, rough = (column(tmp_path / run, f"train/{name}") for run in ("32-true", "bf16-mixed"))
        assert len(exact) == 6
        assert rough != exact
        assert rough == pytest.approx(exact, rel=0.05, abs=0.02)


@pytest.mark.slow
def test_a_scaled_loss_takes_the_same_steps(settings: Settings) -> None:
    def run(precision: Any, run: str) -> pl.Trainer:
        config = settings("finetune", *HALVES, "trainer.max_epochs=1", run=run)
        pl.seed_everything(config.seed)
        data, task, trainer = instantiate(config.data), instantiate(config.task), instantiate(config.trainer)
        if precision is not None:
            trainer.strategy.precision_plugin = precision
        trainer.fit(task, data)
        return trainer

    scaled = run(ScaledLoss(), "scaled")
    assert scaled.precision_plugin.scaler.get_scale() == 1024.0
    assert scaled.precision_plugin.scaler._growth_tracker == 4
    plain = run(None, "plain")
    assert_close(plain.lightning_module.state_dict(), scaled.lightning_module.state_dict(), 1e-6)


class Replayed:
    """A loss whose results are overwritten when it is called again, as those of a CUDA graph are."""

    def __init__(self, loss: Any) -> None:
        self.loss, self.given = loss, dict[str, Tensor]()

    def __call__(self, *args: Any) -> dict[str, Tensor]:
        for value in self.given.values():
            value.data.fill_(torch.nan)
        self.given = {name: value.clone() for name, value in self.loss(*args).items()}
        return self.given


class Kept(Callback):
    """The parts of each step, as a step later finds them."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        self.steps.append(pl_module.parts)


@pytest.mark.parametrize("task", ["nll", pytest.param("finetune", marks=pytest.mark.slow)])
def test_replayed_cuda_graphs_overwrite_no_loss(
    composed: Compose, vgg: Path, tmp_path: Path, task: str
) -> None:
    kept, weights = Kept(), None if task == "nll" else vgg
    more = ("trainer.accumulate_grad_batches=2", "data.batches_per_epoch=4", "~callbacks.throughput")
    for run in ("plain", "replayed"):
        config = composed("train", *overrides(task, weights, tmp_path / run, *more, "trainer.max_epochs=1"))
        if run == "plain":
            fit(config)
        else:
            fit(config, kept, change=lambda task: setattr(task, "compute", Replayed(task.loss)))
    assert all(part.isfinite() for parts in kept.steps for part in parts.values())
    for name in ("loss", "nll") if task == "nll" else PARTS:
        plain, replayed = (column(tmp_path / run, f"train/{name}") for run in ("plain", "replayed"))
        assert replayed == plain


# Interruptions and records


@pytest.mark.slow
@pytest.mark.parametrize("task", IN_CI)
def test_an_interrupted_stage_2_resumes_bit_for_bit(settings: Settings, tmp_path: Path, task: str) -> None:
    saving = ("+trainer.val_check_interval=2", "trainer.max_epochs=3")
    fit(settings(task, *saving, run="whole"))
    with pytest.raises(PowerCut):
        fit(settings(task, *saving, run="broken"), Interrupt(6))
    last = tmp_path / "broken" / "checkpoints" / "last.ckpt"
    assert state(last)["global_step"] == 5
    fit(settings(task, *saving, f"ckpt_path={last}", run="broken"))
    assert_same_end(tmp_path / "whole", tmp_path / "broken")
    for name in PARTS:
        whole, broken = (column(tmp_path / run, f"train/{name}") for run in ("whole", "broken"))
        assert broken[-4:] == whole[-4:]


def test_the_perceptual_network_is_in_the_record_and_not_in_the_checkpoint(
    settings: Settings, vgg: Path, tmp_path: Path
) -> None:
    task = fit(settings("finetune", "trainer.max_epochs=1")).lightning_module
    record = (tmp_path / "run" / "csv" / "version_0" / "hparams.yaml").read_text()
    assert f"perceptual:\n  backbone: vgg16\n  weights: {vgg}" in record
    names = set(instantiate(settings("finetune").model).state_dict())
    assert set(task.model.state_dict()) == names
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    for part in ("state_dict", "current_model_state"):
        assert {name for name in state(last)[part]} == {f"model.{name}" for name in names}
    assert last.stat().st_size < 1e6
    assert len(list(task.parameters())) == len(list(task.model.parameters()))
    assert linf.load(last).config == task.model.config


@pytest.mark.slow
def test_a_perceptual_loss_without_weights_or_windows_fails_with_a_message(
    command: Command, composed: Compose, vgg: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("LINF_CACHE", str(tmp_path / "cache"))
    for given, words in (
        (["task.loss.perceptual=1"], "linf weights fetch vgg16"),
        (
            [f"task.loss.features.weights={vgg}", "task.loss.perceptual=1", "data.window=false"],
            "data.window=true",
        ),
        (
            [f"task.loss.features.weights={vgg}", "task.loss.perceptual=1", "data.queries=25"],
            "at least 16 pixels",
        ),
        (
            [
                f"task.loss.features.weights={vgg}",
                "task.loss.perceptual=1",
                "task.loss.consistency=3",
                "data/degradation=mild",
            ],
            "task.loss.consistency=3 takes LR for a bicubic reduction",
        ),
        (["model=liif", "model.conditioner.width=8"], "LIIF"),
    ):
        done = command("train", *overrides("finetune", None, tmp_path / "run", *given))
        assert done.status == 2, done.err
        assert words in done.err.splitlines()[-1]


# Losses that are not finite


class Poison(Callback):
    """Makes a rank's batch of one step a thing that has no loss."""

    def __init__(self, step: int, rank: int = 0) -> None:
        self.step, self.rank = step, rank

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: SRBatch, _: int
    ) -> None:
        if (trainer.global_step, trainer.global_rank) == (self.step, self.rank):
            batch.hr[0, 0, 0, 0] = torch.nan


@pytest.mark.parametrize("task", ["nll", *IN_CI])
def test_a_loss_that_is_not_finite_stops_before_it_spoils_anything(
    composed: Compose, settings: Settings, tmp_path: Path, task: str
) -> None:
    run = tmp_path / "run"
    if task == "nll":
        config = composed("train", "experiment=smoke", "callbacks.progress.refresh_rate=0", f"run_dir={run}")
    else:
        config = settings(task)
    kept: dict[str, Any] = {}

    class Keep(Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
            kept.update(weights={name: value.clone() for name, value in pl_module.model.state_dict().items()})
            kept.update(model=pl_module.model, steps=trainer.global_step)

    with pytest.raises(UsageError, match=r"before step 5: its loss is not finite .*nll nan") as error:
        fit(config, Poison(4), Keep())
    path = run / "nonfinite_batch.pt"
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert kept["steps"] == 4
    assert same(kept["weights"], dict(kept["model"].state_dict()))
    saved = state(path)
    assert (saved["what"], saved["step"]) == ("loss", 4)
    assert np.isnan(saved["parts"]["nll"])
    (batch,) = saved["batches"]
    assert torch.isnan(batch["hr"]).sum() == 1
    assert batch.keys() == set(SRBatch._fields)
    last = run / "checkpoints" / "last.ckpt"
    assert state(last)["global_step"] == 3
    assert all(torch.isfinite(value).all() for value in linf.load(last).state_dict().values())


@pytest.mark.parametrize("task", IN_CI)
def test_a_fused_optimizer_skips_a_loss_that_is_not_finite(
    settings: Settings, tmp_path: Path, task: str
) -> None:
    seen: list[dict[str, torch.Tensor]] = []

    class Keep(Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
            state = pl_module.model.state_dict()  # type: ignore[operator, union-attr]
            seen.append({name: value.clone() for name, value in state.items()})

    config = settings(task, "+task.optimizer.fused=true", "callbacks.last.minutes=1e-9")
    with pytest.raises(UsageError, match=r"before step 5: its loss is not finite .*nll nan"):
        fit(config, Poison(4), Keep())
    assert all(torch.isfinite(value).all() for value in seen[-1].values())
    if task == "finetune_joint":  # Of two steps, the second one's loss may be finite.
        assert same(seen[4], seen[-1])
    saved = state(tmp_path / "run" / "nonfinite_batch.pt")
    assert (saved["what"], saved["step"]) == ("loss", 4)
    assert torch.isnan(saved["batches"][0]["hr"]).sum() == 1
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert state(last)["global_step"] == 4
    assert all(torch.isfinite(value).all() for value in linf.load(last).state_dict().values())


def test_a_gradient_that_is_not_finite_stops_too(settings: Settings, tmp_path: Path) -> None:
    model: list[LINF] = []

    def spoil(task: Any) -> None:
        model.append(task.model)
        count = iter(range(99))
        task.model.flow.bias.register_hook(lambda grad: grad * torch.inf if next(count) == 3 else grad)

    with pytest.raises(UsageError, match="before step 2: its gradient is not finite"):
        # The fourth backward pass is that of the second batch's second step.
        fit(settings("finetune"), change=spoil)
    assert all(torch.isfinite(value).all() for value in model[0].state_dict().values())
    assert state(tmp_path / "run" / "nonfinite_batch.pt")["what"] == "gradient"


@pytest.mark.parametrize("spoilt", [3, 99])
def test_a_scaled_loss_that_no_scale_helps_stops_too(composed: Compose, tmp_path: Path, spoilt: int) -> None:
    config = composed(
        "train", *TINY, "~callbacks.throughput", "data.batches_per_epoch=6", f"run_dir={tmp_path}"
    )
    data, task, trainer = (
        instantiate(of, _convert_="all") for of in (config.data, config.task, config.trainer)
    )
    trainer.strategy.precision_plugin = ScaledLoss(4 * LEAST_SCALE)
    count = iter(range(99))
    task.model.flow.bias.register_hook(lambda grad: grad * torch.inf if next(count) < spoilt else grad)
    if spoilt == 3:
        trainer.fit(task, data)
        assert trainer.precision_plugin.scaler.get_scale() < LEAST_SCALE
        return
    with pytest.raises(UsageError, match="before step 4: its gradient is not finite"):
        trainer.fit(task, data)
    assert state(tmp_path / "nonfinite_batch.pt")["step"] == 3


def test_all_batches_of_an_accumulation_are_kept(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="before step 2: its loss is not finite"):
        fit(settings("finetune", *HALVES), Poison(1))
    batches = state(tmp_path / "run" / "nonfinite_batch.pt")["batches"]
    assert len(batches) == 2
    assert torch.isnan(batches[0]["hr"]).any()

    class Second(Poison):
        def on_train_batch_start(self, trainer: pl.Trainer, *more: Any) -> None:
            if more[-1] % 2:
                super().on_train_batch_start(trainer, *more)

    with pytest.raises(UsageError, match="before step 2: its loss is not finite"):
        fit(settings("finetune", *HALVES, run="second"), Second(1))
    batches = state(tmp_path / "second" / "nonfinite_batch.pt")["batches"]
    assert [bool(torch.isnan(batch["hr"]).any()) for batch in batches] == [False, True]


def test_a_command_ends_in_one_line(command: Command, tmp_path: Path) -> None:
    done = command("train", *overrides("finetune", None, tmp_path, "task.optimizer.lr=1e30"))
    assert done.status == 2
    assert done.err.splitlines()[-1].startswith(
        "error: training stopped before step 1: its loss is not finite ("
    )
    assert "Traceback" not in done.err
    assert (tmp_path / "nonfinite_batch.pt").is_file()


@pytest.mark.slow
def test_all_ranks_stop_together(tmp_path: Path) -> None:
    poison = (
        "+callbacks.poison._target_=training.test_stage2.Poison",
        "+callbacks.poison.step=4",
        "+callbacks.poison.rank=1",
    )
    done = two_ranks(*overrides("finetune", None, tmp_path, *poison, f"hydra.run.dir={tmp_path}"))
    assert done.returncode != 0
    assert "error: training stopped before step 5: its loss is not finite" in done.stderr
    saved = [state(tmp_path / f"nonfinite_batch{rank}.pt") for rank in ("", "_rank1")]
    assert [bool(np.isnan(each["parts"]["nll"])) for each in saved] == [False, True]
    assert state(tmp_path / "checkpoints" / "last.ckpt")["global_step"] == 3


# Where it starts


def sized(model: LINF) -> list[str]:
    """The settings of a small LINF."""
    encoder, conditioner, flow = (model.config[part] for part in ("encoder", "conditioner", "flow"))
    return [
        *(f"encoder.{key}={encoder[key]}" for key in ("blocks", "channels")),
        *(f"model.conditioner.{key}={conditioner[key]}" for key in ("width", "depth")),
        *(f"model.flow.{key}={flow[key]}" for key in ("patch_size", "steps")),
    ]


STILL = ("trainer.max_steps=1", "task.optimizer.lr=0")


@pytest.mark.parametrize("format", ["safetensors", "ckpt", "pth"])
def test_it_starts_from_any_model_of_stage_1(
    command: Command, composed: Compose, checkpoint: Path, tmp_path: Path, format: str
) -> None:
    source = checkpoint
    if format == "pth":
        source = REFERENCE / "edsr_patch3.pth"
    elif format == "ckpt":
        fit(composed("train", "experiment=smoke", "trainer.max_steps=3", f"run_dir={tmp_path / 'stage_1'}"))
        source = tmp_path / "stage_1" / "checkpoints" / "last.ckpt"
    stage_1 = linf.load(source)
    run = tmp_path / "stage_2"
    done = command("train", *overrides("finetune", None, run, *sized(stage_1), *STILL, f"init_from={source}"))
    assert done.status == 0, done.err
    assert "untrained" not in done.err
    stage_2 = linf.load(run / "model.safetensors")
    assert same(dict(stage_1.state_dict()), dict(stage_2.state_dict()))


def test_another_model_fails_with_a_message(command: Command, checkpoint: Path, tmp_path: Path) -> None:
    config = linf.load(checkpoint)
    done = command(
        "train",
        *overrides(
            "finetune", None, tmp_path, *sized(config), "model.flow.steps=7", f"init_from={checkpoint}"
        ),
    )
    assert done.status == 2
    assert "flow.steps is 2 there and 7 here" in done.err.splitlines()[-1]
    done = command("train", *overrides("finetune", None, tmp_path, "init_from=nowhere.pth"))
    assert done.status == 2
    assert "nowhere.pth" in done.err.splitlines()[-1]


def test_an_untrained_model_gives_a_warning(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING"):
        fit(settings("finetune", "task.whitening_batches=0", "task.loss.perceptual=0", "trainer.max_steps=1"))
    assert "untrained model: init_from=FILE" in caplog.text


def test_starting_leaves_the_source_as_it_is(checkpoint: Path) -> None:
    one, other = linf.load(checkpoint), linf.load(checkpoint)
    torch.nn.init.zeros_(one.flow.bias)
    start_from(checkpoint, one)
    assert same(dict(one.state_dict()), dict(other.state_dict()))


@pytest.mark.slow
def test_it_trains_and_resumes_on_consistent_samples_with_the_correlated_latents_of_init_from(
    command: Command, checkpoint: Path, vgg: Path, tmp_path: Path
) -> None:
    model = linf.load(checkpoint)
    model.correlation = LatentCorrelation(27, [2, 3], reach=1)
    model.correlation.taps += 0.1 * torch.randn(model.correlation.taps.shape)
    linf.save(model, tmp_path / "known.safetensors")
    started = overrides(
        "finetune_joint",
        vgg,
        tmp_path / "run",
        *sized(model),
        "task.loss.latents=correlated",
        "task.loss.consistency=3",
    )
    done = command("train", *started, f"init_from={checkpoint}")
    assert done.status == 2
    assert "linf latents" in done.err
    for steps in (1, 2):  # The second one resumes.
        known = f"init_from={tmp_path / 'known.safetensors'}"
        done = command("train", *started, known, f"trainer.max_steps={steps}")
        assert done.status == 0, done.err
        made = linf.load(tmp_path / "run" / "model.safetensors")
        assert made.correlation is not None
        assert torch.equal(made.correlation.taps, model.correlation.taps)
    assert state(tmp_path / "run" / "checkpoints" / "last.ckpt")["global_step"] == 2


# What it is by default


def test_the_default_is_the_papers_stage_2(composed: Compose, tmp_path: Path) -> None:
    for task, steps in (
        ("finetune", [["nll"], ["l1", "distillation", "perceptual"]]),
        ("finetune_joint", [["nll", "l1", "distillation", "perceptual"]]),
    ):
        config = composed("train", f"task={task}", f"run_dir={tmp_path}")
        assert config.task._target_ == "linf.training.Finetuning"
        assert config.task.steps == steps
        assert (config.task.optimizer._target_, config.task.optimizer.lr) == ("torch.optim.Adam", 5e-5)
        assert (list(config.task.scheduler.milestones), config.task.scheduler.gamma) == (
            [200, 400, 600, 800],
            0.5,
        )
        assert (config.task.scheduler_interval, config.trainer.max_epochs) == ("epoch", 1000)
        loss = config.task.loss
        assert (loss.nll, loss.l1, loss.perceptual, loss.temperature) == (5e-4, 1.0, 0.0, 0.8)
        assert (loss.distillation, loss.through_mean, config.task.frozen) == (0, 1, [])
        assert (config.data.window, config.data.queries, config.data.crop) == (True, None, 48)
        assert config.task.whitening_batches == 0
        assert config.init_from is None


@pytest.mark.parametrize(("patch_size", "patches"), [(1, 48), (3, 16), (5, 9)])
def test_the_window_is_whole_patches_of_48_pixels(patch_size: int, patches: int) -> None:
    cache = ImageCache(bundled("heldout").hr[:1])
    sample = RandomScaleCrops(cache, patch_size=patch_size, queries=None, window=True)[0]
    assert sample.hr.shape == (3 * patch_size**2, patches, patches)
    steps = sample.coord.diff(dim=0)[..., 0]
    torch.testing.assert_close(steps, torch.full_like(steps, patch_size * float(sample.cell[0])))
