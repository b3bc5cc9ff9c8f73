"""The study of a search, which several processes can share, stop and resume; each trial has a folder."""

import math
import shlex
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import optuna
import pandas as pd
from matplotlib.figure import Figure
from optuna.distributions import check_distribution_compatibility
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import TrialState

from linf.errors import UsageError
from linf.evaluation.fonts import save_figure
from linf.files import atomic_write
from linf.locks import lock, owner, run_lock
from linf.report.style import COLOURS, GREY, STYLE, label_points, legend_below, panel_grid
from linf.runs.command_line import quoted
from linf.runs.search.importance import importance_figure, importances
from linf.runs.search.space import Space, overrides
from linf.runs.search.trial import PRUNED, latest, open_storage

STATES = {"complete": "finished", "fail": "failed"}
"""Optuna's states under the names of a job's; the others keep theirs."""


class Search:
    """A study in a folder, from which any number of processes take trials; a trial's folder is named by its number.

    A process owns the trials it takes until it ends, for whatever reason; trials of a killed process are the first
    that another one takes. A trial depends on the seed, its number and the trials before.

    Args:
        folder: The folder of the search, which all its processes share.
        storage: A database's URL; None for SQLite's file ``search.db`` in the folder.
        study: The study's name in the storage.
        objectives: Two figures of merit, each ``maximize`` or ``minimize``.
        space: The search space, see `linf.runs.search.space`.
        sampler: Makes Optuna's sampler from a ``seed``.
        seed: The seed of the search.
        trials: The number of trials, including those that are pruned or fail.

    Raises:
        UsageError: The storage cannot be opened, or its study of that name is another search.
    """

    def __init__(
        self,
        folder: Path,
        *,
        storage: str | None,
        study: str,
        objectives: Mapping[str, str],
        space: Space,
        sampler: Callable[..., BaseSampler],
        seed: int = 0,
        trials: int,
    ) -> None:
        for key, direction in objectives.items():
            if direction not in ("maximize", "minimize"):
                raise UsageError(f"unknown direction {key}: {direction}: choose maximize or minimize")
        if len(objectives) != 2:
            raise UsageError(f"the objectives are {', '.join(objectives) or 'none'}: give two")
        if trials < 1:
            raise UsageError(f"trials are {trials}: give 1 or more")
        self.folder, self.objectives, self.space = folder.absolute(), dict(objectives), space
        self.sampler, self.seed, self.trials, self.name = sampler, seed, trials, study
        self.url = storage or f"sqlite:///{self.folder}/search.db"
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.filterwarnings("ignore", category=ExperimentalWarning)
        self.alone = self.folder / ".search" / "lock"
        with lock(self.alone):  # Two processes cannot both create the tables.
            self.study = optuna.create_study(
                study_name=study,
                storage=open_storage(self.url),
                directions=[StudyDirection[direction.upper()] for direction in self.objectives.values()],
                load_if_exists=True,
            )
            self._check()
            self.study.set_user_attr("folder", str(self.folder))
            self.study.set_metric_names(list(self.objectives))

    def _check(self) -> None:
        this = f"the study {self.name!r}"
        remedy = "or start another one with hydra.sweeper.study=NAME"
        before = self.study.user_attrs.get("folder", str(self.folder))
        if before != str(self.folder) and Path(before).is_dir():
            setting = shlex.quote(f"hydra.sweep.dir={before}")
            raise UsageError(f"{this} has its trials in {before}: give {setting}, {remedy}")
        directions = [direction.name.lower() for direction in self.study.directions]
        named = dict(zip(self.study.metric_names or self.objectives, directions, strict=False))
        if named != self.objectives:
            raise UsageError(f"{this} has other objectives, {named}: give those, {remedy}")
        for trial in self.study.get_trials(deepcopy=False):
            for key in set(self.space) & set(trial.distributions):
                try:
                    check_distribution_compatibility(trial.distributions[key], self.space[key])
                except ValueError as error:
                    raise UsageError(
                        f"{this} has another kind of range for {key}: keep it, {remedy}"
                    ) from error

    @contextmanager
    def taken(self, most: int) -> Iterator[dict[int, dict[str, Any]]]:
        """Take up to ``most`` trials to run during the block: first those that no process runs any more, then new ones.

        The block gets their parameters by number, and none if all trials are taken.
        """
        with ExitStack() as claims:
            with lock(self.alone):
                begun = [t for t in self.study.get_trials(deepcopy=False) if t.state != TrialState.WAITING]
                running = [t.number for t in begun if t.state == TrialState.RUNNING]
                idle = [n for n in running if not (owner(self._claim(n)) or owner(self.place(n)))]
                # Read again: an idle trial may have been finished since it was read.
                still = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
                left = [trial for trial in still if trial.number in idle]
                mine = {trial.number: trial.params for trial in left[:most]}
                for number in range(len(begun), min(self.trials, len(begun) + most - len(mine))):
                    # Seeded by number, or another process, or this one resumed, would draw the first trials again.
                    seed = zlib.crc32(f"{self.seed} {number}".encode())
                    self.study.sampler = self.sampler(seed=seed)
                    trial = self.study.ask(self.space)
                    mine[trial.number] = trial.params
                for number in mine:
                    claims.enter_context(run_lock(self._claim(number)))
            yield mine

    def _claim(self, number: int) -> Path:
        """Return the folder that the process owns which takes a trial; the trial's job owns the trial's folder."""
        return self.folder / ".search" / self.place(number).name

    def place(self, number: int) -> Path:
        return self.folder / f"trial_{number:04d}"

    def job(self, number: int, params: Mapping[str, Any]) -> list[str]:
        """Return a trial as overrides of a command: its parameters, its place in the study, its folder."""
        study = {"storage": quoted(self.url), "study": quoted(self.name), "trial": number}
        pruning = [f"callbacks.pruning.{key}={value}" for key, value in study.items()]
        return [*overrides(params), *pruning, f"hydra.sweep.subdir={self.place(number).name}"]

    def tell(self, number: int, result: Mapping[str, float] | None) -> None:
        """Store a trial's figures of merit, with missing ones from its last validation, or None for a failed trial.

        A trial without all objectives, or with one that is not finite, has failed too.
        """
        trial = self.study.get_trials(deepcopy=False)[number]
        found = latest(trial) | dict(result or {})
        values = [found.get(name, math.nan) for name in self.objectives]
        if result is None or not all(map(math.isfinite, values)):
            self.study.tell(number, state=TrialState.FAIL)
        elif PRUNED in trial.user_attrs:
            self.study.tell(number, state=TrialState.PRUNED)
        else:
            self.study.tell(number, values)

    def table(self) -> pd.DataFrame:
        """Return one row per trial: state, whether it is on the front, objectives, parameters."""
        trials = self.study.get_trials(deepcopy=False)
        front = {trial.number for trial in self.study.best_trials}
        rows = []
        for trial in trials:
            values = dict(zip(self.objectives, trial.values or (), strict=False)) or latest(trial)
            state = trial.state.name.lower()
            line = {"state": STATES.get(state, state), "front": trial.number in front}
            rows.append(line | {name: values.get(name, math.nan) for name in self.objectives} | trial.params)
        index = pd.Index([trial.number for trial in trials], name="trial")
        table = pd.DataFrame(rows, index, None if rows else ["state", "front", *self.objectives])
        return table.astype({"front": bool})

    def summarise(self) -> pd.DataFrame:
        """Write ``pareto.csv``, ``importance.csv`` and a figure of each to the folder, and return the `table`."""
        with lock(self.alone):  # Otherwise an older table might replace a newer one.
            table, found = self.table(), importances(self.study, self.objectives)
            with atomic_write(self.folder / "pareto.csv") as part:
                table.to_csv(part)
            with matplotlib.rc_context(STYLE):
                save_figure(front_figure(table, self.objectives), self.folder / "pareto.png")
            with atomic_write(self.folder / "importance.csv") as part:
                found.to_csv(part, index_label="setting")
            with matplotlib.rc_context(STYLE):
                figure = importance_figure(table, found, list(self.objectives), self.space)
                save_figure(figure, self.folder / "importance.png")
        return table


def front_figure(table: pd.DataFrame, objectives: Mapping[str, str]) -> Figure:
    """Draw a search: every trial by its two objectives, and the Pareto front as a line."""
    (x, y), directions = objectives, list(objectives.values())
    entries = []
    drawn, (axis,) = panel_grid(1, 1, (6.0, 4.0))
    finished = table["state"] == "finished"
    pruned = table["state"] == "pruned"
    for label, chosen, fill in ("finished", finished & ~table["front"], "full"), ("pruned", pruned, "none"):
        if chosen.any():
            lines = axis.plot(table.loc[chosen, x], table.loc[chosen, y], "o", color="0.6", fillstyle=fill)
            entries.append((lines[0], label))
    front = table[table["front"]].sort_values([x, y])
    # Between two trials of the front, only the later one is at least as good in x.
    steps = "steps-pre" if directions[0] == "maximize" else "steps-post"
    if len(front):
        line = axis.plot(front[x], front[y], drawstyle=steps, color=COLOURS[0], marker="o", markersize=6)
        entries.append((line[0], "Pareto front, with the trials' numbers"))
    axis.set(xlabel=x, ylabel=y)
    axis.set_title("better ↗", loc="right", color=GREY)
    axis.margins(0.12)
    axis.ticklabel_format(useOffset=False)
    if directions[0] == "minimize":
        axis.invert_xaxis()
        axis.set_xlabel(f"{x}, axis reversed →")
    if directions[1] == "minimize":
        axis.invert_yaxis()
        axis.set_ylabel(f"{y}, axis reversed ↑")
    if entries:
        legend_below(drawn, entries)
        named = zip(front[x], front[y], front.index, strict=True)
        label_points(drawn, [(axis, at_x, at_y, str(number)) for at_x, at_y, number in named])
    return drawn
