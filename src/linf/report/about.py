"""Files of an evaluation: what ``run.json`` says of it, and their text."""

import json
import shlex
from pathlib import Path
from typing import Any

from linf.errors import UsageError
from linf.evaluation.about import wrong_entries


def repeat(folder: Path) -> str:
    """What makes the tables and images in an evaluation's folder anew, from what was measured."""
    return f"repeat its `linf eval …` with {shlex.quote(f'hydra.run.dir={folder}')}"


def read_about(path: Path) -> dict[str, Any]:
    """The content of a ``run.json``.

    Raises:
        UsageError: it is missing, truncated, or not as ``linf eval`` writes it.
    """
    anew = "evaluate in another folder, or bring the file back"  # Without it no evaluation goes on.
    text = read_text(path, "evaluate in another folder")
    try:
        about = json.loads(text)
    except ValueError as error:
        raise UsageError(f"{path} is truncated or no JSON ({error}): {anew}") from error
    if wrong := wrong_entries(about):
        raise UsageError(f"{path} was not written by this version's `linf eval`: see its {', '.join(wrong)}")
    return about


def read_text(path: Path, remedy: str) -> str:
    """The text of a file of an evaluation; raise UsageError, with a remedy, where it is missing or no text."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UsageError(
            f"{path} is missing, so the evaluation is not finished, or has lost it: {remedy}, bring the file back, or "
            "leave this folder out"
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"cannot read {path}, for it is no text: {remedy}") from error
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
