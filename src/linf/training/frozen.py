"""What takes part in a training and does not learn: frozen parts of the model, and networks of the loss."""

from collections.abc import Sequence

import pytorch_lightning as pl
from torch import nn

from linf.errors import UsageError


def freeze(model: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    """Take the parts of these names out of what is trained, and return them.

    Raises:
        UsageError: the model has no such part.
    """
    parts = dict(model.named_children())
    if unknown := [name for name in names if name not in parts]:
        raise UsageError(f"frozen has {', '.join(unknown)}; the model's parts are {', '.join(parts)}")
    for name in names:
        parts[name].requires_grad_(False)
    return [parts[name] for name in names]


def prepare_loss(task: pl.LightningModule) -> None:
    """Move a loss's networks to the device of a task, and log that of the perceptual loss as a hyperparameter."""
    perceptual, teacher = (getattr(task.loss, name, None) for name in ("perceptual", "teacher"))
    if teacher is not None:
        teacher.to(task.device)
    if perceptual is not None:
        perceptual.to(task.device)
        network = {"backbone": perceptual.backbone, "weights": str(perceptual.weights)}
        for logger in task.loggers:
            logger.log_hyperparams({"perceptual": network})
