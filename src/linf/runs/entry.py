"""A whole command of training or evaluation: how it begins, and how it ends, whatever ends it."""

import logging
import os
import shlex
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from linf.errors import Mistake, RankFailed, Stopped, UsageError, end, find_mistake, stop_signals_to
from linf.runs import CONF, folders, ranks
from linf.runs.command_line import readable_settings
from linf.runs.messages import error_line
from linf.runs.output import protect_output, use_utf8
from linf.runs.switches import without_null_groups
from linf.runs.terminal import log_printed

# What is heavy is imported where it is used: a misspelt setting is reported without it.
log = logging.getLogger(__name__)


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
    elif ranks.started_by_torchrun():
        ranks.die_with_parent(signal.SIGTERM)
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
        end_stopped(stop)
    except KeyboardInterrupt:
        end_stopped(Stopped(signal.SIGINT))
    except (Exception, Mistake) as caught:
        error = caught.error if isinstance(caught, Mistake) else caught
        mistake = find_mistake(error)
        logged = full or not (mistake or isinstance(error, RankFailed))
        if _sweep_folder() is None and not (ranks.launched() and mistake):
            log_printed(f"error: {error_line(error, conf)}", error if logged else None)
        if full:
            raise error from None
        if mistake and not ranks.rank():
            folders.remove_unused()
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


def end_stopped(stop: Stopped) -> None:
    """End a program that a signal stopped: with a line that says how to go on, or in a rank with a report."""
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
        begun = len(table := print_summary(folder))
    except UsageError:
        begun = 0
    if not begun:  # It was cut short.
        raise SystemExit(1)
    if line := unfinished_line(folder, table):
        end(line, 1)
