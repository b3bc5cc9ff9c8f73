"""What a study stores of a trial, and where: its figures after each validation, and whether it was stopped."""

from importlib.util import find_spec

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage, get_storage
from optuna.trial import FrozenTrial
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from linf.errors import UsageError, message

REPORT = "after step "
"""The prefix of a trial's attribute, before the step: its figures at that validation."""

PRUNED = "pruned"
"""The attribute of a trial that was stopped: the step."""

STORAGE_FAILED = (SQLAlchemyError, StorageInternalError)
"""The exceptions of a database that does not answer."""


def open_storage(url: str) -> BaseStorage:
    """Open the storage at a database's URL; raise UsageError if that fails."""
    try:
        address = make_url(url)
    except ArgumentError:
        raise UsageError(
            f"the storage {url!r} is not a database's URL: give sqlite:///FILE, or for instance postgresql://HOST/NAME"
        ) from None
    shown = address.render_as_string(hide_password=True)
    if address.drivername == "postgresql" and find_spec("psycopg"):
        address = address.set(drivername="postgresql+psycopg")  # SQLAlchemy's own choice is its predecessor.
    # Several processes write to SQLite's file, whose own timeout is 5 s. A server may have closed a connection that was
    # idle for a training.
    sqlite = address.get_backend_name() == "sqlite"
    options = {"connect_args": {"timeout": 60}} if sqlite else {"pool_pre_ping": True}
    try:
        return get_storage(RDBStorage(address.render_as_string(hide_password=False), engine_kwargs=options))
    except (*STORAGE_FAILED, ImportError, RuntimeError) as error:
        reason = message(getattr(error, "orig", None) or error)
        driver = isinstance(error, ImportError) and address.get_backend_name() == "postgresql"
        reason = "its driver is missing, pip install 'linf[postgres]'" if driver else reason
        raise UsageError(f"the storage {shown} cannot be opened: {reason}") from error


def reports(trial: FrozenTrial) -> dict[int, dict[str, float]]:
    """Return a trial's figures by step, in order."""
    keys = (key for key in trial.user_attrs if key.startswith(REPORT))
    return dict(sorted((int(key.removeprefix(REPORT)), trial.user_attrs[key]) for key in keys))


def latest(trial: FrozenTrial) -> dict[str, float]:
    """Return a trial's figures at its last validation."""
    return [{}, *reports(trial).values()][-1]
