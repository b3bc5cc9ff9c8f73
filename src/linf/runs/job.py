"""One training or evaluation as a Hydra job: one folder, one owner and one record, also in a sweep and over ranks."""

import functools
import logging
import multiprocessing
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from linf.errors import Mistake, RankFailed, Stopped, UsageError, find_mistake
from linf.files import atomic_write
from linf.locks import run_lock
from linf.machine import limit_threads
from linf.runs import folders, ranks
from linf.runs.announcement import announcement
from linf.runs.entry import end_stopped
from linf.runs.gpus import free_gpus
from linf.runs.messages import check_settings, error_line, expand_homes
from linf.runs.output import protect_output
from linf.runs.record import JobRecord, changed_settings, now, read_record, unchanged_if_refused, write_record
from linf.runs.switches import switch_off
from linf.runs.terminal import log_warnings

# What is heavy is imported where it is used: a misspelt setting is reported without it.
log = logging.getLogger(__name__)

Result = dict[str, float]
"""A run's figures of merit by name."""

EntryPoint = Callable[[DictConfig], Result | None]
"""An entry point: from a composed config to the run's result."""


def job(entry: EntryPoint) -> EntryPoint:
    """Decorate an entry point, below ``hydra.main``: check its settings, own the run's folder, keep its record.

    In a sweep a failing job is recorded and the others go on, and a job that finished earlier with the same settings
    is not run again. Of several ranks only the first, or the process that started them, owns folder and record.
    """

    @functools.wraps(entry)
    def checked(cfg: DictConfig) -> Result | None:
        sweeping = HydraConfig.get().mode == RunMode.MULTIRUN
        protect_output()  # Some launchers start a process for each job.
        log_warnings()
        limit_threads()
        if multiprocessing.current_process().name.startswith("Loky"):  # A worker of joblib's launcher.
            ranks.die_with_parent(signal.SIGTERM)
        try:
            expand_homes(cfg)
            switch_off(cfg)
            check_settings(cfg)
            ranks.check_srun()
            if not ranks.launched() and not ranks.rank():
                for line in announcement(cfg):
                    log.info("%s", line)
            from linf.runs.arguments import check_arguments

            check_arguments(cfg)
            ranks.meet_in_fresh_store()
            if ranks.launched():
                result = entry(cfg)
                ranks.report("result", result=result)
                return result
            if ranks.rank():
                return entry(cfg)
            return _recorded(entry, cfg, sweeping)
        except Stopped as stop:
            if sweeping and os.environ.get("SUBMITIT_EXECUTOR") == "slurm":
                end_stopped(stop)  # Submitit's process is not that of `run`.
            raise
        except Exception as error:
            if sweeping:
                _tell_failed(error, Path(cfg.run_dir))
                return None
            if find_mistake(error) is None:
                raise
            raise Mistake(error) from None

    return checked


def _tell_failed(error: Exception, folder: Path) -> None:
    """Log why a job of a sweep failed, and record it if the job has no record yet."""
    if find_mistake(error) is None and not isinstance(error, RankFailed):
        log.exception("the job failed")
    else:
        log.error("the job failed: %s", error_line(error))
    if not ranks.rank() and read_record(folder).state == "new":  # Its settings are wrong.
        overrides = list(HydraConfig.get().overrides.task)
        with suppress(UsageError):  # If the folder is the mistake.
            write_record(folder, JobRecord("failed", overrides, error=error_line(error)))


def _recorded(entry: EntryPoint, cfg: DictConfig, sweeping: bool) -> Result | None:
    folder, hydra = Path(cfg.run_dir), HydraConfig.get()
    settings: Any = OmegaConf.to_container(cfg, resolve=True)
    unresolved: Any = OmegaConf.to_container(cfg)
    with run_lock(folder), folders.present(folder), unchanged_if_refused(folder, sweeping):
        before = read_record(folder)
        if sweeping and before.has_finished(settings):
            log.info("finished before: %s", folder)
            return before.result
        if changed := changed_settings(folder, settings, unresolved):
            log.info("goes on with other settings than before: %s", ", ".join(changed))
        for name, config in (("config", cfg), ("hydra", hydra), ("overrides", hydra.overrides.task)):
            with atomic_write(folder / ".hydra" / f"{name}.yaml") as part:
                OmegaConf.save(config, part)
        record = JobRecord("running", list(hydra.overrides.task), settings, began=now())
        record.earlier_seconds = before.seconds_to_go_on_from(folder)
        write_record(folder, record)
        try:
            trainer: Any = settings.get("trainer") or {}
            with free_gpus(trainer.get("accelerator"), trainer.get("devices")) as record.gpus:
                write_record(folder, record)
                record.result = entry(cfg) or {}
            record.state = "finished"
        except KeyboardInterrupt:
            record.state = "stopped"
            raise Stopped(signal.SIGINT, folder=str(folder)) from None
        except SystemExit as stop:
            record.state = "stopped"
            if isinstance(stop, Stopped):
                stop.folder = stop.folder or str(folder)
            raise
        except BaseException as error:
            record.state, record.error = "failed", error_line(error)
            raise
        finally:
            record.ended = now()
            write_record(folder, record)
            if sweeping:
                from linf.runs.sweep import summarise

                try:
                    summarise(Path(hydra.sweep.dir))
                except Exception as error:  # It costs no job its result.
                    log.warning("no table of the sweep: %s", error_line(error))
    return record.result
