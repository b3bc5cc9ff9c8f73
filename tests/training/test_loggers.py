"""What loggers record: W&B over restarts, ranks and sweeps, offline, and when it fails; TensorBoard; MLflow."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.loggers.logger import DummyExperiment

from helpers.commands import Outcome, finish
from helpers.paths import ROOT
from helpers.runs import RANKS, TINY, column
from helpers.runs import logged as rows
from helpers.wandb_record import recorded_run
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


def test_a_moved_folder_is_the_same_run_and_a_copied_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WandbLogger, "experiment", property(lambda self: DummyExperiment()))

    def started(folder: str) -> object:
        logger = Wandb(str(tmp_path / folder))
        assert logger.experiment
        return logger.version

    first = started("a")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert started("a") == started("link") == started("a") == first
    shutil.copytree(tmp_path / "a", tmp_path / "copy")
    second = started("copy")
    assert second != first
    shutil.move(tmp_path / "a", tmp_path / "moved")
    assert started("moved") == first
    shutil.copytree(tmp_path / "moved", tmp_path / "a")
    assert started("a") not in (first, second)
    assert started("copy") == second


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
def test_the_record_of_a_sweep_and_of_an_evaluation(tmp_path: Path, alexnet: Path) -> None:
    offline = {"WANDB_MODE": "offline"}  # Without which there are no artifacts.
    given = ("logger=wandb", "logger.wandb.log_model=true", "hydra.mode=MULTIRUN", "hydra.sweep.dir=a/sweep")
    done = train(tmp_path, *given, "seed=0,1,2", **offline)
    assert done.status == 0, done.err
    assert "wandb:" not in done.out + done.err
    for seed in range(3):
        folder = tmp_path / "a" / "sweep" / f"seed-{seed}"
        run = recorded_run(folder)
        assert (run.name, run.group, run.job_type) == (f"seed-{seed}", "a/sweep", "train")
        assert run.tags == ["smoke", "bundled", "linf_patch", "edsr_tiny", "nll"]
        assert run.artifacts == [("model", ["best", "latest"])]
        (logged,) = [row for row in rows(folder) if "val/psnr" in row]
        for key in ("val/psnr", "val/psnr_x2", "val/psnr_x3.3", "bicubic/psnr_x2"):
            assert run.summary[key] == pytest.approx(logged[key], abs=1e-4)
        assert f"W&B run: {folder}" in (folder / "train.log").read_text()
    evaluation = (
        "ckpt_path=a/sweep/seed-0/model.safetensors",
        *("data.test_limit=1", "data.test_scales=[3]", "temperatures=[0,0.5]", "~callbacks.cost"),
        *("logger=wandb", "logger.wandb.tags=[mine]", "hydra.run.dir=b/alone"),
    )
    there = environment(tmp_path, TORCH_HOME=str(alexnet.parents[2]), **offline)
    done = finish(*evaluation, cwd=tmp_path, script="eval", env=there)
    assert done.status == 0, done.err
    run = recorded_run(tmp_path / "b" / "alone")
    assert (run.name, run.group, run.job_type, run.tags) == ("alone", "", "eval", ["mine"])
    table = pd.read_csv(tmp_path / "b" / "alone" / "metrics.csv").set_index("system")
    place, sampled = "bundled-heldout/x3", table.loc[["τ=0", "τ=0.5"]]
    assert run.summary[f"{place}/psnr_y"] == pytest.approx(table.loc["τ=0", "psnr_y"])
    assert run.summary[f"{place}/psnr_y/bicubic"] == pytest.approx(table.loc["bicubic", "psnr_y"])
    best = sampled.loc[sampled["lpips_alex"].idxmin()]
    assert run.summary[f"{place}/lpips_alex/best"] == pytest.approx(best["lpips_alex"])
    assert run.summary[f"{place}/lpips_alex/best_temperature"] == best["temperature"]


@pytest.mark.slow
def test_tensorboard_has_the_same_panels(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def events(folder: Path) -> dict[str, list[str]]:
        found = EventAccumulator(str(next(folder.glob("tensorboard/version_0"))))
        return found.Reload().Tags()

    smoke = (argument for argument in TINY if argument != "~callbacks.panels")
    logger = "logger=tensorboard"
    done = finish(*smoke, logger, "hydra.run.dir=run", cwd=tmp_path, env=environment(tmp_path))
    assert done.status == 0, done.err
    found = events(tmp_path / "run")
    assert found["images"] == ["val/images"]
    assert {"val/psnr_x3.3", "bicubic/psnr_x3.3", "train/loss"} <= set(found["scalars"])
    assert "hp_metric" not in found["scalars"]
    evaluation = (
        "ckpt_path=run/model.safetensors",
        "data.test_limit=1",
        "data.test_scales=[3]",
        "metrics=fidelity",
    )
    done = finish(
        *evaluation,
        *("temperatures=[0,0.5]", "~callbacks.cost", logger, "hydra.run.dir=eval"),
        cwd=tmp_path,
        script="eval",
        env=environment(tmp_path),
    )
    assert done.status == 0, done.err
    found = events(tmp_path / "eval")
    assert "figures/contact_sheet" in found["images"]
    assert "bundled-heldout/x3/psnr_y" in found["scalars"]
    assert "hp_metric" not in found["scalars"]


@pytest.mark.thorough
def test_mlflow_has_parameters_and_metrics(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    done = finish(*TINY, "logger=mlflow", "hydra.run.dir=run", cwd=tmp_path, env=environment(tmp_path))
    assert done.status == 0, done.err
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/run/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("linf").experiment_id])
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    assert run.data.params["encoder/channels"] == "8"
    assert run.data.metrics["val/psnr_x2"] == pytest.approx(
        column(tmp_path / "run", "val/psnr_x2")[-1], abs=1e-4
    )


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
