"""The wheel by itself: installed without this checkout, its commands train, evaluate and enlarge from any folder."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from helpers.paths import ROOT

pytestmark = pytest.mark.slow

PROJECT = ("pyproject.toml", "README.md", "LICENSE", "src", "conf")

Installed = Callable[..., str]
"""``installed("linf", "train", …)`` is what a command of the environment prints."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, since setuptools packs what earlier builds left in a checkout."""
    clean = tmp_path_factory.mktemp("project")
    for name in PROJECT:
        source, target = ROOT / name, clean / name
        if source.is_dir():
            shutil.copytree(
                source, target, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
            )
        else:
            shutil.copy(source, target)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist"]
    done = subprocess.run(command, cwd=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = (clean / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """An environment with the wheel, which finds the packages of this one but not this checkout."""
    env, here = tmp_path_factory.mktemp("env"), tmp_path_factory.mktemp("elsewhere")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", env], check=True)
    python = env / "bin" / "python"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        wheel,
    ]
    subprocess.run(pip, check=True)
    # A line of a .pth adds a folder to those searched, and the .pth files in there are not read: no editable linf.
    site = next((env / "lib").glob("python*/site-packages"))
    (site / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(command: str, *arguments: str) -> str:
        done = subprocess.run(
            [env / "bin" / command, *arguments], cwd=here, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = run(
        "python", "-c", "import hydra_plugins.linf_search as s, linf; print(s.__file__, linf.__file__)"
    )
    assert all(Path(file).is_relative_to(env) for file in where.split())
    Image.effect_noise((40, 30), 50).convert("RGB").save(here / "a.png")
    return run


def test_the_wheel_holds_all_that_is_not_python(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as content:
        names = set(content.namelist())
    configs = {f"linf/{path.relative_to(ROOT)}" for path in (ROOT / "conf").rglob("*.yaml")}
    data = {
        path.relative_to(ROOT / "src").as_posix()
        for path in (ROOT / "src" / "linf").rglob("*")
        if path.suffix in {".html", ".csv", ".safetensors", ".typed"}
    }
    assert len(configs) > 50
    assert len(data) >= 5
    assert configs | data <= names
    assert not {name for name in names if name.startswith(("tests/", "benchmarks/"))}


def test_installed_it_trains_evaluates_and_enlarges(installed: Installed) -> None:
    tiny = ("trainer.max_epochs=1", "data.val_limit=1", "callbacks.progress=null", "hydra.run.dir=run")
    assert "trained model: " in installed("linf", "train", "experiment=smoke", *tiny)
    settings = ("data.test_scales=[2]", "data.test_limit=1", "metrics=fidelity", "callbacks.cost=null")
    shown = installed("linf", "eval", "ckpt_path=run/model.safetensors", *settings, "hydra.run.dir=measured")
    assert "tables, contact sheet and metrics.json: " in shown
    assert installed("linf", "upscale", "a.png", "-s", "2x") == "a_x2.png, 80×60\n"
    assert installed("linf", "upscale", "a.png", "-s", "3", "--model", "run/model.safetensors", "-o", "b.png")
