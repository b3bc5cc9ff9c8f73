"""Command lines: what a user mistyped comes back as one line of words, never as a traceback."""

import difflib
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from linf.errors import UsageError


def run(entry: Callable[[], object], conf: Path) -> None:
    """Run a Hydra entry point; end with status 2 and one line where the user can mend it.

    A defect of ours keeps its traceback, and everything does where HYDRA_FULL_ERROR is set.

    Args:
        entry: what `hydra.main` made.
        conf: the primary config file.
    """
    _leave_out_what_no_user_can_act_on()
    if os.environ.get("HYDRA_FULL_ERROR"):
        entry()
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Otherwise Hydra prints and exits by itself.
    try:
        entry()
    except Exception as error:
        mistake: Exception | None = next((e for e in _causes(error) if isinstance(e, UsageError)), None)
        if mistake is None and isinstance(error, HydraException | OmegaConfBaseException):
            mistake = error
        if mistake is None:
            raise
        print(f"error: {_in_words(mistake, conf)}", file=sys.stderr)
        raise SystemExit(2) from None


def _leave_out_what_no_user_can_act_on() -> None:
    """Drop Lightning's advertisements and its warning about its own use of torch."""
    log = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    log.addFilter(lambda record: "Tip: For seamless" not in record.getMessage())
    warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)`")


def check_complete(cfg: DictConfig) -> None:
    """Raise UsageError if a setting that has no default was not given."""
    missing = [key for key, value in _settings(OmegaConf.to_container(cfg)) if value == "???"]
    if missing:
        raise UsageError(f"not given: {', '.join(missing)}; add {missing[0]}=… to the command")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _in_words(mistake: BaseException, conf: Path) -> str:
    text = " ".join(str(mistake).split())
    unknown = re.match(r"Could not override '([^']+)'", text)
    if not unknown:
        root = list(_causes(mistake))[-1]
        return text if root is mistake else f"{text}: {root}"
    close = difflib.get_close_matches(unknown[1], _keys(conf), n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"see {conf.name} and the groups beside it"
    return f"there is no setting {unknown[1]!r}; {hint}"


def _keys(conf: Path) -> list[str]:
    """All dotted keys of the config as it stands without overrides."""
    with initialize_config_dir(str(conf.parent), version_base="1.3"):
        return [key for key, _ in _settings(OmegaConf.to_container(compose(conf.stem)))]


def _settings(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every dotted key below a node of plain dicts, with its value."""
    for key, value in node.items() if isinstance(node, dict) else ():
        yield f"{prefix}{key}", value
        yield from _settings(value, f"{prefix}{key}.")
