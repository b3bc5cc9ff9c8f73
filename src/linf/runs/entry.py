"""`train.py` and `eval.py` as jobs of Hydra: one folder each, one owner, one record; over ranks and sweeps."""

import functools
import logging
import multiprocessing
import os
import signal
import sys
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from linf.errors import RankFailed, Stopped, UsageError, end, find_mistake
from linf.files import run_lock
from linf.runs import launch as distributed
from linf.runs import sweep as jobs
from linf.runs.messages import check_settings, in_words

log = logging.getLogger(__name__)

Result = dict[str, float]
"""A run's figures of merit by name."""


class Mistake(SystemExit):
    """Carries a user's mistake past Hydra, which would report it as an error of the job."""

    def __init__(self, error: Exception) -> None:
        super().__init__(2)
        self.error = error


# One job


def job(entry: Callable[[DictConfig], Result | None]) -> Callable[[DictConfig], Result | None]:
    """What stands between `hydra.main` and an entry point.

    It checks the settings, owns the run's folder and keeps its record there. In a sweep a failing job is recorded and
    the others go on, and one that finished before with the same settings is not run again; elsewhere a user's mistake
    ends the run as a `Mistake`. Of several ranks the first, or the process that started them, does all this.
    """

    @functools.wraps(entry)
    def checked(cfg: DictConfig) -> Result | None:
        sweeping = HydraConfig.get().mode == RunMode.MULTIRUN
        if multiprocessing.current_process().name.startswith("Loky"):  # joblib's
            distributed.die_with_parent(signal.SIGTERM)
        try:
            check_settings(cfg)
            if distributed.launched():
                result = entry(cfg)
                distributed.report("result", result=result)
                return result
            if distributed.rank():
                return entry(cfg)
            return _recorded(entry, cfg, sweeping)
        except Exception as error:
            if sweeping:
                _told(error)
                if not distributed.rank() and jobs.read(Path(cfg.run_dir)).state == "new":  # Wrong settings.
                    overrides = list(HydraConfig.get().overrides.task)
                    jobs.write(Path(cfg.run_dir), jobs.Job("failed", overrides, error=_words(error)))
                return None
            if find_mistake(error) is None:
                raise
            raise Mistake(error) from None

    return checked


def _recorded(entry: Callable[[DictConfig], Result | None], cfg: DictConfig, sweeping: bool) -> Result | None:
    folder = Path(cfg.run_dir)
    hydra = HydraConfig.get()
    settings: Any = OmegaConf.to_container(cfg, resolve=True)
    with run_lock(folder):
        before = jobs.read(folder)
        if sweeping and before.state == "finished" and before.settings == settings:
            log.info("finished before: %s", folder)
            return before.result
        (folder / ".hydra").mkdir(exist_ok=True)
        for name, config in (("config", cfg), ("hydra", hydra), ("overrides", hydra.overrides.task)):
            OmegaConf.save(config, folder / ".hydra" / f"{name}.yaml")
        try:
            with jobs.recorded(folder, hydra.overrides.task, settings, _words) as run:
                run.result = entry(cfg) or {}
        finally:
            if sweeping:
                jobs.summarise(Path(hydra.sweep.dir))
    return run.result


def _words(error: BaseException) -> str:
    return " ".join(str(find_mistake(error) or error).split())


def _told(error: Exception) -> None:
    if find_mistake(error) is None and not isinstance(error, RankFailed):
        log.exception("the job failed")
    else:
        log.error("the job failed: %s", _words(error))


def to_ranks(trainer: Any, script: str) -> tuple[Result | None] | None:
    """Where a trainer wants processes that nobody has started: start them, each with this job, and wait for them.

    Args:
        trainer: Lightning's.
        script: the entry point's file.

    Returns:
        What rank 0 returned, in a tuple; None where this process is to train by itself.
    """
    launcher = trainer.strategy.launcher
    wanted, tasks = trainer.num_devices * trainer.num_nodes, distributed.slurm_tasks()
    if tasks is not None and tasks != wanted:
        raise UsageError(
            f"trainer.devices and num_nodes want {wanted} processes, and Slurm started {tasks}: give srun or sbatch "
            f"--nodes={trainer.num_nodes} --ntasks-per-node={trainer.num_devices} and start with srun, see "
            "docs/clusters.md"
        )
    if launcher is None or trainer.strategy.cluster_environment.creates_processes_externally:
        return None
    if trainer.num_nodes > 1:
        raise UsageError(
            f"trainer.num_nodes is {trainer.num_nodes}, and nobody started its processes: use torchrun or Slurm, see "
            "docs/clusters.md"
        )
    hydra = HydraConfig.get()
    folders = {"hydra.run.dir": hydra.runtime.output_dir, "hydra.sweep.dir": hydra.sweep.dir}
    quoted = [f"{key}='{str(path).replace(chr(39), chr(92) + chr(39))}'" for key, path in folders.items()]
    settings = [*hydra.overrides.task, *quoted, "hydra.mode=RUN"]
    chosen = ["--config-name", str(hydra.job.config_name)]
    return (distributed.launch([sys.executable, script, *chosen, *settings], trainer.num_devices),)


# A whole command


def run(entry: Callable[[], object], conf: Path) -> None:
    """Run a Hydra entry point; end with status 2 and one line where the user can mend it.

    A defect of ours keeps its traceback, and everything does where HYDRA_FULL_ERROR is set. A sweep ends with its
    table, and with status 1 unless all of its jobs have finished. A job of Slurm's that a signal ended goes back into
    the queue, unless it was cancelled.

    Args:
        entry: what `hydra.main` made.
        conf: the primary config file.
    """
    Sweep.folder = None
    _leave_out_what_no_user_can_act_on()
    _leave_talking_to_the_first_rank()
    # Ranks have it from the process that started them, which tells what they leave word of.
    full = os.environ.get("HYDRA_FULL_ERROR") and not distributed.launched()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Otherwise Hydra prints and exits by itself.
    try:
        entry()
    except Stopped as stop:
        if distributed.launched():
            distributed.report("stopped", signal=stop.signum, where=stop.where, folder=stop.folder)
        else:
            _say_goodbye(stop)
        raise
    except (Exception, Mistake) as error:
        cause = error.error if isinstance(error, Mistake) else error
        if full:
            raise cause from None
        told = find_mistake(cause)
        words = " ".join(in_words(told or cause, conf).split())
        if distributed.launched():
            distributed.report("error" if told is None else "mistake", words=words or type(cause).__name__)
        elif isinstance(cause, RankFailed):
            end(words, 1)
        elif told is not None:
            end(words)
        if told is not None:
            raise SystemExit(2) from None
        if Sweep.folder is None:
            raise
        log.exception("the sweep was cut short")
    except KeyboardInterrupt:
        where = f"hydra.sweep.dir={Sweep.folder}" if Sweep.folder else "hydra.run.dir=… of its folder"
        print(f"stopped by SIGINT; the same command with {where} goes on", file=sys.stderr)
        raise SystemExit(130) from None
    if Sweep.folder is not None:
        _end_of_sweep(Sweep.folder)


def _say_goodbye(stop: Stopped) -> None:
    if distributed.rank():
        # A status that tells of the signal would have srun end the first rank before it has queued again.
        raise SystemExit(0 if distributed.by_slurm() else stop.code)
    where = f"hydra.sweep.dir={Sweep.folder}" if Sweep.folder else f"hydra.run.dir={stop.folder}"
    again = stop.signum != signal.SIGINT and distributed.requeue()
    words = "it is in the queue again" if again else f"the same command with {where} goes on from there"
    print(f"stopped by {stop.signum.name} {stop.where}; {words}", file=sys.stderr)


def _end_of_sweep(folder: Path) -> None:
    try:
        table = jobs.summarise(folder)
    except UsageError:  # It was cut short before its first job began.
        raise SystemExit(1) from None
    print(jobs.told(table))
    print(f"table and figure: {folder}/sweep.csv, sweep.png")
    searched = (folder / "pareto.csv").is_file()  # Other processes may be at the same search.
    unfinished = table.loc[~table["state"].isin(["finished", "running"] if searched else ["finished"]), "job"]
    if len(unfinished):
        words = f"{len(unfinished)} of {len(table)} jobs did not finish: {', '.join(unfinished)}"
        again = "goes on with what was not ended" if searched else "runs only those"
        end(f"{words}; the same command with hydra.sweep.dir={folder} {again}", 1)


class Sweep(Callback):
    """Hydra's hook at the start of a sweep: its jobs' folders are named by what differs between them."""

    folder: Path | None = None

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Leave constants out of the names, and keep the folder for what `run` does at the end."""
        if distributed.started_by_torchrun():
            # Hydra would only warn of an ordinary error in here.
            raise Mistake(UsageError("a sweep starts the ranks of its jobs by itself: leave torchrun out"))
        Sweep.folder = Path(config.hydra.sweep.dir).absolute()
        given = OverridesParser.create().parse_overrides(list(config.hydra.overrides.task))
        constant = {override.key_or_group for override in given if not override.is_sweep_override()}
        excluded = ",".join(sorted(constant | {"name", "sweep"}))
        config.hydra.overrides.hydra.append(f"hydra.job.config.override_dirname.exclude_keys=[{excluded}]")


def _folder_name(overrides: str) -> str:
    """Overrides as one folder's name: no path within, and no longer than file systems allow."""
    name = overrides.replace("/", "_") or "job"
    return name if len(name) <= 200 else f"{name[:190]}-{zlib.crc32(name.encode()):08x}"


OmegaConf.register_new_resolver("started", distributed.started, use_cache=True, replace=True)
OmegaConf.register_new_resolver("folder_name", _folder_name, replace=True)


def _leave_out_what_no_user_can_act_on() -> None:
    """Drop advertisements, and warnings about what Lightning or this project does on purpose."""
    logger = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    noise = ("Tip: For seamless", "already configured with model summary callbacks")
    logger.addFilter(lambda record: not any(words in record.getMessage() for words in noise))
    warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)`")
    warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode at the start of training")
    warnings.filterwarnings("ignore", message=r"Checkpoint directory .* exists and is not empty")
    warnings.filterwarnings(
        "ignore", message=r"The `srun` command is available on your system but is not used"
    )
    # Metrics of validation are those of all ranks already, also of a rank that had no image at a scale.
    warnings.filterwarnings("ignore", message=r"It is recommended to use `self.log\('val/")
    warnings.filterwarnings("ignore", message=r"The ``compute`` method of metric PSNR was called before")


def _leave_talking_to_the_first_rank() -> None:
    """Have the other ranks say only what went wrong, and all of them end where the process that started them does."""
    if distributed.launched():
        distributed.die_with_parent()
    if distributed.rank():
        logging.disable(logging.WARNING)
        warnings.simplefilter("ignore")
