"""``linf train`` and ``linf eval`` are ``train.py`` and ``eval.py``, with a user's own configs on top."""

import sys
from pathlib import Path

import pytest

from helpers.commands import Command, Linf, assert_in_words, finish
from helpers.paths import ROOT
from linf.runs import CONF


@pytest.fixture(autouse=True)
def own_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a job changes of its process is as it was after the test."""
    monkeypatch.setattr(sys, "argv", sys.argv[:])
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "")


def test_configs_are_in_the_package() -> None:
    assert CONF.samefile(ROOT / "conf")
    assert (ROOT / "src" / "linf" / "conf" / "train.yaml").samefile(ROOT / "conf" / "train.yaml")


@pytest.mark.parametrize(
    ("name", "settings"),
    [("train", ("experiment=smoke", "seed=3")), ("eval", ("model=bicubic", "logger=csv"))],
)
def test_a_job_has_the_same_settings_both_ways(
    run: Linf, command: Command, name: str, settings: tuple[str, ...]
) -> None:
    script = command(name, "--cfg", "job", *settings, "callbacks=null")
    assert script.status == 0
    assert "seed: " in script.out
    assert run(name, "--cfg", "job", *settings, "callbacks=null") == script


def test_a_misspelt_setting_is_named(run: Linf) -> None:
    done = run("eval", "temperature=[0]")
    assert_in_words(done.status, done.out, done.err, "did you mean 'temperatures'?")


def test_help_is_that_of_the_job(run: Linf) -> None:
    done = run("train", "--help")
    assert done.status == 0
    assert done.out.startswith("python train.py [GROUP=CHOICE …]")
    assert "swinir_tiny" in done.out


@pytest.mark.slow
def test_own_configs_lie_on_top(tmp_path: Path) -> None:
    """A folder of the user's adds an experiment and an encoder, whose class is a module beside it."""
    for group in ("encoder", "experiment"):
        (tmp_path / "own" / group).mkdir(parents=True)
    (tmp_path / "mine.py").write_text(
        "from linf.models.encoders import EDSR\n\nclass Mine(EDSR):\n    pass\n"
    )
    (tmp_path / "own" / "encoder" / "mine.yaml").write_text("_target_: mine.Mine\nblocks: 1\nchannels: 4\n")
    (tmp_path / "own" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - smoke\n  - override /encoder: mine\nseed: 7\n"
    )
    arguments = ("train", "--config-dir", "own", "experiment=mine", "trainer.max_steps=1", "logger=null")
    done = finish(*arguments, "callbacks=null", "hydra.run.dir=run", script="linf", cwd=tmp_path)
    assert done.status == 0, done.err
    assert "mine.Mine" in (tmp_path / "run" / ".hydra" / "config.yaml").read_text()
    assert (tmp_path / "run" / "model.safetensors").is_file()
    looked = finish("info", "run/model.safetensors", script="linf", cwd=tmp_path)
    assert_in_words(looked.status, looked.out, looked.err, "'Mine' is not one of", "LINF_MODULES=")
    looked = finish(
        "info", "run/model.safetensors", script="linf", cwd=tmp_path, env={"LINF_MODULES": "mine"}
    )
    assert looked.status == 0, looked.err
    assert "Mine" in looked.out
