"""A real Slurm of one node: jobs with two ranks, sweeps, jobs that are preempted, out of time or cancelled."""

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from helpers.commands import Command
from helpers.paths import ROOT
from helpers.runs import ONE_EACH, RANKS, SMOKE, TINY, assert_each_job_once, assert_same_end, state
from linf.runs.record import read_record

pytestmark = pytest.mark.slurm
HERE = Path(__file__).parent
RECIPES = (ROOT / "docs" / "clusters.md").read_text()
LONG = (
    *SMOKE,
    "trainer.max_epochs=30",
    "data.batches_per_epoch=5",
    "data.val_limit=1",
    "callbacks.panels.every_n_validations=100",
)

Slurm = Callable[..., str]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """``slurm("squeue", "-h")`` runs one of Slurm's commands, or any other, with a Slurm of our own up."""
    folder = tmp_path_factory.mktemp("slurm")
    up = subprocess.run([str(HERE / "up"), str(folder)], capture_output=True, text=True)
    if up.returncode == 3:
        pytest.skip(up.stderr.strip())
    assert up.returncode == 0, up.stderr
    ours = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin", "OMP_NUM_THREADS": "1"}
    ours |= dict(re.findall(r"export (\w+)=(.*)", up.stdout))

    def run(*command: str, cwd: Path | None = None, limit: int = 240) -> str:
        done = subprocess.run(
            command, cwd=cwd, env=os.environ | ours, capture_output=True, text=True, timeout=limit
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    yield run
    subprocess.run([str(HERE / "down"), str(folder)], check=True)


def recipe(heading: str, number: int = 0) -> str:
    """A code block of docs/clusters.md."""
    section = RECIPES.split(f"## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"```bash\n(.*?)```", section, re.DOTALL)[number]


def script(tmp_path: Path, *arguments: str, ranks: int) -> str:
    """The recipe's job script, on one node without GPUs, for the training of a test."""
    text = (
        recipe("Slurm")
        .replace("--nodes=2", "--nodes=1")
        .replace("--ntasks-per-node=4", f"--ntasks-per-node={ranks}")
    )
    text = re.sub(r"#SBATCH --(gpus-per-node|cpus-per-task)=.*\n", "", text)
    own = "trainer=ddp trainer.num_nodes=2 trainer.devices=4"
    assert own in text
    device = ["trainer=ddp", "trainer.accelerator=cpu", f"trainer.devices={ranks}"] if ranks > 1 else []
    text = text.replace(
        "python train.py " + own, shlex.join(["python", str(ROOT / "train.py"), *device, *arguments])
    )
    path = tmp_path / "train.sh"
    path.write_text(text)
    return str(path)


def submit(slurm: Slurm, tmp_path: Path, *arguments: str, ranks: int = 1) -> tuple[str, Path]:
    """The id and the folder of a submitted job."""
    path = script(tmp_path, *arguments, ranks=ranks)
    job = slurm("sbatch", "--parsable", path, cwd=tmp_path).strip()
    folder: list[Path] = []
    wait(lambda: folder.extend(tmp_path.glob(f"outputs/smoke/slurm-{job}-*")) or folder)
    return job, folder[0]


def wait(what: Callable[[], object], seconds: float = 120) -> None:
    limit = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < limit
        time.sleep(0.05)


def shown(slurm: Slurm, job: str, key: str) -> str:
    found = re.search(rf"\b{key}=(\S+)", slurm("scontrol", "show", "job", job))
    assert found
    return found[1]


def end(slurm: Slurm, tmp_path: Path, job: str) -> str:
    """How a job ended, once it has, and what it wrote."""
    wait(lambda: shown(slurm, job, "JobState") not in ("PENDING", "RUNNING", "COMPLETING"), 180)
    return shown(slurm, job, "JobState") + "\n" + (tmp_path / f"slurm-{job}.out").read_text()


def test_two_ranks_share_one_folder_and_are_one_process(
    slurm: Slurm, command: Command, tmp_path: Path
) -> None:
    job, folder = submit(slurm, tmp_path, *TINY, "data.batch_size=2", ranks=2)
    assert end(slurm, tmp_path, job).startswith("COMPLETED")
    assert [path.name for path in (tmp_path / "outputs" / "smoke").iterdir()] == [folder.name]
    assert len(list(folder.glob("csv/*"))) == 1
    assert command("train", *TINY, "data.batch_size=4", "hydra.run.dir=alone").status == 0
    assert read_record(folder).result == pytest.approx(read_record(tmp_path / "alone").result, abs=1e-4)


@pytest.mark.parametrize("reason", ["preempted", "out of time"])
@pytest.mark.parametrize("ranks", [pytest.param(1, marks=pytest.mark.thorough), 2])
def test_a_requeued_job_ends_like_an_undisturbed_one(
    slurm: Slurm, command: Command, tmp_path: Path, reason: str, ranks: int
) -> None:
    arguments = (*LONG, "data.batch_size=2")
    job, folder = submit(slurm, tmp_path, *arguments, ranks=ranks)
    wait((folder / "checkpoints" / "last.ckpt").exists)
    if reason == "preempted":
        slurm("sbatch", "--partition=high", "--exclusive", "--wrap", "sleep 1", cwd=tmp_path)
    else:
        slurm("scancel", "--signal=USR1", job)
    wait(lambda: shown(slurm, job, "Restarts") == "1")
    stopped = state(folder / "checkpoints" / "last.ckpt")["global_step"]
    assert 0 < stopped < 150
    written = end(slurm, tmp_path, job)
    assert written.startswith("COMPLETED"), written
    assert f"after step {stopped}, which is saved; the job is in the queue again" in written
    assert "Traceback" not in written
    assert len(list(folder.glob("csv/*"))) == 2
    whole = command("train", *LONG, f"data.batch_size={2 * ranks}", "hydra.run.dir=whole")
    assert whole.status == 0, whole.err
    if ranks == 1:
        assert_same_end(tmp_path / "whole", folder)
    else:
        assert state(folder / "checkpoints" / "last.ckpt")["global_step"] == 150
        assert read_record(folder).result == pytest.approx(read_record(tmp_path / "whole").result, abs=1e-3)


def test_a_cancelled_job_saves_and_stays_cancelled(slurm: Slurm, tmp_path: Path) -> None:
    job, folder = submit(slurm, tmp_path, *LONG)
    wait((folder / "checkpoints" / "last.ckpt").exists)
    slurm("scancel", job)
    assert end(slurm, tmp_path, job).startswith("CANCELLED")
    assert read_record(folder).state == "stopped"
    time.sleep(8)
    assert shown(slurm, job, "JobState") == "CANCELLED"


def test_a_rank_that_fails_ends_the_job(slurm: Slurm, tmp_path: Path) -> None:
    job, folder = submit(slurm, tmp_path, *LONG, "trainer.max_epochs=1000", ranks=2)
    wait((folder / "checkpoints" / "last.ckpt").exists)
    found = subprocess.run(
        ["pgrep", "-f", str(ROOT / "train.py")], capture_output=True, text=True
    ).stdout.split()
    second = [
        pid for pid in found if b"SLURM_PROCID=1" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    ]
    subprocess.run(["kill", "-KILL", *second], check=True)
    began = time.monotonic()
    assert end(slurm, tmp_path, job).startswith("FAILED")
    assert time.monotonic() - began < 60


def test_a_sweep_runs_each_job_once_on_two_ranks(slurm: Slurm, command: Command, tmp_path: Path) -> None:
    sweep = (*TINY, *RANKS, ONE_EACH, "seed=0,1,2")
    text = recipe("Slurm", 1)
    assert "launcher=slurm" in text
    slurm(sys.executable, str(ROOT / "train.py"), "-m", "launcher=slurm", *sweep, cwd=tmp_path, limit=400)
    assert_each_job_once(tmp_path / "sweep", command)


def test_a_job_of_a_sweep_that_is_out_of_time_is_requeued_alone(
    slurm: Slurm, command: Command, tmp_path: Path
) -> None:
    sweep = ("-m", "launcher=slurm", *LONG, *RANKS, ONE_EACH, "seed=0,1")
    folder, first = tmp_path / "sweep" / "seed-1", tmp_path / "sweep" / "seed-0"
    with ThreadPoolExecutor(1) as pool:
        given = (sys.executable, str(ROOT / "train.py"), *sweep)
        done = pool.submit(lambda: slurm(*given, cwd=tmp_path))
        wait(lambda: done.done() or (folder / "checkpoints" / "last.ckpt").exists())
        # Slurm gives the last job of an array the number of the array, too.
        (pickled,) = (tmp_path / "sweep" / ".submitit").glob("*_1/*_submitted.pkl")
        array = pickled.parent.name.split("_")[0]
        slurm("scancel", "--signal=USR2", f"{array}_1")
        wait(lambda: shown(slurm, f"{array}_1", "Restarts") == "1")
        stopped = state(folder / "checkpoints" / "last.ckpt")["global_step"]
        done.result()
    assert 0 < stopped < 150
    assert "the job is in the queue again" in (folder / "train.log").read_text()
    assert shown(slurm, f"{array}_0", "Restarts") == "0"
    assert len(list(first.glob("csv/*"))) == 1
    assert len(list(folder.glob("csv/*"))) == 2
    whole = command("train", *LONG, "seed=1", "data.batch_size=4", "hydra.run.dir=whole")
    assert whole.status == 0, whole.err
    assert state(folder / "checkpoints" / "last.ckpt")["global_step"] == 150
    assert read_record(folder).result == pytest.approx(read_record(tmp_path / "whole").result, abs=1e-3)


def test_an_interrupted_sweep_says_that_its_jobs_go_on(slurm: Slurm, tmp_path: Path) -> None:
    given = (*LONG, ONE_EACH, "seed=0,1")
    log = tmp_path / "log"
    script = tmp_path / "sweep.sh"
    script.write_text(
        shlex.join([sys.executable, str(ROOT / "train.py"), "-m", "launcher=slurm", *given])
        + f" >{log} 2>&1 & until [[ -e sweep/seed-0/job.json ]]; do sleep 0.2; done; kill -TERM $!; wait $! || true"
    )
    slurm("bash", str(script), cwd=tmp_path)
    last = log.read_text().splitlines()[-1]
    assert last.startswith(
        "stopped by SIGTERM; the jobs that Slurm has go on, see squeue and scancel; the same"
    )
    jobs = slurm("squeue", "--noheader", "--format=%i").split()
    assert jobs
    slurm("scancel", *jobs)
