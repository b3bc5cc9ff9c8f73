"""Where an evaluated model comes from: the settings of its training, which lie beside its checkpoint."""

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from linf.checkpoints.native import resolve_path
from linf.evaluation.record import describe_file


def origin(checkpoint: str | None, prior: str | None) -> dict[str, Any]:
    """Path and sha256 of the files that a model and its prior came from, and the settings of its training."""
    return {
        "checkpoint": describe_file(checkpoint),
        "prior": describe_file(prior),
        "training": training_settings(resolve_path(checkpoint) if checkpoint else None),
    }


def training_settings(checkpoint: Path | None) -> dict[str, Any] | None:
    """The config of the training that left a checkpoint; None where it cannot be found, as for a file that was copied.

    Args:
        checkpoint: in a run's folder, or in ``checkpoints`` there.
    """
    if checkpoint is None:
        return None
    for folder in (checkpoint.parent, checkpoint.parent.parent):
        try:
            found: Any = OmegaConf.to_container(OmegaConf.load(folder / ".hydra" / "config.yaml"))
        except (OSError, YAMLError, OmegaConfBaseException):
            continue
        task = found.get("task") if isinstance(found, dict) else None
        if isinstance(task, dict) and str(task.get("_target_")).startswith("linf.training."):
            return found
    return None
