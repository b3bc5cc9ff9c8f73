"""Resuming: which checkpoint a run continues from, and whether it can."""

import logging
import os
import zipfile
from pathlib import Path

import torch

from linf.checkpoints.native import Model, check_same, load
from linf.errors import UsageError

log = logging.getLogger(__name__)


def newest(folder: Path) -> Path | None:
    """Find the checkpoint with most steps in a folder; None where there is none.

    Damaged ones are skipped with a warning.
    """
    found: list[tuple[int, Path]] = []
    for path in sorted(folder.glob("*.ckpt")):
        try:
            if not _is_intact(path):
                raise zipfile.BadZipFile
            found.append(
                (torch.load(path, map_location="cpu", weights_only=True, mmap=True)["global_step"], path)
            )
        except Exception as error:  # Readers answer a broken file with any exception.
            log.warning("%s is damaged (%s): it is skipped", path, type(error).__name__)
    return max(found, default=(0, None))[1]


def to_resume(given: str | os.PathLike[str] | None, folder: Path) -> Path | None:
    """Choose the checkpoint that a run continues from; None where the run starts anew.

    Args:
        given: the checkpoint that the user names, if any. One in the run's own folder is taken as it is; one from
            elsewhere counts only while the run has none of its own. In place of a damaged one, the newest beside it is
            taken with a warning.
        folder: the folder of the run's own checkpoints, of which the newest is taken.

    Raises:
        UsageError: the checkpoint is damaged, and no intact one is beside it.
    """
    if given is None:
        return newest(folder)
    given = Path(given)
    own = given.absolute().parent == folder.absolute()
    if not own and (later := newest(folder)):
        return later
    if given.suffix == ".ckpt" and given.is_file() and not _is_intact(given):
        beside = newest(given.parent)
        if beside is None and zipfile.is_zipfile(given):
            raise UsageError(f"{given} is damaged, and no intact checkpoint is beside it: choose another")
        if beside is not None:
            log.warning("continuing from %s instead of %s", beside, given)
        return beside or given
    return given


def _is_intact(path: Path) -> bool:
    """Whether a file written by `torch.save` passes its own checksums."""
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip() is None
    except Exception:  # Readers answer a broken file with any exception.
        return False


def check_resumable(path: str | os.PathLike[str], model: Model) -> None:
    """Raise UsageError unless a run with this model can continue from the checkpoint."""
    other = load(path)
    if Path(path).suffix != ".ckpt":
        raise UsageError(
            f"{path} holds weights but no training state: ckpt_path takes a .ckpt of an earlier run, and "
            "init_from any model to start from"
        )
    check_same(path, other, model)
