"""Rehearsals: the presets of ``debug=``."""

from pathlib import Path

import numpy as np
import pytest

from helpers.commands import Command
from helpers.runs import SMOKE, column, logged

QUICK = (*SMOKE, "~callbacks.panels", "hydra.run.dir=run")


def debug(command: Command, tmp_path: Path, preset: str, *given: str) -> tuple[Path, str]:
    """The run's folder, and what it printed."""
    done = command("train", *QUICK, f"debug={preset}", *given)
    assert done.status == 0, done.err
    assert "warning" not in done.out
    return tmp_path / "run", done.out


def test_fast_takes_one_batch_of_each(command: Command, tmp_path: Path) -> None:
    cycle = ("scheduler=one_cycle", "scheduler.total_steps=9", "task.scheduler_interval=step")
    run, out = debug(command, tmp_path, "fast", *cycle)
    assert "length: one batch, of training and of validation" in out
    assert "step 1 of 1; PSNR in dB: ×2" in out
    assert not (run / "csv").exists()
    assert not (run / "checkpoints").exists()


@pytest.mark.slow
def test_limit_takes_a_part_of_the_data(command: Command, tmp_path: Path) -> None:
    run, out = debug(command, tmp_path, "limit", "data.batches_per_epoch=100", "data.val_crop=24")
    assert "step 3 of 3" in out
    assert max(row["step"] for row in logged(run)) == 2, "a hundredth of 100 batches, three times"


@pytest.mark.slow
def test_overfit_makes_the_loss_fall_on_the_same_crops(command: Command, tmp_path: Path) -> None:
    run, _ = debug(command, tmp_path, "overfit", "trainer.max_epochs=100", "task.optimizer.lr=1e-3")
    loss = np.array(column(run, "train/loss"))
    assert len(loss) == 100
    # Of crops that change, the losses of neighbouring steps differ by more than this training gains.
    assert loss[-10:].mean() < loss[10:20].mean() - 0.1
    assert abs(loss[-10:] - loss[-10:].mean()).max() < 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("preset", "file", "words"),
    [
        ("profiler", "fit-profile.txt", "run_training_batch"),
        pytest.param("profiler_advanced", "fit-profile.txt", "function calls", marks=pytest.mark.thorough),
        ("profiler_pytorch", "*.pt.trace.json", "aten::conv2d"),
    ],
)
def test_profilers_write_into_the_folder(
    command: Command, tmp_path: Path, preset: str, file: str, words: str
) -> None:
    run, _ = debug(command, tmp_path, preset, "trainer.max_epochs=2", "trainer.max_steps=6")
    (found,) = run.glob(file)
    assert words in found.read_text()
