"""A trial as its job sees it: what it reports to the study after a validation, and whether it is to stop there."""

import math
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, RDBStorage, get_storage
from optuna.trial import FrozenTrial
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from linf.errors import UsageError

REPORT = "after step "
"""An attribute of a trial, with the step: its figures at that validation."""

PRUNED = "pruned"
"""An attribute of a trial that was stopped: the step."""

STORAGE_FAILED = (SQLAlchemyError, StorageInternalError)
"""What a database that does not answer raises."""


def opened(url: str) -> BaseStorage:
    """A database's storage for studies; UsageError where it cannot be opened."""
    try:
        shown = make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        raise UsageError(
            f"the storage {url!r} is no database's URL: give sqlite:///FILE or one such as postgresql://HOST/NAME"
        ) from None
    # Several processes write to the file; SQLite's own patience is 5 s.
    patient = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
    try:
        return get_storage(RDBStorage(url, engine_kwargs=patient))
    except (*STORAGE_FAILED, ImportError, RuntimeError) as error:
        why = " ".join(str(getattr(error, "orig", None) or error).split())
        raise UsageError(f"the storage {shown} cannot be opened: {why}") from error


def reports(trial: FrozenTrial) -> dict[int, dict[str, float]]:
    """A trial's figures by step, in order."""
    found = {
        int(key.removeprefix(REPORT)): value
        for key, value in trial.user_attrs.items()
        if key.startswith(REPORT)
    }
    return dict(sorted(found.items()))


def latest(trial: FrozenTrial) -> dict[str, float]:
    """A trial's figures after its last validation."""
    return [{}, *reports(trial).values()][-1]


class Trial:
    """A trial as its own job sees it.

    Args:
        storage: of the study, its URL.
        study: its name.
        number: of the trial.
    """

    def __init__(self, storage: str, study: str, number: int) -> None:
        self.url, self.name, self.number = storage, study, number

    @cached_property
    def _found(self) -> tuple[BaseStorage, int, int, dict[str, str]]:
        storage = opened(self.url)
        study = storage.get_study_id_from_name(self.name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            names = optuna.load_study(study_name=self.name, storage=storage).metric_names
        directions = [direction.name.lower() for direction in storage.get_study_directions(study)]
        trial = storage.get_trial_id_from_study_id_trial_number(study, self.number)
        return storage, study, trial, dict(zip(names or (), directions, strict=True))

    def report(self, step: int, figures: Mapping[str, float]) -> None:
        """Enter the objectives among a validation's figures."""
        storage, _, trial, objectives = self._found
        known = {name: figures[name] for name in objectives if name in figures}
        storage.set_trial_user_attr(trial, f"{REPORT}{step}", known)

    def trails(self, step: int, startup_trials: int) -> bool:
        """Whether it is worse than the median of the others that came as far, in every objective.

        Args:
            step: at which it has reported.
            startup_trials: others that there must be.
        """
        storage, study, _, objectives = self._found
        told = {t.number: reports(t) for t in storage.get_all_trials(study, deepcopy=False)}
        own = told.pop(self.number)[step]
        others = [at_step(of, step) for of in told.values()]
        return worse(own, [other for other in others if other], objectives, startup_trials)

    def prune(self, step: int) -> None:
        """Note that it stops."""
        storage, _, trial, _ = self._found
        storage.set_trial_user_attr(trial, PRUNED, step)

    def pruned(self) -> bool:
        """Whether it was stopped before."""
        storage, _, trial, _ = self._found
        return PRUNED in storage.get_trial(trial).user_attrs


def at_step(told: Mapping[int, dict[str, float]], step: int) -> dict[str, float]:
    """The last figures up to a step, in order of steps; none of a trial that has not come as far."""
    before = [figures for at, figures in told.items() if at <= step]
    return before[-1] if before and max(told) >= step else {}


def worse(
    own: Mapping[str, float],
    others: Sequence[Mapping[str, float]],
    objectives: Mapping[str, str],
    startup_trials: int,
) -> bool:
    """Whether figures are worse than the others' median in every objective, of ``startup_trials`` others at least.

    One that loses in PSNR what it gains in LPIPS may yet be on the front, so a single objective stops nothing.
    """
    for name, way in objectives.items():
        theirs = [other[name] for other in others if math.isfinite(other.get(name, math.nan))]
        if len(theirs) < max(startup_trials, 1):
            return False
        sign = 1 if way == "maximize" else -1
        if sign * own.get(name, math.nan) >= sign * np.median(theirs):
            return False
    return True
