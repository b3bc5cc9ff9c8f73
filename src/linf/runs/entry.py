"""Training and evaluation as Hydra jobs: one folder, one owner and one record each; over ranks and sweeps."""

import functools
import logging
import multiprocessing
import os
import shlex
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from linf.errors import Mistake, RankFailed, Stopped, UsageError, end, find_mistake, stop_signals_to
from linf.files import atomic_write
from linf.locks import run_lock
from linf.machine import limit_threads
from linf.runs import CONF, folders, ranks
from linf.runs.announcement import announcement
from linf.runs.command_line import readable_settings
from linf.runs.gpus import free_gpus
from linf.runs.messages import check_settings, error_line, expand_homes
from linf.runs.output import protect_output, use_utf8
from linf.runs.record import JobRecord, changed_settings, now, read_record, unchanged_if_refused, write_record
from linf.runs.switches import switch_off, without_null_groups
from linf.runs.terminal import log_printed, log_warnings

# What is heavy is imported where it is used: a misspelt setting is reported without it.
log = logging.getLogger(__name__)

Result = dict[str, float]
"""A run's figures of merit by name."""

EntryPoint = Callable[[DictConfig], Result | None]
"""An entry point: from a composed config to the run's result."""


# One job


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
            if ranks.launched():
                result = entry(cfg)
                ranks.report("result", result=result)
                return result
            if ranks.rank():
                return entry(cfg)
            return _recorded(entry, cfg, sweeping)
        except Stopped as stop:
            if sweeping and os.environ.get("SUBMITIT_EXECUTOR") == "slurm":
                _end_stopped(stop)  # Submitit's process is not that of `run`.
            raise
        except Exception as error:
            if sweeping:
                if find_mistake(error) is None and not isinstance(error, RankFailed):
                    log.exception("the job failed")
                else:
                    log.error("the job failed: %s", error_line(error))
                folder, overrides = Path(cfg.run_dir), list(HydraConfig.get().overrides.task)
                if not ranks.rank() and read_record(folder).state == "new":  # Its settings are wrong.
                    with suppress(UsageError):  # If the folder is the mistake.
                        write_record(folder, JobRecord("failed", overrides, error=error_line(error)))
                return None
            if find_mistake(error) is None:
                raise
            raise Mistake(error) from None

    return checked


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


# A whole command


def run(entry: Callable[[], object], name: str) -> None:
    """Run a Hydra entry point to the end of the program.

    A user's mistake ends it with one line and status 2, a signal with status 128 + signal, a failed rank with one line
    and status 1. Any other error keeps its traceback, and so does every error if HYDRA_FULL_ERROR is set. A sweep ends
    with its table, and with status 1 unless all of its jobs have finished. ``name`` is that of the primary config file.
    """
    conf = CONF / f"{name}.yaml"
    HydraConfig.instance().cfg = None
    use_utf8()
    protect_output()
    if ranks.launched():
        ranks.die_with_parent()
    if ranks.rank():  # Ranks other than the first log errors only.
        logging.disable(logging.WARNING)
        warnings.simplefilter("ignore")
    # Ranks inherit the variable from the process that launched them.
    full = os.environ.get("HYDRA_FULL_ERROR") and not ranks.launched()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Otherwise Hydra itself prints the error and exits.
    try:
        with stop_signals_to():
            sys.argv[1:] = readable_settings(without_null_groups(sys.argv[1:], conf), conf.parent)
            entry()
    except Stopped as stop:
        _end_stopped(stop)
    except KeyboardInterrupt:
        _end_stopped(Stopped(signal.SIGINT))
    except (Exception, Mistake) as caught:
        error = caught.error if isinstance(caught, Mistake) else caught
        mistake = find_mistake(error)
        logged = full or not (mistake or isinstance(error, RankFailed))
        if _sweep_folder() is None and not (ranks.launched() and mistake):
            log_printed(f"error: {error_line(error, conf)}", error if logged else None)
        if full:
            raise error from None
        if ranks.launched():
            ranks.report("mistake" if mistake else "error", message=error_line(error, conf))
            if mistake:
                raise SystemExit(2) from None
        elif mistake:
            end(error_line(error, conf))
        elif isinstance(error, RankFailed):
            end(error, 1)
        if _sweep_folder() is None:
            raise
        log.exception("the sweep was cut short")
    if (folder := _sweep_folder()) is not None:
        _end_sweep(folder)


def _end_stopped(stop: Stopped) -> None:
    if ranks.launched():
        ranks.report("stopped", signal=stop.signum, where=stop.where, folder=stop.folder)
        raise stop from None
    if ranks.rank():
        # At a status other than 0 srun would end the first rank before it has put the job back into the queue.
        raise (SystemExit(0) if ranks.is_slurm_task() else stop) from None
    folder = _sweep_folder()
    line = f"stopped by {' '.join([stop.signum.name, stop.where]).strip()}"
    if stop.signum != signal.SIGINT and ranks.requeue():
        line += "; the job is in the queue again"
    elif folder or stop.folder:
        if (
            folder
            and "Slurm" in HydraConfig.get().launcher._target_
            and "SUBMITIT_EXECUTOR" not in os.environ
        ):
            line += "; the jobs that Slurm has go on, see squeue and scancel"
        setting = f"hydra.sweep.dir={folder}" if folder else f"hydra.run.dir={stop.folder}"
        line += f"; the same command with {shlex.quote(setting)} goes on from there"
    print(line, file=sys.stderr)
    log_printed(line)
    raise stop from None


def _sweep_folder() -> Path | None:
    """Return the sweep's folder once `Folders` has made it; Hydra restores it whenever a job has ended."""
    if not HydraConfig.initialized():
        return None
    folder = Path(HydraConfig.get().sweep.dir).absolute()
    return folder if folder.is_dir() else None  # --cfg and --info name it, too, and make none.


def _end_sweep(folder: Path) -> None:
    from linf.runs.sweep_status import print_summary, unfinished_line

    try:
        table = print_summary(folder)
    except UsageError:  # It was cut short before its first job began.
        raise SystemExit(1) from None
    if line := unfinished_line(folder, table):
        end(line, 1)
