"""What ``run.json`` says of an evaluation: read, and checked before a report takes it at its word."""

import json
import shlex
from pathlib import Path
from typing import Any

from linf.errors import UsageError
from linf.evaluation.schema import HEADLINES

_TYPES: dict[str, Any] = {
    "label": str,
    "model": dict,
    "model.name": str,
    "protocol": dict,
    "metrics": list,
    "temperatures": list,
    "max_trained_scale": int | float | None,
}
_OPTIONAL = {
    dict | None: "checkpoint prior skipped git versions conventions measured_by severity lr model.config "
    "model.config.flow training training.trainer training.data training.data.train",
    str | None: "weights checkpoint.path prior.path",
    int | None: "checkpoint.step prior.step samples",
}
_TYPES |= {key: kind for kind, keys in _OPTIONAL.items() for key in keys.split()}
"""The types of entries, which have a dot where one stands in another."""


def read_about(path: Path) -> dict[str, Any]:
    """The content of a ``run.json``.

    Raises:
        UsageError: it is missing, truncated, or not as ``eval.py`` writes it.
    """
    text = read_text(path)
    try:
        about = json.loads(text)
    except ValueError as error:
        raise UsageError(f"{path} is truncated or no JSON ({error}); run eval.py there again") from error
    about = about if isinstance(about, dict) else {}
    wrong = [key for key, kind in _TYPES.items() if not isinstance(_inside(about, key), kind)]
    if not wrong:
        wrong = ["protocol.headline"] * (about["protocol"].get("headline") not in HEADLINES)
        sets = [*(about.get("lr") or {}).values()]
        at_scales = [lr for of in sets if isinstance(of, dict) for lr in of.values()]
        wrong += ["lr"] * (not all(isinstance(of, dict) for of in [*sets, *at_scales]))
    if wrong:
        # Of what is wrong within another, the other is said.
        wrong = [key for key in wrong if key.rpartition(".")[0] not in wrong]
        raise UsageError(f"{path} was not written by this version's eval.py: see its {', '.join(wrong)}")
    return about


def _inside(about: Any, key: str) -> Any:
    """What a dict holds by a key with dots; None where there is none."""
    for part in key.split("."):
        about = about.get(part) if isinstance(about, dict) else None
    return about


def read_text(path: Path) -> str:
    """The text of a file of an evaluation; raise UsageError where it is missing or no text."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UsageError(
            f"{path} is missing, so the evaluation is not finished, or has lost it: start eval.py again with "
            f"{shlex.quote(f'hydra.run.dir={path.parent}')}, bring the file back, or leave this folder out"
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"cannot read {path}, for it is no text; run eval.py there again") from error
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
