"""What a run says of its length."""

import re
from pathlib import Path

import pytest

from helpers.commands import Command
from helpers.runs import TINY
from linf.training.callbacks.forecast import _duration


def test_a_run_says_what_it_is_and_when_it_ends(command: Command, tmp_path: Path) -> None:
    given = ("trainer.max_epochs=3", "callbacks.forecast.after=3", "hydra.run.dir=run")
    done = command("train", *TINY, *given)
    assert done.status == 0, done.err
    assert re.search(r"run: 5 images, 6 steps", done.out)
    assert re.search(r"1 min left, without validations: until \w+ \d\d \w+, \d\d:\d\d", done.out)
    assert "weeks" not in done.out
    again = command("train", *TINY, "trainer.max_epochs=4", "hydra.run.dir=run")
    assert "8 steps from step 6" in again.out


def test_a_published_recipe_on_a_cpu_is_said_to_take_weeks(command: Command) -> None:
    long = ("trainer.max_epochs=100000", "+trainer.limit_train_batches=2", "trainer.max_time=00:00:00:01")
    done = command("train", *TINY, *long)
    assert done.status == 0, done.err
    assert "200,000 steps take weeks on a CPU: experiment=demo" in done.out


@pytest.mark.parametrize(
    ("seconds", "words"), [(5, "1 min"), (3540, "59 min"), (12_000, "3 h 20 min"), (864_000, "10 days 0 h")]
)
def test_durations(seconds: float, words: str) -> None:
    assert _duration(seconds) == words
