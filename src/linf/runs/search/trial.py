"""A trial as its job sees it: what it reports to the study after a validation, and whether it should stop."""

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
"""The prefix of a trial's attribute, before the step: its figures at that validation."""

PRUNED = "pruned"
"""The attribute of a trial that was stopped: the step."""

STORAGE_FAILED = (SQLAlchemyError, StorageInternalError)
"""The exceptions of a database that does not answer."""


def open_storage(url: str) -> BaseStorage:
    """Open the storage at a database's URL; raise UsageError if that fails."""
    try:
        shown = make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        raise UsageError(
            f"the storage {url!r} is not a database's URL: give sqlite:///FILE, or for instance postgresql://HOST/NAME"
        ) from None
    # Several processes write to the file; SQLite's own timeout is 5 s.
    options = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
    try:
        return get_storage(RDBStorage(url, engine_kwargs=options))
    except (*STORAGE_FAILED, ImportError, RuntimeError) as error:
        reason = " ".join(str(getattr(error, "orig", None) or error).split())
        raise UsageError(f"the storage {shown} cannot be opened: {reason}") from error


def reports(trial: FrozenTrial) -> dict[int, dict[str, float]]:
    """Return a trial's figures by step, in order."""
    found = {
        int(key.removeprefix(REPORT)): value
        for key, value in trial.user_attrs.items()
        if key.startswith(REPORT)
    }
    return dict(sorted(found.items()))


def latest(trial: FrozenTrial) -> dict[str, float]:
    """Return a trial's figures at its last validation."""
    return [{}, *reports(trial).values()][-1]


class Trial:
    """A trial of a study, for the job that runs it.

    Args:
        storage: The URL of the study's storage.
        study: The study's name.
        number: The trial's number.
    """

    def __init__(self, storage: str, study: str, number: int) -> None:
        self.url, self.name, self.number = storage, study, number

    @cached_property
    def _found(self) -> tuple[BaseStorage, int, int, dict[str, str]]:
        storage = open_storage(self.url)
        study = storage.get_study_id_from_name(self.name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            names = optuna.load_study(study_name=self.name, storage=storage).metric_names
        directions = [direction.name.lower() for direction in storage.get_study_directions(study)]
        trial = storage.get_trial_id_from_study_id_trial_number(study, self.number)
        return storage, study, trial, dict(zip(names or (), directions, strict=True))

    def report(self, step: int, figures: Mapping[str, float]) -> None:
        """Store the objectives among a validation's figures."""
        storage, _, trial, objectives = self._found
        known = {name: figures[name] for name in objectives if name in figures}
        storage.set_trial_user_attr(trial, f"{REPORT}{step}", known)

    def trails(self, step: int, startup_trials: int) -> bool:
        """Tell whether the trial is worse in every objective than the median of the others that came as far.

        Args:
            step: The step of its latest report.
            startup_trials: The number of others that there must be.
        """
        storage, study, _, objectives = self._found
        reported = {t.number: reports(t) for t in storage.get_all_trials(study, deepcopy=False)}
        own = reported.pop(self.number)[step]
        others = [at_step(of, step) for of in reported.values()]
        return worse(own, [other for other in others if other], objectives, startup_trials)

    def prune(self, step: int) -> None:
        """Mark the trial as stopped."""
        storage, _, trial, _ = self._found
        storage.set_trial_user_attr(trial, PRUNED, step)

    def pruned(self) -> bool:
        """Tell whether the trial was stopped earlier."""
        storage, _, trial, _ = self._found
        return PRUNED in storage.get_trial(trial).user_attrs


def at_step(reported: Mapping[int, dict[str, float]], step: int) -> dict[str, float]:
    """Return the last figures up to a step, or none if the trial has not come as far."""
    before = [figures for at, figures in reported.items() if at <= step]
    return before[-1] if before and max(reported) >= step else {}


def worse(
    own: Mapping[str, float],
    others: Sequence[Mapping[str, float]],
    objectives: Mapping[str, str],
    startup_trials: int,
) -> bool:
    """Tell whether figures are worse in every objective than the median of at least ``startup_trials`` others.

    A single objective stops no trial: one that loses in PSNR and gains in LPIPS may still be on the front.
    """
    for name, direction in objectives.items():
        theirs = [other[name] for other in others if math.isfinite(other.get(name, math.nan))]
        if len(theirs) < max(startup_trials, 1):
            return False
        sign = 1 if direction == "maximize" else -1
        if sign * own.get(name, math.nan) >= sign * np.median(theirs):
            return False
    return True
