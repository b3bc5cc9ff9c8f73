"""Folders and machines that refuse: no home, no user, what is read-only or another's, file systems without locks."""

import errno
import fcntl
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from helpers.commands import Command, assert_in_words
from helpers.images import write
from helpers.paths import ROOT
from helpers.runs import SMOKE, TINY
from linf import locks
from linf.data.cache import ImageCache
from linf.errors import UsageError
from linf.files import cache_folder, temporary_cache
from linf.images.read import read_image
from linf.locks import lock, owner, run_lock
from linf.runs.folders import Folders, present
from linf.runs.record import JobRecord, read_record, write_record
from linf.runs.sweep_commands import sweep_command

STRANGER = 54321
"""A user that no machine knows."""
EVALUATION = ("model=bicubic", "data=folder", "data.test_scales=[2]", "metrics=fidelity", "temperatures=[0]")

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def place(photos: Path) -> Iterator[Path]:
    """A folder that every user may write to, unlike pytest's, with photographs, a read-only folder and a file."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(photos, folder / "photos")
        (folder / "photos").chmod(0o755)
        (folder / "readonly").mkdir()
        (folder / "file").touch()
        folder.chmod(0o777)
        yield folder
        shutil.rmtree(folder / f"linf-{STRANGER}", ignore_errors=True)


@pytest.fixture
def stranger(place: Path) -> Run:
    """``stranger("eval", …)`` runs ``eval.py`` or ``linf`` in `place` as a user without a name and a home."""
    if os.geteuid() or shutil.which("setpriv") is None:
        pytest.skip("only root, with setpriv, can be another user")
    other = ["setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups"]
    environment = {
        key: os.environ[key] for key in os.environ if key not in ("HOME", "LINF_CACHE", "TORCH_HOME")
    }
    environment |= {"TMPDIR": str(place), "PYTHONPATH": str(ROOT / "src")}

    def run(script: str, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = ["-m", "linf"] if script == "linf" else [str(ROOT / f"{script}.py")]
        return subprocess.run(
            [*other, sys.executable, *command, *arguments],
            cwd=place,
            env=environment | more,
            capture_output=True,
            text=True,
            timeout=120,
        )

    if run("linf", "--help").returncode:
        pytest.skip("another user cannot read these files")
    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    "home", [None, *(pytest.param(home, marks=pytest.mark.thorough) for home in ("/nowhere", "/"))]
)
def test_a_user_without_name_and_home_evaluates(place: Path, stranger: Run, home: str | None) -> None:
    given = {} if home is None else {"HOME": home}
    done = stranger("eval", *EVALUATION, "data.root=photos", "hydra.run.dir=run", **given)
    assert done.returncode == 0, done.stderr
    assert read_record(place / "run").state == "finished"
    assert list(place.glob(f"linf-{STRANGER}/images/*.pixels"))
    assert ("the image cache" in done.stdout + done.stderr) == (home is not None)


@pytest.mark.slow
def test_a_user_without_home_has_a_place_for_weights(stranger: Run, place: Path) -> None:
    done = stranger("linf", "weights", "list")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(f"kept in {place}/linf-{STRANGER}/weights\n")
    done = stranger("linf", "upscale", "photos", "--scale=2", "--model=~/a.ckpt")
    assert_in_words(done.returncode, done.stdout, done.stderr, "this user has no home", "HOME")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        (
            "hydra.run.dir=readonly",
            "cannot write to readonly: Permission denied; choose another folder with hydra.run",
        ),
        ("hydra.run.dir=readonly/run", "Permission denied"),
        ("hydra.run.dir=file", "cannot write to file: it is a file"),
        ("hydra.run.dir=file/run", "Not a directory"),
    ],
)
def test_a_run_folder_that_refuses_is_one_line(stranger: Run, setting: str, words: str) -> None:
    done = stranger("train", *SMOKE, setting)
    assert_in_words(done.returncode, done.stdout, done.stderr, words, "hydra.run.dir=…")


def test_a_sweep_folder_that_refuses_is_one_line(stranger: Run, command: Command, tmp_path: Path) -> None:
    done = stranger("train", "-m", *SMOKE, "seed=0,1", "hydra.sweep.dir=readonly")
    assert_in_words(done.returncode, done.stdout, done.stderr, "Permission denied", "hydra.sweep.dir=…")
    (tmp_path / "file").touch()
    done = command("train", "-m", *SMOKE, "seed=0,1", "hydra.sweep.dir=file")
    assert_in_words(done.status, done.out, done.err, "it is a file", "hydra.sweep.dir=…")


@pytest.mark.slow
def test_a_job_whose_folder_refuses_does_not_stop_the_others(command: Command, tmp_path: Path) -> None:
    (tmp_path / "sweep" / "seed-0").mkdir(parents=True)
    (tmp_path / "sweep" / "seed-0" / "job.json").mkdir()
    done = command("train", "-m", *TINY, "seed=0,1", "hydra.sweep.dir=sweep")
    assert done.status == 1
    assert read_record(tmp_path / "sweep" / "seed-1").state == "finished"


@pytest.mark.thorough
def test_other_files_that_refuse_are_one_line(stranger: Run, place: Path, checkpoint: Path) -> None:
    secret = place / "secret.safetensors"
    shutil.copy(checkpoint, secret)
    secret.chmod(0o600)
    done = stranger("linf", "info", secret.name)
    assert_in_words(done.returncode, done.stdout, done.stderr, "secret.safetensors", "Permission denied")
    done = stranger("linf", "convert", "default", "readonly/x.pth")
    assert_in_words(done.returncode, done.stdout, done.stderr, "readonly", "Permission denied")


@pytest.mark.thorough
def test_the_status_of_a_colleagues_sweep(stranger: Run, place: Path) -> None:
    for seed, job in enumerate((JobRecord("finished", result={"val/psnr": 30.5}), JobRecord("running"))):
        job.began = "2026-01-01T00:00:00"
        write_record(place / "readonly" / f"seed-{seed}", job)
    with run_lock(place / "readonly" / "seed-1"):
        done = stranger("linf", "sweep", "status", "readonly")
    assert done.returncode == 0, done.stderr
    assert "30.5" in done.stdout
    assert "running" in done.stdout
    assert "no sweep.csv and sweep.png: cannot write to readonly: Permission denied" in done.stdout
    assert "1 of 2 finished" in done.stdout
    (place / "readonly" / "seed-1" / ".lock").chmod(0o600)
    (place / "readonly" / "seed-0" / "job.json").chmod(0o600)
    done = stranger("linf", "sweep", "status", "readonly")
    assert "running" in done.stdout
    assert "seed-0/job.json cannot be read: Permission denied" in done.stdout


# Caches


def test_caches_without_a_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def homeless(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("LINF_CACHE")
    monkeypatch.setattr(Path, "expanduser", homeless)
    assert cache_folder() == tmp_path / f"linf-{os.getuid()}"
    assert cache_folder().stat().st_mode & 0o777 == 0o700
    temporary_cache().rmdir()
    (tmp_path / "elsewhere").mkdir()
    temporary = tmp_path / f"linf-{os.getuid()}"
    temporary.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="another user's"):
        cache_folder()


def test_a_read_only_cache_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, photos: Path) -> None:
    paths = sorted(photos.iterdir())
    there = ImageCache(paths, cache_dir=tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(tmp_path))

    monkeypatch.setattr("linf.files.os.fsync", refuse)
    monkeypatch.setattr(Path, "mkdir", refuse)
    assert ImageCache(paths, cache_dir=tmp_path).file == there.file


# Locks


@pytest.fixture(
    params=["ENOSYS", *(pytest.param(name, marks=pytest.mark.thorough) for name in ("ENOLCK", "EOPNOTSUPP"))]
)
def without_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        number = getattr(errno, request.param)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(fcntl, "lockf", refuse)
    monkeypatch.setattr(locks, "_without_locks", set())


@pytest.mark.usefixtures("without_locks")
def test_without_locks_a_run_goes_on_with_one_warning(command: Command, tmp_path: Path, photos: Path) -> None:
    given = (*EVALUATION, f"data.root={photos}", f"data.cache_dir={tmp_path}", "hydra.run.dir=run")
    done = command("eval", *given)
    assert done.status == 0, done.err
    assert (done.out + done.err).count("has no locks") == 1
    assert read_record(tmp_path / "run").state == "finished"


@pytest.mark.usefixtures("without_locks")
def test_without_locks_two_processes_may_build_a_cache_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [write(tmp_path / f"{n}.png", 10 + n, 20) for n in range(3)]
    expected, others = [read_image(path) for path in paths], list[ImageCache]()

    def read(path: Path) -> np.ndarray:
        monkeypatch.setattr("linf.images.pixels.read_image", read_image)  # For one image.
        others.append(ImageCache(paths, cache_dir=tmp_path))
        return read_image(path)

    monkeypatch.setattr("linf.images.pixels.read_image", read)
    caches = [ImageCache(paths, cache_dir=tmp_path), *others]
    caches[0].file.with_suffix(".other").write_bytes(bytes(5000))
    caches[0].file.with_suffix(".other").replace(caches[0].file)  # As of one whose images lie elsewhere.
    for cache in caches:
        assert all(map(np.array_equal, cache, expected))


@pytest.mark.usefixtures("without_locks")
def test_without_locks_the_owner_is_who_wrote_last(tmp_path: Path) -> None:
    with lock(tmp_path / "lock"), run_lock(tmp_path / "run"):
        assert str(os.getpid()) in (owner(tmp_path / "run") or "")
    assert owner(tmp_path / "run") is None
    ended = subprocess.Popen(["true"])
    ended.wait()
    text = (tmp_path / "run" / ".lock").write_text
    text(f"process {ended.pid} on {os.uname().nodename}")
    assert owner(tmp_path / "run") is None
    text("process 1 on elsewhere")
    assert owner(tmp_path / "run") == "process 1 on elsewhere"
    with run_lock(tmp_path / "run"):
        pass


def test_other_errors_of_locks_are_raised(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(OSError, match="broken"), lock(tmp_path / "lock"):
        pass


def test_jobs_of_other_processes_are_given_the_callback_without_the_command(tmp_path: Path) -> None:
    """As launchers do that start each job by itself: submitit's, on this machine and by Slurm."""
    folders = Folders()
    folders.command.enter_context(sweep_command(tmp_path, 2))
    of_a_job = pickle.loads(pickle.dumps(folders))
    of_a_job.on_multirun_end(None)
    assert list((tmp_path / ".sweep").glob("*-*"))
    folders.on_multirun_end(None)
    assert not list((tmp_path / ".sweep").glob("*-*"))


def test_an_error_in_a_folder_that_was_moved_says_so(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(FileNotFoundError), run_lock(folder), present(folder):
        (folder / "missing").read_text()
    with run_lock(folder):
        folder.rename(tmp_path / "elsewhere")
        with pytest.raises(UsageError, match="was moved or deleted"), present(folder):
            (folder / "csv").write_text("")
