"""What the command says holds in a resumed run too: rate, decay, schedule, averaging; or one line says why not."""

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import CosineAnnealingLR, MultiStepLR, OneCycleLR

from helpers.commands import Command, Compose, assert_in_words, start, wait_for
from helpers.runs import QUIET, SMOKE, assert_same_end, column, fit, logged, same, state
from linf.checkpoints.start import newest
from linf.errors import UsageError
from linf.training.resume import apply_settings, reopen_epoch

QUICK = (*SMOKE, "data.val_limit=1", "callbacks.panels=null", "callbacks.throughput=null")


def trained(
    make: Callable[..., torch.optim.Optimizer], schedule: Callable[..., object] | None, steps: int
) -> tuple[dict[str, object], list[nn.Parameter]]:
    """A checkpoint after some steps, as Lightning writes it, and what was trained."""
    parameters = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2, 2))]
    optimizer = make(parameters)
    scheduler = schedule(optimizer) if schedule else None
    for _ in range(steps):
        for p in parameters:
            p.grad = torch.ones_like(p)
        optimizer.step()
        if scheduler:
            scheduler.step()  # type: ignore[attr-defined]
    return {
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [scheduler.state_dict()] if scheduler else [],  # type: ignore[attr-defined]
        "global_step": steps,
        "epoch": steps,
    }, parameters


HALVING = partial(MultiStepLR, milestones=[2, 4], gamma=0.5)
ONE_CYCLE = partial(OneCycleLR, max_lr=1e-3, total_steps=9)
COSINE = partial(CosineAnnealingLR, T_max=7)


@pytest.mark.parametrize("schedule", [None, HALVING, ONE_CYCLE, COSINE])
@pytest.mark.parametrize("optimizer", [partial(Adam, lr=1e-3), partial(SGD, lr=1e-2, momentum=0.9)])
def test_settings_that_stay_change_no_bit(optimizer: partial, schedule: partial | None) -> None:
    checkpoint, parameters = trained(optimizer, schedule, 5)
    expected, _ = trained(optimizer, schedule, 5)
    apply_settings(checkpoint, parameters, optimizer, schedule, "step")
    assert same(checkpoint, expected)


@pytest.mark.parametrize(
    "schedule", [None, HALVING, COSINE, partial(OneCycleLR, max_lr=1e-6, total_steps=20)]
)
def test_other_settings_are_those_of_a_run_that_had_them_from_the_start(schedule: partial | None) -> None:
    """Also where the schedule is another one than before."""
    now = partial(Adam, lr=1e-6, betas=(0.5, 0.9), weight_decay=0.1, eps=1e-4)
    for before in (None, HALVING, ONE_CYCLE):
        checkpoint, parameters = trained(partial(Adam, lr=1e-3), before, 5)
        moments = checkpoint["optimizer_states"][0]["state"]  # type: ignore[index]
        expected, _ = trained(now, schedule, 5)
        apply_settings(checkpoint, parameters, now, schedule, "step")
        groups = [c["optimizer_states"][0]["param_groups"] for c in (checkpoint, expected)]  # type: ignore[index]
        assert same(*groups)
        assert same(checkpoint["lr_schedulers"], expected["lr_schedulers"])
        assert checkpoint["optimizer_states"][0]["state"] is moments  # type: ignore[index]


def test_what_cannot_be_resumed_says_how_to_start_anew() -> None:
    checkpoint, parameters = trained(partial(Adam, lr=1e-3), ONE_CYCLE, 5)
    with pytest.raises(UsageError, match=r"another optimizer \(exp_avg.*init_from=…"):
        apply_settings(checkpoint, parameters, partial(SGD, lr=1.0), None, "step")
    with pytest.raises(UsageError, match=r"trained 2 tensors, and this run trains 1.*init_from=…"):
        apply_settings(checkpoint, parameters[:1], partial(Adam, lr=1e-3), None, "step")
    shorter = partial(OneCycleLR, max_lr=1e-3, total_steps=4)
    with pytest.raises(UsageError, match="ends after 4 steps"):
        apply_settings(checkpoint, parameters, partial(Adam, lr=1e-3), shorter, "step")
    with pytest.raises(UsageError, match="no state of an optimizer"):
        apply_settings({}, parameters, partial(Adam, lr=1e-3), None, "step")


# The same by the command


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was killed after its first epochs, with the rate 1e-3."""
    folder = tmp_path_factory.mktemp("killed")
    arguments = [*QUICK, "task.optimizer.lr=1e-3", "trainer.max_epochs=200", f"hydra.run.dir={folder}"]
    process = start(*arguments, cwd=folder)
    wait_for(folder / "checkpoints" / "previous.ckpt", process)
    process.kill()
    process.communicate()
    return folder


@pytest.fixture
def resumed(killed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(killed, tmp_path / "run"))


def epochs(run: Path) -> int:
    """How many a run has behind it where it goes on."""
    found = newest(run / "checkpoints")
    assert found is not None
    return state(found)["global_step"] // 3


@pytest.mark.slow
def test_a_killed_run_goes_on_at_the_rate_of_the_command(command: Command, resumed: Path) -> None:
    done = epochs(resumed)
    assert set(column(resumed, "lr-Adam")) == {1e-3}
    more = [*QUICK, "task.optimizer.lr=1e-6", f"trainer.max_epochs={done + 2}", f"hydra.run.dir={resumed}"]
    again = command("train", *more)
    assert again.status == 0, again.err
    assert column(resumed, "lr-Adam")[-2:] == [1e-6, 1e-6]
    assert "lr 0.001 → 1e-06" in again.out + again.err


@pytest.mark.slow
def test_the_schedule_of_the_command_holds_from_its_start(command: Command, resumed: Path) -> None:
    done = epochs(resumed)
    halving = [f"scheduler.milestones=[1,{done + 1}]", "scheduler.gamma=0.1", "task.optimizer.lr=1e-4"]
    decay = ["+task.optimizer.weight_decay=0.25", "+task.optimizer.betas=[0.5,0.9]"]
    again = command(
        "train", *QUICK, *halving, *decay, f"trainer.max_epochs={done + 2}", f"hydra.run.dir={resumed}"
    )
    assert again.status == 0, again.err
    assert column(resumed, "lr-Adam")[-2:] == pytest.approx([1e-5, 1e-6])
    (group,) = state(resumed / "checkpoints" / "last.ckpt")["optimizer_states"][0]["param_groups"]
    assert (group["weight_decay"], list(group["betas"])) == (0.25, [0.5, 0.9])
    for words in ("weight_decay 0 → 0.25", f"milestones [200, 400, 600, 800] → [1, {done + 1}]"):
        assert words in again.out + again.err


@pytest.mark.thorough
def test_a_longer_one_cycle_is_stretched_and_says_so(command: Command, tmp_path: Path) -> None:
    cycle = (*QUICK, "scheduler=one_cycle", "task.scheduler_interval=step", "trainer.max_epochs=-1")
    assert command("train", *cycle, "trainer.max_steps=3", "hydra.run.dir=run").status == 0
    again = command("train", *cycle, "trainer.max_steps=9", "hydra.run.dir=run")
    assert again.status == 0, again.err
    assert "the schedule is stretched from 3 to 9 steps" in again.out + again.err
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = Adam([parameter], lr=1e-4)
    schedule = OneCycleLR(optimizer, max_lr=1e-4, total_steps=9, pct_start=0.05)
    expected = []
    for _ in range(8):
        optimizer.step()
        schedule.step()
        expected.append(schedule.get_last_lr()[0])
    assert column(tmp_path / "run", "lr-Adam")[-6:] == pytest.approx(expected[2:])


def test_a_schedule_that_is_too_short_is_told_before_the_first_step(command: Command, tmp_path: Path) -> None:
    cycle = (*QUICK, "scheduler=one_cycle", "task.scheduler_interval=step")
    short = command("train", *cycle, "scheduler.total_steps=3", "hydra.run.dir=run")
    assert_in_words(
        short.status, short.out, short.err, "has 3 steps and the run 6", "scheduler.total_steps=6"
    )
    assert not logged(tmp_path / "run")
    endless = command("train", *cycle)
    assert_in_words(endless.status, endless.out, endless.err, "trainer.max_steps=…")


@pytest.mark.slow
def test_a_run_goes_on_without_its_schedule_or_its_average(command: Command, resumed: Path) -> None:
    done = epochs(resumed)
    off = ["scheduler=null", "callbacks.ema=null", "task.optimizer.lr=0"]
    before = state(newest(resumed / "checkpoints") or resumed)["current_model_state"]
    again = command("train", *QUICK, *off, f"trainer.max_epochs={done + 1}", f"hydra.run.dir={resumed}")
    assert again.status == 0, again.err
    after = state(resumed / "checkpoints" / "last.ckpt")
    assert not after["lr_schedulers"]
    assert same(before, after["state_dict"]), "what was trained, not its average"


@pytest.mark.slow
def test_another_decay_of_the_average_holds(command: Command, resumed: Path) -> None:
    done = epochs(resumed)
    again = command(
        *("train", *QUICK, "callbacks.ema.decay=0", "init_from=default"),
        *(f"trainer.max_epochs={done + 1}", f"hydra.run.dir={resumed}"),
    )
    assert again.status == 0, again.err
    assert "callbacks.ema.decay 0.999 → 0" in again.out
    assert "goes on with other settings than before: init_from None → default (only a new run" in again.out
    last = state(resumed / "checkpoints" / "last.ckpt")
    assert same(last["state_dict"], last["current_model_state"])


@pytest.mark.thorough
def test_a_schedule_that_comes_late_is_where_it_would_be(command: Command, tmp_path: Path) -> None:
    """Also by epochs where it went by steps before."""
    by_step = ("scheduler=halving", "scheduler.milestones=[4]", "task.scheduler_interval=step")
    for number, before in enumerate((("scheduler=null",), by_step)):
        run = tmp_path / str(number)
        assert command("train", *QUICK, *before, f"hydra.run.dir={run}").status == 0
        halving = ("scheduler.milestones=[1,3]", "trainer.max_epochs=4", f"hydra.run.dir={run}")
        again = command("train", *QUICK, *halving)
        assert again.status == 0, again.err
        assert column(run, "lr-Adam")[-2:] == pytest.approx([5e-5, 2.5e-5])


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("task.optimizer._target_=torch.optim.SGD", ("another optimizer", "init_from")),
        ("task.optimizer.lr=-1", ("task.optimizer", "-1")),
        ("init_from=model.safetensors", ("ckpt_path", "init_from", "only one")),
    ],
)
def test_what_a_resume_cannot_take_is_one_line(
    command: Command, resumed: Path, setting: str, words: tuple[str, ...]
) -> None:
    ckpt = f"ckpt_path={resumed / 'checkpoints' / 'last.ckpt'}"
    done = command("train", *QUICK, ckpt, setting, "trainer.max_epochs=300")
    assert_in_words(done.status, done.out, done.err, *words)


@pytest.mark.slow
def test_an_epoch_that_max_steps_cut_short_goes_on(command: Command, tmp_path: Path) -> None:
    assert command("train", *QUIET, "hydra.run.dir=whole").status == 0
    for length in ("trainer.max_steps=4", "trainer.max_steps=5", "trainer.max_steps=6"):
        done = command("train", *QUIET, length, "hydra.run.dir=cut")
        assert (done.status, "no step was taken" in done.out + done.err) == (0, False)
    assert_same_end(tmp_path / "whole", tmp_path / "cut")


class TimeIsUp(Callback):
    """Tell the trainer to stop after a step, as Lightning's timer does for ``trainer.max_time``."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        trainer.should_stop = trainer.global_step == self.step


@pytest.mark.slow
def test_an_epoch_that_time_cut_short_goes_on_and_logs_the_same_steps(
    composed: Compose, tmp_path: Path
) -> None:
    """Six steps in two epochs, stopped in each of these."""
    last = tmp_path / "cut" / "checkpoints" / "last.ckpt"
    for step in (2, 4, None):
        ckpt = f"ckpt_path={last if last.exists() else 'null'}"
        config = composed("train", *QUIET, f"run_dir={last.parents[1]}", ckpt)
        fit(config, *([] if step is None else [TimeIsUp(step)]))
        assert state(last)["global_step"] == (step or 6)
    fit(composed("train", *QUIET, f"run_dir={tmp_path / 'whole'}"))
    assert same(
        state(last)["optimizer_states"], state(tmp_path / "whole/checkpoints/last.ckpt")["optimizer_states"]
    )
    for key, numbers in ("train/loss", [0, 1, 2, 3, 4, 5]), ("val/psnr", [1, 2, 3, 5]):
        assert [row["step"] for row in logged(tmp_path / "cut") if key in row] == numbers


@pytest.mark.parametrize(
    ("last", "batches", "open_again"), [(False, 4, True), (False, 3, False), (True, 4, False)]
)
def test_an_epoch_goes_on_between_two_steps_only(last: bool, batches: int, open_again: bool) -> None:
    """Of two batches each; a gradient that was partly accumulated is lost."""
    epochs = {of: {"ready": 2, "processed": 2, "completed": 1} for of in ("current", "total")}
    loop = {
        "epoch_progress": epochs,
        "epoch_loop.batch_progress": {"is_last_batch": last, "current": {"processed": batches}},
    }
    reopen_epoch({"loops": {"fit_loop": loop}}, 2)
    assert [count["processed"] for count in epochs.values()] == [2 - open_again] * 2


def test_a_checkpoint_that_counts_no_epochs_stays_as_it_is() -> None:
    checkpoint = {"global_step": 4}
    reopen_epoch(checkpoint, 1)
    assert checkpoint == {"global_step": 4}


@pytest.mark.slow
def test_a_resume_that_takes_no_step_says_which_limit_to_raise(command: Command) -> None:
    run = (*QUICK, "hydra.run.dir=run")
    assert command("train", *run).status == 0
    for length, limits in (
        ((), "trainer.max_epochs=2"),
        (("trainer.max_steps=9",), "trainer.max_epochs=2"),
        (("trainer.max_steps=3",), "trainer.max_steps=3"),
    ):
        again = command("train", *run, *length)
        assert again.status == 0, again.err
        told = [line for line in (again.out + again.err).splitlines() if "no step was taken" in line]
        assert told == [f"warning: no step was taken: at step 6, {limits} is reached; raise it to train on"]
    # The last checkpoint of an epoch counts it as begun: only the epoch after makes this one done for Lightning.
    assert command("train", *run, "trainer.max_epochs=3").status == 0
    fewer = command("train", *run, "trainer.max_epochs=1")
    words = "last.ckpt is of a later epoch than trainer.max_epochs=1: raise it to train on"
    assert_in_words(fewer.status, fewer.out, fewer.err, words)
