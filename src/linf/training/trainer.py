"""What several callbacks ask of Lightning's trainer; it does not declare all of it."""

from typing import TypeVar

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

_T = TypeVar("_T", bound=Callback)


def callbacks_of(trainer: pl.Trainer, kind: type[_T]) -> list[_T]:
    """A trainer's callbacks of a kind, in their order."""
    return [callback for callback in trainer.callbacks if isinstance(callback, kind)]  # type: ignore[attr-defined]


def validates(trainer: pl.Trainer) -> bool:
    """Whether a validation belongs to a training, and is not Lightning's check before its first step."""
    return trainer.state.fn == "fit" and not trainer.sanity_checking


def rehearses(trainer: pl.Trainer) -> bool:
    """Whether a training takes a batch or so only, by ``fast_dev_run``."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]
