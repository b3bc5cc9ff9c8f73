"""What a run keeps as best is the best of its CSV, whatever is kept, resumed, moved or left unseen."""

import re
import shutil
from pathlib import Path

import pytest
import torch

from helpers.commands import Command, Outcome, assert_in_words
from helpers.runs import SMOKE, column, logged, state
from linf.errors import UsageError
from linf.runs.record import read_record
from linf.training.callbacks import BestCheckpoint

QUICK = (
    *SMOKE,
    "trainer.max_epochs=5",
    "data.crop=12",
    "data.val_limit=1",
    "task.whitening_batches=8",
    "callbacks.panels=null",
    "callbacks.throughput=null",
)
"""With these crops the third of five validations is the best."""
VALUE = "val/psnr"


def steps(run: Path, key: str = VALUE) -> dict[int, float]:
    """The value of each validation by the number of steps before it."""
    return {int(row["step"]) + 1: row[key] for row in logged(run) if key in row}


def named_best(done: Outcome) -> tuple[Path, float, int]:
    """What the end of a run names as its best checkpoint: file, value, step."""
    assert done.status == 0, done.err
    found = re.search(r"best by validation: (\S+) \(\S+ (-?[\d.]+) after step (\d+)\)", done.out)
    assert found, done.out
    return Path(found[1]), float(found[2]), int(found[3])


@pytest.mark.parametrize(
    ("kept", "files"),
    [(1, 1), (0, 0), *(pytest.param(n, m, marks=pytest.mark.thorough) for n, m in ((3, 3), (-1, 5)))],
)
def test_the_best_is_the_highest_of_the_csv(command: Command, tmp_path: Path, kept: int, files: int) -> None:
    done = command("train", *QUICK, f"callbacks.checkpoint.save_top_k={kept}", "hydra.run.dir=run")
    checkpoints, values = tmp_path / "run" / "checkpoints", steps(tmp_path / "run")
    assert len(values) == 5
    ranked = sorted(values, key=lambda step: -values[step])
    assert ranked[0] not in (3, 15), "with the best at an end, this would test nothing"
    if not files:
        assert "best by validation" not in done.out
        assert not list(checkpoints.glob("best*"))
        return
    path, value, step = named_best(done)
    assert (step, value) == (ranked[0], pytest.approx(values[ranked[0]], abs=1e-4))
    assert state(path)["global_step"] == state(checkpoints / "best.ckpt")["global_step"] == ranked[0]
    if kept != 1:
        found = {int(each.stem.split("_")[-1]) for each in checkpoints.glob("best_step_*.ckpt")}
        assert found == set(ranked[:files])


def test_a_monitor_chooses_its_own_direction(command: Command, tmp_path: Path) -> None:
    done = command("train", *QUICK, "callbacks.checkpoint.monitor=train/loss", "hydra.run.dir=run")
    _, value, step = named_best(done)
    # What is known of the loss at a validation is that of the step before it.
    before = {s: v for s, v in steps(tmp_path / "run", "train/loss").items() if s % 3 == 0}
    assert (step, value) == (
        min(before, key=before.__getitem__),
        pytest.approx(min(before.values()), abs=1e-4),
    )


@pytest.mark.parametrize(
    ("monitor", "mode", "chosen"),
    [("val/lpips", None, -1), ("val/psnr_x2", None, 1), ("val/lpips", "min", -1), ("other", "max", 1)],
)
def test_direction(monitor: str, mode: str | None, chosen: int) -> None:
    assert BestCheckpoint("x", monitor=monitor, mode=mode).sign == chosen


@pytest.mark.parametrize(
    ("monitor", "mode"), [("val/lpips", "max"), ("val/psnr", "min"), ("other", None), ("val/psnr", "best")]
)
def test_a_wrong_direction_is_refused(monitor: str, mode: str | None) -> None:
    with pytest.raises(UsageError, match=r"callbacks\.checkpoint\.mo"):
        BestCheckpoint("x", monitor=monitor, mode=mode)


def test_a_monitor_that_is_not_measured_is_refused_before_the_first_step(command: Command) -> None:
    for monitor, words in (
        ("val/lpips", "val/psnr_x3.3"),
        ("val/pnsr", "monitor"),
        ("val/psnr_x7", "val/psnr_x2"),
    ):
        done = command("train", *QUICK, f"callbacks.checkpoint.monitor={monitor}")
        assert_in_words(done.status, done.out, done.err, monitor, words)


def test_a_scale_that_was_not_seen_has_no_key(command: Command, tmp_path: Path) -> None:
    partial = [*QUICK, "+trainer.limit_val_batches=1", "trainer.max_epochs=3", "hydra.run.dir=run"]
    done = command("train", *partial)
    _, value, step = named_best(done)
    values = steps(tmp_path / "run")
    assert steps(tmp_path / "run", "val/psnr_x2") == values
    assert not column(tmp_path / "run", "val/psnr_x3.3")
    assert step == max(values, key=values.__getitem__)
    assert value == pytest.approx(values[step], abs=1e-4)
    assert "no image for val/psnr_x3.3" in done.out + done.err


def test_a_rehearsal_has_finite_results_and_leaves_no_checkpoint(command: Command, tmp_path: Path) -> None:
    done = command("train", *QUICK, "+trainer.fast_dev_run=true", "hydra.run.dir=run")
    assert done.status == 0, done.err
    result = read_record(tmp_path / "run").result
    assert result.keys() == {"val/psnr", "val/psnr_x2"}
    assert all(value > 10 for value in result.values())
    assert not list(tmp_path.glob("run/checkpoints/*.ckpt"))


def test_nothing_is_kept_for_a_value_that_is_not_a_number() -> None:
    best = BestCheckpoint("x")
    assert not best._is_kept(float("nan"))
    best.kept = {Path("x/best.ckpt"): (20.0, 3)}
    assert not best._is_kept(float("nan"))
    assert not best._is_kept(20.0)
    assert best._is_kept(20.5)


@pytest.mark.slow
@pytest.mark.parametrize("moved", [pytest.param(False, marks=pytest.mark.thorough), True])
def test_a_resumed_run_keeps_the_best_of_both(command: Command, tmp_path: Path, moved: bool) -> None:
    run = tmp_path / "run"
    assert command("train", *QUICK, "trainer.max_epochs=3", f"hydra.run.dir={run}").status == 0
    if moved:
        run = Path(shutil.move(run, tmp_path / "elsewhere"))
    # The rate spoils the model, so that the best stays the one from before.
    again = command("train", *QUICK, "task.optimizer.lr=0.01", f"hydra.run.dir={run}")
    _, value, step = named_best(again)
    values = steps(run)
    assert len(values) == 5
    assert step == max(values, key=values.__getitem__) <= 9
    assert value == pytest.approx(values[step], abs=1e-4)
    assert state(run / "checkpoints" / "best.ckpt")["global_step"] == step


@pytest.mark.slow
def test_the_best_on_other_images_is_chosen_anew(command: Command, tmp_path: Path) -> None:
    assert command("train", *QUICK, "trainer.max_epochs=2", "hydra.run.dir=run").status == 0
    again = command("train", *QUICK, "trainer.max_epochs=3", "data.val_scales=[4]", "hydra.run.dir=run")
    assert named_best(again)[2] == 9
    assert "chosen anew" in again.out + again.err


def test_checkpoints_from_before_tell_their_value(tmp_path: Path) -> None:
    best = BestCheckpoint(str(tmp_path))
    old = {"monitor": "val/psnr", "current_score": torch.tensor(24.5), "best_model_score": torch.tensor(24.5)}
    torch.save({"global_step": 7, "callbacks": {best.state_key: old}}, tmp_path / "best.ckpt")
    best._find(123)
    assert best.kept == {tmp_path / "best.ckpt": (24.5, 7)}


def keep(best: BestCheckpoint, name: str, value: float, step: int) -> None:
    state = {"monitor": "val/psnr", "value": value, "validated": 1}
    torch.save({"global_step": step, "callbacks": {best.state_key: state}}, best.folder / name)


def test_a_start_that_keeps_fewer_measures_by_the_best_of_those_kept_before(tmp_path: Path) -> None:
    for count in (1, 2):
        best = BestCheckpoint(str(tmp_path), save_top_k=count)
        for value, step in ((26.0, 3), (28.0, 6), (27.0, 9)):
            keep(best, f"best_step_{step:07d}.ckpt", value, step)
        keep(best, "best.ckpt", 28.0, 6)
        best._find(1)
        assert [best._is_kept(value) for value in (26.5, 27.5, 28.5)] == [False, count == 2, True]
        assert best.best_model_score == 28.0
        assert len(list(tmp_path.glob("best_step_*.ckpt"))) == 3


def test_the_best_of_several_is_the_best_alone(tmp_path: Path) -> None:
    best = BestCheckpoint(str(tmp_path))
    keep(best, "best_step_0000006.ckpt", 28.0, 6)
    best._find(1)
    assert best.kept == {tmp_path / "best.ckpt": (28.0, 6)}
    assert state(tmp_path / "best.ckpt")["global_step"] == 6


def test_a_run_that_went_back_replaces_no_better_checkpoint_of_the_same_step(tmp_path: Path) -> None:
    for count in (3, -1):
        best = BestCheckpoint(str(tmp_path), save_top_k=count)
        best.kept = {(path := tmp_path / "best_step_0000006.ckpt"): (28.0, 6)}
        assert [best._is_kept(value, path) for value in (27.9, 28.1)] == [False, True]
        assert best._is_kept(27.9, tmp_path / "best_step_0000009.ckpt")


def test_no_validation_means_no_best(command: Command, tmp_path: Path) -> None:
    done = command("train", *QUICK, "data.val=null", "trainer.max_epochs=1", "hydra.run.dir=run")
    assert done.status == 0, done.err
    assert "best by validation" not in done.out
    assert [path.name for path in tmp_path.glob("run/checkpoints/*")] == ["last.ckpt"]


@pytest.mark.slow
def test_two_figures_have_a_best_each(command: Command, tmp_path: Path) -> None:
    second = (
        "+callbacks.other={_target_:linf.training.callbacks.BestCheckpoint,dirpath:run/checkpoints,"
        "filename:other,monitor:train/loss}"
    )
    done = command("train", *QUICK, second, "hydra.run.dir=run")
    psnr, loss = steps(tmp_path / "run"), steps(tmp_path / "run", "train/loss")
    assert named_best(done)[2] == max(psnr, key=psnr.__getitem__)
    assert state(tmp_path / "run" / "checkpoints" / "other.ckpt")["global_step"] == min(
        psnr, key=loss.__getitem__
    )
