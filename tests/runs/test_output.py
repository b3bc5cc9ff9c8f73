"""Printing that fails costs no work: the run goes on, and its record says finished."""

import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from helpers.paths import ROOT
from linf.runs.record import read_record
from linf.runs.terminal import LogFile, log_warnings

EVALUATION = (
    "model=bicubic",
    "data=folder",
    "data.test_scales=[2]",
    "metrics=fidelity",
    "temperatures=[0]",
    "hydra.run.dir=run",
)


@pytest.fixture
def here(tmp_path: Path, photos: Path) -> Path:
    (tmp_path / "photos").symlink_to(photos)
    return tmp_path


def shell(command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which ``$python`` is this Python; its status is that of the first command in a pipe."""
    return subprocess.run(
        ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"],
        cwd=cwd,
        env=os.environ | {"python": sys.executable} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_log_that_cannot_be_written_is_told_once(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    file = LogFile("/dev/full")
    for _ in range(2):
        file.handle(logging.makeLogRecord({"msg": "a line"}))
    assert caplog.messages == ["/dev/full is incomplete: No space left on device"]
    assert capsys.readouterr().err == "", "and no traceback"


def test_loading_processes_beyond_the_cores_are_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    with warnings.catch_warnings():
        log_warnings()
        heard = list[str]()
        warnings.showwarning = lambda message, *_: heard.append(str(message))
        warnings.warn("another", stacklevel=1)
        DataLoader(TensorDataset(torch.zeros(1)), num_workers=2)
    assert heard == ["another"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "where",
    [
        "| cat",
        *(
            pytest.param(p, marks=pytest.mark.thorough)
            for p in ("| true", ">/dev/full", ">/dev/full 2>&1", ">&- 2>&- <&-")
        ),
    ],
)
def test_an_evaluation_is_finished_wherever_it_prints(here: Path, where: str) -> None:
    line = f"$python {ROOT}/eval.py {' '.join(EVALUATION)} data.root=photos {where}"
    # The last two keep Python from taking UTF-8 in this locale by itself.
    ascii_alone = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = shell(line, here, **ascii_alone)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert read_record(here / "run").state == "finished"
    assert (here / "run" / "metrics.json").is_file()
    if where == "| cat":
        assert "bicubic" in done.stdout
    if where == ">/dev/full":
        assert done.stderr.count("cannot print to stdout: No space left on device") == 1


@pytest.mark.thorough
def test_a_file_named_in_another_encoding(here: Path) -> None:
    (here / "other").mkdir()
    (here / "other" / os.fsdecode(b"\xff.png")).write_bytes(next((here / "photos").iterdir()).read_bytes())
    done = shell(f"$python {ROOT}/eval.py {' '.join(EVALUATION)} data.root=other", here)
    assert done.returncode == 0, done.stderr
    assert "\\xff" in (here / "run" / "images.csv").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "where", "status", "words"),
    [
        ("info {model}", ">/dev/full", 1, "cannot print to stdout: No space left on device"),
        pytest.param("info {model}", "| true", 0, "", marks=pytest.mark.thorough),
        pytest.param("info {model}", ">&-", 0, "", marks=pytest.mark.thorough),
        ("info {model} {model}", "2>/dev/full", 2, ""),
        ("weights list", "| true", 0, ""),
        pytest.param(
            "upscale photos/astronaut.png --scale 2 --model bicubic --out -",
            ">&-",
            2,
            "stdout is closed",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_linf_ends_in_good_order(
    here: Path, checkpoint: Path, arguments: str, where: str, status: int, words: str
) -> None:
    done = shell(f"$python -m linf {arguments.format(model=checkpoint)} {where}", here)
    assert (done.returncode, "Traceback" in done.stderr) == (status, False)
    assert words in done.stderr


@pytest.mark.thorough
def test_upscale_goes_on_without_stdout(here: Path) -> None:
    done = shell("$python -m linf upscale photos --scale 2 --model bicubic --out out >/dev/full", here)
    assert done.returncode == 1
    assert len(list((here / "out").iterdir())) == 2


IN_UTF8 = """
import os, sys
from linf.runs.output import use_utf8
use_utf8()
print(sys.getfilesystemencoding(), sys.stdout.encoding, os.fsencode(sys.argv[1]))
"""


def test_a_command_names_files_in_utf8_in_every_locale() -> None:
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environment.pop("PYTHONIOENCODING", None)
    command = [sys.executable, "-c", IN_UTF8, b"\xff"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "utf-8 ascii b'\\xff'\n"), done.stderr


CODE = """
import sys
from linf.runs.output import lost_output, protect_output
protect_output()
protect_output()
print("τ=0.8 \\udcff 写", "é")
print("to stderr: τ", file=sys.stderr)
sys.stdout.writelines(["a", "×\\n"])
assert lost_output() is None
assert sys.stdout.encoding and sys.stdout.fileno() == 1
"""


@pytest.mark.parametrize(
    ("encoding", "out"),
    [("ascii", "\\u03c4=0.8 \\udcff \\u5199 \\xe9\na\\xd7\n"), ("utf-8", "τ=0.8 \\udcff 写 é\na×\n")],
)
def test_characters_that_an_encoding_lacks_are_escaped(tmp_path: Path, encoding: str, out: str) -> None:
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout.decode()) == (0, out)
