"""CONTRIBUTING.md, followed to the letter: an encoder, loss, metric and degradation are added to a copy and used."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.paths import ROOT

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^`([^`]+)`[^\n]*:\n\n```\w+\n(.*?)```$", TEXT, re.MULTILINE | re.DOTALL))
TEST = "tests/models/test_encoders.py"

JOBS = """
from hydra.core.global_hydra import GlobalHydra
from linf.cli import main

train = ["experiment=smoke", "encoder=plain_tiny", "loss@task.loss=charbonnier", "data/degradation=scan"]
main(["train", *train, "trainer.max_epochs=1", "data.val=null", "callbacks=null", "hydra.run.dir=run"])
GlobalHydra.instance().clear()
measure = ["ckpt_path=run/model.safetensors", "metrics=mae", "data.test_scales=[2]", "data.test_limit=1"]
main(["eval", *measure, "temperatures=[0]", "callbacks=null", "hydra.run.dir=eval"])
"""


def test_each_of_the_four_is_one_file_or_two() -> None:
    names = [Path(name).name for name in FILES]
    assert names == [
        "plain.py",
        "plain.yaml",
        Path(TEST).name,
        "plain_tiny.yaml",
        "charbonnier.py",
        "charbonnier.yaml",
        "mae.py",
        "mae.yaml",
        "scan.yaml",
    ]
    assert len(FILES[TEST].splitlines()) == 1


@pytest.mark.slow
def test_the_steps_lead_to_a_training_an_evaluation_and_green_tests(tmp_path: Path) -> None:
    for name in ("src", "conf", "tests", "benchmarks"):
        shutil.copytree(
            ROOT / name, tmp_path / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for name, text in FILES.items():
        if name != TEST:
            assert not (tmp_path / name).exists()
            (tmp_path / name).write_text(text)
    tests = (tmp_path / TEST).read_text()
    tests = tests.replace("\nSMALL:", "\nfrom linf.models.encoders.plain import Plain\n\nSMALL:", 1)
    start = tests.index("SMALL:")
    end = tests.index("\n}", start)
    (tmp_path / TEST).write_text(tests[: end + 1] + FILES[TEST].rstrip("\n") + tests[end:])

    def python(*arguments: str) -> str:
        env = os.environ | {"PYTHONPATH": str(tmp_path / "src")}
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    told = python("-c", JOBS)
    assert re.search(r"\bmae\b", told)
    assert re.search(
        r"^([5-9]|\d\d+) passed", python("-m", "pytest", "-q", TEST, "-k", "plain"), re.MULTILINE
    )
