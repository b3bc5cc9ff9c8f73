"""What Lightning's trainer has and does not declare."""

from typing import TypeVar

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

_T = TypeVar("_T", bound=Callback)


def callbacks_of(trainer: pl.Trainer, kind: type[_T]) -> list[_T]:
    """A trainer's callbacks of a kind, in their order."""
    return [callback for callback in trainer.callbacks if isinstance(callback, kind)]  # type: ignore[attr-defined]
