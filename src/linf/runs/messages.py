"""Messages about a user's settings: checks before a run, and Hydra's errors in one plain line."""

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from linf.errors import UsageError, causes, find_mistake, message


def check_settings(cfg: DictConfig) -> None:
    """Raise UsageError if a setting is missing, is text in place of a number, or lacks its brackets."""
    missing = [key for key, value in _settings(OmegaConf.to_container(cfg)) if value == "???"]
    if missing:
        raise UsageError(f"not given: {', '.join(missing)}; add {missing[0]}=… to the command")
    if not (isinstance(cfg.seed, int) and 0 <= cfg.seed < 2**32):
        given = "null" if cfg.seed is None else cfg.seed
        raise UsageError(f"seed is {given}: give a whole number from 0 to {2**32 - 1}")
    hydra = HydraConfig.get()
    choices = [
        given for given in hydra.overrides.task if given.lstrip("+").split("=")[0] in hydra.runtime.choices
    ]
    default = dict(_settings(OmegaConf.to_container(compose(hydra.job.config_name, choices))))
    for key, value in _settings(OmegaConf.to_container(cfg, resolve=True)):
        usual = default.get(key)
        if isinstance(usual, list) and isinstance(value, str | int | float):
            raise UsageError(f"{key}={value} is not a list: put it in brackets, '{key}=[{value}]'")
        # Devices may be "auto" or a list of numbers.
        if type(usual) in (int, float) and isinstance(value, str) and key != "trainer.devices":
            raise UsageError(f"{key} is {value!r}: give a number, for instance {usual}")
    from linf.runs.arguments import (
        check_arguments,
    )  # It imports torch, which what is above need not wait for.

    check_arguments(cfg)


def error_line(error: BaseException, conf: Path | None = None) -> str:
    """Return the message of the user's mistake in an error, or of the error itself, as one line.

    ``conf`` is the path of the primary config file, if the error may concern its settings.
    """
    mistake = find_mistake(error) or error
    text = message(mistake) or type(mistake).__name__
    if isinstance(mistake, OverrideParseException):
        return f"cannot read {mistake.override!r} as setting=value; quote a value with any of = , ( ) [ ] {{ }} in it"
    if conf is not None and (unknown := re.match(r"Could not override '([^']+)'", text)):
        with initialize_config_dir(str(conf.parent), version_base="1.3"):
            known = [key for key, _ in _settings(OmegaConf.to_container(compose(conf.stem)))]
        if unknown[1] in known:
            return f"there is no setting {unknown[1]!r} in what this command chooses: its group is off, or another one"
        close = difflib.get_close_matches(unknown[1], known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"see {conf.name} and the groups beside it"
        return f"there is no setting {unknown[1]!r}; {hint}"
    if isinstance(mistake, HydraException | OmegaConfBaseException):
        text = _plain(text)
        root = _plain(message([*causes(mistake)][-1]))
        return text if root in text else f"{text}: {root}"
    return text


def _plain(text: str) -> str:
    """Return a message of Hydra's without the parts that address programmers."""
    text = text.split(" Config search path:")[0]
    text = text.replace(", set env var HYDRA_FULL_ERROR=1 to see chained exception.", "")
    return re.sub(r" ?full_key: ([\w.]+)", r" (setting \1)", text)


def _settings(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every dotted key below a node of plain dicts, with its value."""
    for key, value in node.items() if isinstance(node, dict) else ():
        yield f"{prefix}{key}", value
        yield from _settings(value, f"{prefix}{key}.")
