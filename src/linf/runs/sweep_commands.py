"""The commands that run a sweep: whether one lives, and how many jobs it will have."""

import itertools
import os
import shutil
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig

from linf.files import atomic_write
from linf.locks import owner, run_lock

_FOLDER = ".sweep"


@contextmanager
def sweep_command(sweep: Path, jobs: int | None) -> Iterator[None]:
    """Let others see during the block, or until this process ends, that it runs jobs in a sweep's folder.

    Args:
        sweep: The folder; several commands may run in it.
        jobs: The number of jobs that the command runs; None if it is not known.
    """
    folder = sweep / _FOLDER
    for left in folder.glob("*-*"):  # By commands that were killed.
        if owner(left) is None:
            shutil.rmtree(left, ignore_errors=True)
    own = folder / f"{socket.gethostname()}-{os.getpid()}"
    with run_lock(own):
        if jobs is not None:
            with atomic_write(folder / "jobs") as part:
                part.write_text(f"{jobs}\n")
        yield
    shutil.rmtree(own, ignore_errors=True)


def is_commanded(sweep: Path) -> bool:
    """Tell whether a command lives that runs jobs in a sweep's folder."""
    return any(owner(own) for own in (sweep / _FOLDER).glob("*-*"))


def expected_jobs(sweep: Path) -> int:
    """Return the number of jobs of the last command in a sweep's folder; 0 if it is not known."""
    with suppress(OSError, ValueError):
        return int((sweep / _FOLDER / "jobs").read_text())
    return 0


def count_jobs(config: DictConfig) -> int | None:
    """Return the number of jobs that Hydra's sweeper, or a search, makes of a command; None if that is not known."""
    sweeper = config.hydra.sweeper
    if "trials" in sweeper:
        return sweeper.trials if isinstance(sweeper.trials, int) else None
    return len(jobs) if (jobs := list_jobs(config)) else None


def list_jobs(config: DictConfig) -> list[list[str]]:
    """Return the settings of each job that Hydra's sweeper makes of a command; none if they are not known."""
    sweeper = config.hydra.sweeper
    params = [f"{key}={value}" for key, value in (sweeper.get("params") or {}).items()]
    try:
        given = OverridesParser.create().parse_overrides([*params, *config.hydra.overrides.task])
        values = {each.get_key_element(): list(_values(each)) for each in given}
    except HydraException:  # For instance a glob, which only Hydra's own loader resolves.
        return []
    jobs = itertools.product(*values.values())
    return [[f"{key}={value}" for key, value in zip(values, job, strict=True)] for job in jobs]


def _values(setting: Override) -> Iterable[str]:
    """Return what a setting takes in turn, as text."""
    return (
        setting.sweep_string_iterator()
        if setting.is_sweep_override()
        else [setting.get_value_element_as_str()]
    )
