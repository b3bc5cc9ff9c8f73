"""A search whose study is in PostgreSQL: a real server on loopback, several workers, one of them killed."""

import getpass
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from optuna.samplers import TPESampler
from optuna.trial import TrialState

from helpers.commands import start, wait_for
from helpers.runs import TINY
from helpers.warm import WarmProcess
from linf.errors import UsageError
from linf.runs.search.space import space
from linf.runs.search.study import Search
from linf.runs.search.trial import open_storage

PASSWORD = "not-in-any-record"


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """The URL of a database on a PostgreSQL server of our own, whose password is in PGPASSFILE as clusters.md says."""
    pytest.importorskip("psycopg", reason="needs psycopg: pip install 'linf[postgres]'")
    paths = [os.environ["PATH"], *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True))]
    tools = [shutil.which(name, path=os.pathsep.join(paths)) for name in ("initdb", "pg_ctl")]
    if None in tools:
        pytest.skip("needs a PostgreSQL server: apt-get install postgresql")
    initdb, pg_ctl = map(str, tools)
    # The server refuses to run as root, and another user cannot enter pytest's folders.
    user = "nobody" if os.getuid() == 0 else getpass.getuser()
    folder = Path(tempfile.mkdtemp(prefix="linf-postgres-"))
    data, password, passwords = folder / "data", folder / "password", folder / "pgpass"
    password.write_text(PASSWORD)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    passwords.write_text(f"127.0.0.1:{port}:*:linf:{PASSWORD}\n")
    passwords.chmod(0o600)
    as_user: dict[str, object] = {"cwd": folder, "capture_output": True, "text": True, "timeout": 120}
    if os.getuid() == 0:
        for path in (folder, password):
            shutil.chown(path, user)
        as_user["user"] = user

    def run(*command: str) -> None:
        done = subprocess.run(command, **as_user)  # type: ignore[call-overload]
        assert done.returncode == 0, done.stdout + done.stderr

    run(
        initdb,
        "-D",
        str(data),
        "-U",
        "linf",
        "-A",
        "scram-sha-256",
        f"--pwfile={password}",
        "-N",
        "-E",
        "UTF8",
    )
    options = f"-c listen_addresses=127.0.0.1 -p {port} -k {folder} -c fsync=off"
    run(pg_ctl, "-D", str(data), "-o", options, "-l", str(folder / "log"), "-w", "start")
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PGPASSFILE", str(passwords))
            yield f"postgresql://linf@127.0.0.1:{port}/postgres"
    finally:
        run(pg_ctl, "-D", str(data), "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder)


def claimed(sweep: Path, worker: WarmProcess) -> int:
    """The number of the trial that a worker runs, once it does."""
    limit = time.monotonic() + 120
    while time.monotonic() < limit:
        for claim in sweep.glob(".search/trial_*/.lock"):
            if f"process {worker.pid} on" in claim.read_text():
                return int(claim.parent.name.removeprefix("trial_"))
        time.sleep(0.01)
    raise AssertionError(worker.communicate(timeout=1)[1])


@pytest.mark.slow
def test_workers_share_a_study_in_postgresql_and_a_killed_ones_trial_goes_on(
    postgres: str, tmp_path: Path, alexnet: Path
) -> None:
    given = ("sweep=search", *TINY, "hydra.sweep.dir=sweep", "model.conditioner.width=8", "task.loss.l1=0")
    given += (
        f"callbacks.lpips.weights={alexnet}",
        f"hydra.sweeper.storage={postgres}",
        "hydra.sweeper.trials=4",
    )
    workers = [start(*given, "trainer.max_epochs=6", cwd=tmp_path) for _ in range(3)]
    sweep = tmp_path / "sweep"
    number = claimed(sweep, workers[0])
    study = optuna.load_study(study_name="search", storage=open_storage(postgres))
    before = study.trials[number].params
    wait_for(sweep / f"trial_{number:04d}" / "checkpoints" / "last.ckpt", workers[0])
    workers[0].kill()
    workers[0].wait()
    took = []
    for worker in workers[1:]:
        out, errors = worker.communicate(timeout=300)
        assert worker.returncode == 0, errors
        took += re.findall(r"trial (\d+) finished", out)
    assert len(set(took)) == len(took), "no trial was run twice"
    assert str(number) in took, "the killed one's"
    after = study.trials
    assert [trial.state for trial in after] == [TrialState.COMPLETE] * 4
    assert after[number].params == before
    starts = [len(list(sweep.glob(f"trial_{n:04d}/csv/*"))) for n in range(4)]
    assert starts == [2 if n == number else 1 for n in range(4)], "it went on from its checkpoint"
    for path in sweep.rglob("*"):
        assert path.is_dir() or PASSWORD.encode() not in path.read_bytes(), path


@pytest.mark.slow
def test_a_connection_that_the_server_closed_is_made_anew(postgres: str, tmp_path: Path) -> None:
    found = Search(
        tmp_path,
        storage=postgres,
        study="idle",
        objectives={"val/psnr": "maximize", "val/lpips": "minimize"},
        space=space({"task.optimizer.lr": {"low": 1e-5, "high": 1e-3}}),
        sampler=TPESampler,
        trials=1,
    )
    with found.taken(1) as trials:
        engine = sqlalchemy.create_engine(postgres.replace("postgresql", "postgresql+psycopg"))
        with engine.connect() as other:
            others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            others += " AND usename = 'linf'"
            assert other.execute(sqlalchemy.text(others)).all()
        engine.dispose()
        for number in trials:
            found.tell(number, {"val/psnr": 28.0, "val/lpips": 0.2})
    assert list(found.table()["state"]) == ["finished"]


@pytest.mark.slow
def test_a_server_that_refuses_is_told_without_the_password(postgres: str) -> None:
    for url in (postgres.replace("linf@", "linf:wrong@"), postgres.replace("/postgres", "/nowhere")):
        with pytest.raises(
            UsageError, match=r"cannot be opened: .*(authentication failed|does not exist)"
        ) as told:
            open_storage(url)
        assert "wrong@" not in str(told.value)
