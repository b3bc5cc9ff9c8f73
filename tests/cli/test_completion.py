"""`linf` by itself, its version, and what TAB completes."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from helpers.commands import Linf


def test_linf_alone_prints_its_help(run: Linf) -> None:
    alone = run()
    assert alone.status == 0
    assert alone == run("--help")


def test_the_version_is_that_of_the_package(run: Linf) -> None:
    assert run("--version").out == f"linf {version('linf')}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_what_a_shell_needs_is_printed(run: Linf, shell: str) -> None:
    done = run("completion", shell)
    assert done.status == 0
    assert "linf" in done.out
    if shell == "bash":
        code = f"{done.out}\ncomplete -p linf"
        assert b" linf" in subprocess.run(["bash", "-c", code], capture_output=True, check=True).stdout


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("linf ups", {"upscale "}),
        ("linf upscale a.png --dry", {"--dry-run "}),
        ("linf train data/deg", {"data/degradation="}),
        ("linf train -m encoder=rdn", {"rdn", "rdn_tiny"}),
        ("linf eval --config-dir own encoder=mi", {"mine "}),
    ],
)
def test_commands_options_and_settings_are_completed(tmp_path: Path, line: str, expected: set[str]) -> None:
    """A shell asks by variables, and reads the answer from file 8."""
    (tmp_path / "own" / "encoder").mkdir(parents=True)
    (tmp_path / "own" / "encoder" / "mine.yaml").touch()
    asked = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n",
        "_ARGCOMPLETE_COMP_WORDBREAKS": " \t\n\"'@><=;|&(:",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
    }
    done = subprocess.run(
        ["bash", "-c", f"'{sys.executable}' -m linf 8>&1 9>/dev/null"],
        cwd=tmp_path,
        env=os.environ | asked,
        capture_output=True,
        text=True,
    )
    assert set(done.stdout.split("\n")) == expected
