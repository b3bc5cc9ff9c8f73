"""What a training says of itself: what it has, what validation measured, and when it will end."""

import json
import logging
import os
import re
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from helpers.commands import Command, Compose
from helpers.runs import TINY, WITH_CURVES, column, fit
from linf.report.curves import curves_figure, read_curves
from linf.report.logged import logged_rows
from linf.runs.announcement import _scales
from linf.training.callbacks.forecast import _duration


@pytest.mark.slow
def test_a_run_says_what_it_is_and_when_it_ends(command: Command, tmp_path: Path) -> None:
    tiny = (*WITH_CURVES, "data.batches_per_epoch=2", "data.val_limit=1", "~callbacks.panels")
    run = (*tiny, "hydra.run.dir=run")
    done = command("train", *run, "trainer.max_epochs=3", "callbacks.forecast.after=3")
    assert done.status == 0, done.err
    lines = done.out.splitlines()
    assert lines[:4] == [
        f"run: {tmp_path / 'run'}",
        "data: bundled",
        "model: linf_patch, encoder edsr_tiny, task nll",
        "length: 3 epochs of 2 batches; devices: 1 × cpu, precision 32-true",
    ]
    assert lines[4].startswith("trained on: 5 images of bundled-train, in /")
    assert lines[5].startswith("validated on: 1 image of bundled-heldout at ×2, ×3.3: astronaut.png")
    assert re.fullmatch(
        r"parameters: ([\d,]+) in LINF P=3, EDSR: encoder .*, conditioner .*, flow .*", lines[6]
    )
    assert lines[7] == "6 steps of 2 samples; on 1 × cpu, precision 32-true"
    ends = r"\d+ s left, until \w+ \d\d \w+, \d\d:\d\d"
    assert re.search(rf"^{ends}, without validations$", done.out, re.MULTILINE)
    psnr = r"×2 \d+\.\d\d \(bicubic \d+\.\d\d\), ×3.3 \d+\.\d\d \(bicubic \d+\.\d\d\)"
    assert re.search(rf"^step 2 of 6; PSNR in dB: {psnr}; {ends}$", done.out, re.MULTILINE)
    assert re.search(rf"^step 6 of 6; PSNR in dB: {psnr}$", done.out, re.MULTILINE)
    assert "weeks" not in done.out
    assert Path((tmp_path / "run" / "validation_images.txt").read_text().strip()).name == "astronaut.png"
    again = command("train", *run, "trainer.max_epochs=4")
    assert f"run: {tmp_path / 'run'}, resumed from its newest checkpoint" in again.out
    assert "8 steps of 2 samples, from step 6; on 1 × cpu" in again.out
    # The log has every line of both, with its time, and nothing else was printed.
    logged = (tmp_path / "run" / "train.log").read_text().splitlines()
    assert [line.split(" INFO ")[1] for line in logged] == (done.out + again.out).splitlines()
    assert done.err + again.err == ""
    # One table and one figure of both starts.
    table = read_curves(tmp_path / "run")
    assert list(table.index) == list(range(1, 9))
    assert list(table["val/psnr_x2"].dropna().index) == [2, 4, 6, 8]
    written = pd.read_csv(tmp_path / "run" / "curves.csv", index_col="step")
    pd.testing.assert_frame_equal(written, table)
    with Image.open(tmp_path / "run" / "curves.png") as drawn:
        assert min(drawn.size) > 300


def test_the_later_start_counts_in_a_copied_folder(tmp_path: Path) -> None:
    """Of a step that several starts took, whatever dates their files have."""
    for number in range(11):
        csv = tmp_path / "csv" / f"version_{number}" / "metrics.csv"
        csv.parent.mkdir(parents=True)
        csv.write_text(f"step,val/psnr\n9,{number}\n")
        os.utime(csv, (2000 - number, 2000 - number))
    assert read_curves(tmp_path)["val/psnr"].to_dict() == {10: 10}
    assert list(logged_rows(tmp_path)["val/psnr"]) == list(range(11))


@pytest.mark.parametrize("damaged", ["", "\n", "epo", 'step,val/psnr\n9,"1'])
def test_what_a_killed_start_has_half_written_is_left_out(damaged: str, tmp_path: Path) -> None:
    for number, text in enumerate([damaged, "step,val/psnr\n9,30\n"]):
        csv = tmp_path / "csv" / f"version_{number}" / "metrics.csv"
        csv.parent.mkdir(parents=True)
        csv.write_text(text)
        assert read_curves(tmp_path).empty == (number == 0)
    assert read_curves(tmp_path)["val/psnr"].to_dict() == {10: 30}


def test_every_learning_rate_has_its_panel() -> None:
    names = ["lr-AdamW/pg1", "train/loss", "lr-AdamW/pg2", "val/ssim"]
    figure = curves_figure(pd.DataFrame({name: [1.0, n + 2] for n, name in enumerate(names)}))
    assert figure is not None
    titles = [axis.get_title("left") for axis in figure.axes]
    assert titles == ["validation: ssim", "training: loss", "learning rate", "learning rate"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("trainer.max_steps=1",), "comes after step 2: data.batches_per_epoch=1 makes epochs"),
        pytest.param(
            ("trainer.check_val_every_n_epoch=3",),
            "after step 6: lower trainer.check_val_every_n_epoch",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("trainer.max_steps=1", "trainer.check_val_every_n_epoch=2"),
            "after step 4: lower trainer.check_val_every_n_epoch",
            marks=pytest.mark.slow,
        ),
        pytest.param(("+trainer.limit_val_batches=0",), "limit_val_batches is 0", marks=pytest.mark.slow),
        pytest.param(("trainer.accumulate_grad_batches=2",), None, marks=pytest.mark.slow),
        pytest.param(("trainer.max_steps=1", "+trainer.val_check_interval=1"), None, marks=pytest.mark.slow),
    ],
)
def test_a_run_that_ends_before_its_first_validation_says_so(
    command: Command, tmp_path: Path, settings: tuple[str, ...], words: str | None
) -> None:
    """One epoch of two batches."""
    done = command("train", *TINY, *settings, "hydra.run.dir=run")
    assert done.status == 0, done.err
    (line,) = (line for line in done.out.splitlines() if line.startswith("validated on: "))
    assert line.startswith("validated on: nothing, for") == (not column(tmp_path / "run", "val/psnr"))
    assert (words or "1 image of bundled-heldout") in line


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((), "×3.3: "),
        (("data/degradation=photo",), "×3.3, with LR made by bicubic, unlike that of the training: "),
        (("data/degradation@data.val_degradation=severity",), "×3.3, with degraded LR: "),
    ],
)
def test_validation_on_other_lr_than_the_training_is_told(
    composed: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture, given: tuple[str, ...], words: str
) -> None:
    caplog.set_level(logging.INFO)
    fit(composed("train", *TINY, *given, f"run_dir={tmp_path}"))
    (text,) = [text for text in caplog.messages if text.startswith("validated on")]
    assert words in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after", "step", "planned"),
    [
        (("trainer.max_epochs=1",), ("trainer.accumulate_grad_batches=2",), 5, 11),
        # Stopped within an epoch, after two of its five batches.
        (("trainer.max_steps=2",), ("trainer.accumulate_grad_batches=2",), 2, 10),
        (("trainer.max_steps=2", "trainer.accumulate_grad_batches=2"), ("trainer.max_steps=9",), 2, 9),
    ],
)
def test_a_resumed_run_with_other_batches_a_step_counts_its_own_steps(
    composed: Compose,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    before: tuple[str, ...],
    after: tuple[str, ...],
    step: int,
    planned: int,
) -> None:
    caplog.set_level(logging.INFO)
    rest = (*TINY, "data.batches_per_epoch=5", "trainer.max_epochs=3", f"run_dir={tmp_path}")
    fit(composed("train", *rest, *before))
    cycle = ("scheduler=one_cycle", f"scheduler.total_steps={planned}", "task.scheduler_interval=step")
    trainer = fit(composed("train", *rest, *after, *cycle, f"ckpt_path={tmp_path}/checkpoints/last.ckpt"))
    assert "the schedule" not in caplog.text  # It is as long as the run.
    assert any(
        text.startswith(f"{planned} steps of 2 ") and f"from step {step};" in text for text in caplog.messages
    )
    assert trainer.global_step == planned == json.loads((tmp_path / "progress.json").read_text())["steps"]


@pytest.mark.slow
def test_a_published_recipe_on_a_cpu_is_said_to_take_weeks(command: Command) -> None:
    long = ("trainer.max_epochs=100000", "+trainer.limit_train_batches=2", "trainer.max_time=00:00:00:01")
    done = command("train", *TINY, *long)
    assert done.status == 0, done.err
    assert "200,000 steps take weeks on a CPU: experiment=demo" in done.out


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(5, "5 s"), (60.5, "2 min"), (3540, "59 min"), (12_000, "3 h 20 min"), (864_000, "10 days 0 h")],
)
def test_durations(seconds: float, words: str) -> None:
    assert _duration(seconds) == words


def test_a_pair_of_scales_is_announced_as_tables_name_it() -> None:
    assert _scales([2, [1.5, 4]]) == "×2, ×1.5x4"
