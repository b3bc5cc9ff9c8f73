"""Where figures come from: the model's weights and files, the settings of its training, and the commit of this code."""

import hashlib
import os
import subprocess
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn
from yaml import YAMLError

from linf.checkpoints.native import resolve_path
from linf.checkpoints.pickled import read_pickle


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


def weights_digest(model: nn.Module) -> str:
    """The sha256 of a model's state: names, shapes and values."""
    found = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        found.update(f"{name} {tuple(value.shape)}".encode())
        found.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def describe_file(path: str | os.PathLike[str] | None) -> dict[str, Any] | None:
    """The path and the sha256 of a checkpoint, or of a prior, and the step after which a training saved it, where it
    says so; None if there is none.
    """
    if not path:
        return None
    found = resolve_path(path)
    with open(found, "rb") as file:
        described = {"path": str(path), "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    # Weights need not be read again for a number; a file of torch's first format can only be read whole.
    content = read_pickle(found, mmap=is_zipfile(found)) if found.suffix == ".ckpt" else None
    step = content.get("global_step") if isinstance(content, dict) else None
    return described | ({} if step is None else {"step": step})


def git_commit() -> dict[str, Any] | None:
    """The git commit of this code, and whether its files differ from it; None outside of a git repository."""

    def git(*arguments: str) -> str:
        where = ["git", "-C", str(Path(__file__).parent)]
        return subprocess.run([*where, *arguments], capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # It may lie in another project's repository.
        return {
            "commit": git("rev-parse", "HEAD"),
            "dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.CalledProcessError):
        return None
