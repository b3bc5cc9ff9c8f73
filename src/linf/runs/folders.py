"""The folders of runs and sweeps: their names, and whether they can be written to, before anything is done."""

import errno
import os
import re
import shlex
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, ListConfig, OmegaConf, read_write
from omegaconf.errors import OmegaConfBaseException

from linf.errors import Mistake, UsageError
from linf.files import expand_home, folder_errors
from linf.locks import LOCK
from linf.runs import ranks
from linf.runs.command_line import quoted
from linf.runs.sweep_commands import count_jobs, list_jobs, sweep_command

BY_COMMAND = {f"hydra{dot}job.{name}" for dot in ".:" for name in ("id", "num", "override_dirname")}
"""What a job of a sweep is named by that its command alone says, without its other settings."""


@contextmanager
def present(folder: Path) -> Iterator[None]:
    """Raise UsageError in place of an error that comes of a run's folder having been moved or deleted."""
    try:
        yield
    except (OSError, UsageError) as error:
        if (folder / LOCK).exists():
            raise
        raise UsageError(
            f"{folder} was moved or deleted while the run was writing to it; if it was moved, the same command with "
            "hydra.run.dir=… goes on from what is there"
        ) from error


class Folders(Callback):
    """Hydra's callback at the start of a run or sweep.

    Hydra turns an ordinary exception of a callback into a warning, so a user's mistake is raised as `Mistake`.
    """

    def __init__(self) -> None:
        self.command = ExitStack()  # Open until the process ends if the sweep is cut short.

    def __reduce__(self) -> tuple[type["Folders"], tuple[()]]:
        # Launchers of other processes pickle it with each job, and the command is not theirs to end.
        return Folders, ()

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Make the run's folder."""
        _make(config, "hydra.run.dir")

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Make the sweep's folder, which `linf.runs.entry` then knows; name its jobs' by the settings that differ."""
        if ranks.started_by_torchrun():
            raise Mistake(
                UsageError("a sweep starts the ranks of its jobs by itself: run it without torchrun")
            )
        _check_tasks(config)
        given = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
        swept = {override.key_or_group for override in given if override.is_sweep_override()}
        constant = {override.key_or_group for override in given} - swept
        excluded = sorted(constant | {"name", "sweep"})
        setting = "hydra.job.config.override_dirname.exclude_keys"
        OmegaConf.update(config, setting, excluded)
        config.hydra.overrides.hydra.append(f"{setting}=[{','.join(excluded)}]")
        _make(config, "hydra.sweep.dir")
        HydraConfig.instance().set_config(config)
        if "trials" not in config.hydra.sweeper:  # A search numbers its folders.
            _check_own_folders(config)
        with suppress(OmegaConfBaseException):  # As in `_make`.
            self.command.enter_context(sweep_command(Path(config.hydra.sweep.dir), count_jobs(config)))

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Let others see that the sweep's command has ended."""
        self.command.close()


def _make(config: DictConfig, setting: str) -> None:
    try:
        given = _named(config, setting)
    except OmegaConfBaseException:  # Hydra comes upon the same error, and is heard with it.
        return
    try:
        folder = expand_home(given)
        if setting == "hydra.sweep.dir":
            folder = os.path.abspath(folder)  # Jobs look for it, too, some from a folder of their own.
        with folder_errors(Path(folder), setting):
            _made[:] = [path for path in (Path(folder), *Path(folder).parents) if not path.exists()]
            Path(folder).mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), folder)
    except UsageError as error:
        raise Mistake(error) from error
    # The jobs of a sweep are composed anew; one with a name of its own, as experiments have, stays in the folder.
    if folder != given or setting == "hydra.sweep.dir":
        with read_write(config.hydra):
            OmegaConf.update(config, setting, folder)
            config.hydra.overrides.hydra.append(f"{setting}={quoted(folder)}")


_made: list[Path] = []  # For the latest run or sweep of this process, from its folder upwards.


def remove_unused() -> None:
    """Remove the folders that were made for a run or sweep that never began, if they hold no more than its log."""
    with suppress(OSError):
        for folder in _made:
            held = list(folder.iterdir())
            if [path.suffix for path in held] == [".log"]:
                held[0].unlink()
            folder.rmdir()


def _named(config: DictConfig, setting: str) -> str:
    """Return the folder that a setting names, which may ask for Hydra's settings."""
    before = HydraConfig.instance().cfg
    try:
        HydraConfig.instance().set_config(config)
        return str(OmegaConf.select(config, setting, throw_on_missing=True))
    finally:
        HydraConfig.instance().cfg = before


def _check_own_folders(config: DictConfig) -> None:
    """Raise Mistake if two jobs of a sweep have one folder: the second would go on with the training of the first."""
    owners: dict[str, list[str]] = {}
    loader, parser = GlobalHydra.instance().config_loader(), OverridesParser.create()
    sweep: Any = OmegaConf.to_container(config.hydra.sweep)
    # Composing takes 0.2 s a job, and is needed only for folders that are named by more than the command.
    by_command = set(re.findall(r"\$\{([^${}]+)\}", str(sweep["subdir"]))) <= BY_COMMAND
    composed = config.copy()
    for number, job in enumerate(list_jobs(config)):
        try:
            if not by_command:
                composed = loader.load_sweep_config(config, job)
            with read_write(composed.hydra):  # As Hydra and launchers do.
                composed.hydra.job.num = composed.hydra.job.id = number
                named = composed.hydra.job.config.override_dirname
                given = [of for of in parser.parse_overrides(job) if not of.is_hydra_override()]
                words = sorted(
                    str(of.input_line) for of in given if of.key_or_group not in named.exclude_keys
                )
                composed.hydra.job.override_dirname = named.item_sep.join(words).replace("=", named.kv_sep)
            folder = _named(composed, "hydra.sweep.subdir")
        except (HydraException, OmegaConfBaseException):  # As in `_make`.
            return
        if (other := owners.setdefault(folder, job)) == job:
            continue
        ours, theirs = set(job) - set(other), set(other) - set(job)
        key = sorted(ours)[0].partition("=")[0].lstrip("+")
        place = f"hydra.runtime.choices.{key}" if key in composed.hydra.runtime.choices else key
        subdir = shlex.quote(f"hydra.sweep.subdir={sweep['subdir']}_${{{place}}}")
        raise Mistake(
            UsageError(
                f"two jobs, with {' '.join(sorted(theirs))} and with {' '.join(sorted(ours))}, have one folder, "
                f"{folder}, where the second would go on with what the first has done: give each its own, for "
                f"instance {subdir}"
            )
        )


def _check_tasks(config: DictConfig) -> None:
    """Raise Mistake if Slurm is to start a number of ranks that is no number, such as ``auto``."""
    for key, setting in (("tasks_per_node", "trainer.devices"), ("nodes", "trainer.num_nodes")):
        try:
            count = OmegaConf.select(config, f"hydra.launcher.{key}", default=1)
        except OmegaConfBaseException:
            count = 0
        if not (isinstance(count, int) and count > 0):
            given = OmegaConf.select(config, setting)
            raise Mistake(
                UsageError(
                    f"{setting} is {given}, and Slurm starts as many ranks: give their number, for instance {setting}=2"
                )
            )


def _folder_name(overrides: str) -> str:
    """Return overrides as the name of one folder, without slashes and no longer than file systems allow."""
    name = overrides.replace("/", "_").replace("'", "").replace('"', "") or "job"
    fits = len(name.encode(errors="surrogateescape")) <= 200
    return name if fits else f"{name[:190]}-{zlib.crc32(name.encode(errors='surrogateescape')):08x}"


def _job_name(folder: str) -> str:
    """Return the name of a run's folder, which is that of a sweep's job in its folder."""
    return Path(folder).name


def _sweep_name(folder: str) -> str | None:
    """Return the names of a sweep's folder and the one above; None for a run that is no job of a sweep."""
    # Hydra's mode is that of a single run in the ranks that a job of a sweep starts.
    sweep = Path(HydraConfig.get().sweep.dir).absolute()
    return "/".join(sweep.parts[-2:]) if sweep in Path(folder).absolute().parents else None


def _chosen(*groups: str) -> ListConfig:
    """Return what is chosen of these config groups, as tags, without those that are off."""
    choices = HydraConfig.get().runtime.choices
    return ListConfig(list(dict.fromkeys(str(choices[group]) for group in groups if choices.get(group))))


OmegaConf.register_new_resolver("job_name", _job_name, replace=True)
OmegaConf.register_new_resolver("sweep_name", _sweep_name, replace=True)
OmegaConf.register_new_resolver("chosen", _chosen, replace=True)
OmegaConf.register_new_resolver("started", ranks.run_name, use_cache=True, replace=True)
OmegaConf.register_new_resolver("folder_name", _folder_name, replace=True)
