"""The W&B logger over restarts, ranks and sweeps, offline, and when W&B fails."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.commands import Outcome, finish
from helpers.paths import ROOT
from helpers.runs import RANKS, TINY, column
from linf.training.loggers import Wandb

OFFLINE = ("logger=wandb", "logger.wandb.offline=true")


def environment(folder: Path, **more: str) -> dict[str, str]:
    """That of a user without a W&B account."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    return plain | {"HOME": str(folder / "home"), **more}


def train(folder: Path, *arguments: str, **variables: str) -> Outcome:
    return finish(*TINY, *arguments, cwd=folder, env=environment(folder, **variables))


def ids(folder: Path) -> list[str]:
    """The ids of the offline runs below a folder, one for each start."""
    return [path.name.rsplit("-", 1)[1] for path in sorted(folder.glob("wandb/offline-run-*"))]


@pytest.mark.slow
def test_a_restarted_run_is_the_same_one(tmp_path: Path) -> None:
    for epochs in (1, 2):
        done = train(tmp_path, *OFFLINE, f"trainer.max_epochs={epochs}", "hydra.run.dir=run")
        assert done.status == 0, done.err
    first, second = ids(tmp_path / "run")
    assert first == second == (tmp_path / "run" / "wandb" / "id").read_text()


@pytest.mark.thorough
def test_only_the_first_rank_speaks_to_wandb(tmp_path: Path) -> None:
    done = train(tmp_path, *OFFLINE, *RANKS, "hydra.run.dir=run")
    assert done.status == 0, done.err
    assert len(ids(tmp_path / "run")) == 1


@pytest.mark.slow
def test_nothing_asks_for_a_network(tmp_path: Path) -> None:
    alone = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    if subprocess.run([*alone, "true"], capture_output=True).returncode:
        pytest.skip("a network of one's own needs root, unshare and ip")
    recipe = (ROOT / "docs" / "clusters.md").read_text()
    assert f"python train.py {' '.join(OFFLINE)}" in recipe
    done = subprocess.run(
        [*alone, sys.executable, str(ROOT / "train.py"), *TINY, *OFFLINE, *RANKS, "hydra.run.dir=run"],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert len(ids(tmp_path / "run")) == 1


@pytest.mark.slow
def test_the_jobs_of_a_sweep_are_runs_of_one_group(tmp_path: Path) -> None:
    done = train(tmp_path, *OFFLINE, "hydra.mode=MULTIRUN", "hydra.sweep.dir=sweep", "seed=0,1")
    assert done.status == 0, done.err
    found = [ids(tmp_path / "sweep" / f"seed-{seed}") for seed in (0, 1)]
    assert [len(each) for each in found] == [1, 1]
    assert found[0] != found[1]
    for seed in (0, 1):
        (record,) = (tmp_path / "sweep" / f"seed-{seed}").glob("wandb/offline-run-*/run-*.wandb")
        assert b"sweep" in record.read_bytes()


@pytest.mark.thorough
def test_a_run_continues_if_wandb_cannot_be_reached(tmp_path: Path) -> None:
    nowhere = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "0" * 40, "WANDB_INIT_TIMEOUT": "3"}
    done = train(tmp_path, "logger=wandb", "hydra.run.dir=run", **nowhere)
    assert done.status == 0, done.err
    assert (done.out + done.err).count("the run continues without it") == 1
    assert len(column(tmp_path / "run", "train/loss")) == 2


def test_data_that_wandb_rejects_gives_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    logger = Wandb(str(tmp_path), offline=True)
    logger.log_metrics({"loss": 1.0}, step=1)
    # What W&B's own client does once its quota is used up or its service is gone.
    monkeypatch.setattr(
        logger.experiment, "log", lambda *_, **__: (_ for _ in ()).throw(OSError("over quota"))
    )
    for step in range(2, 5):
        logger.log_metrics({"loss": 1.0}, step=step)
    logger.finalize("success")
    assert caplog.text.count("over quota") == 1
