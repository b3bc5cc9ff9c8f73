"""Hints for settings that do not exist: which one may be meant, or which choice brings it."""

import difflib
import inspect
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from linf.runs.record import flat_settings


def setting_hint(unknown: str, conf: Path) -> str:
    """Say which setting may be meant by one that does not exist."""
    chosen = [
        given for given in sys.argv[1:] if (conf.parent / re.split("[=@]", given.lstrip("+"))[0]).is_dir()
    ]
    with initialize_config_dir(str(conf.parent), version_base="1.3"):
        config = usual = compose(conf.stem)
        # Several to sweep over, or from other folders, do not compose.
        with suppress(HydraException):
            config = compose(conf.stem, chosen)
        # A group whose choice is laid elsewhere, as that of the optimizer.
        if (conf.parent / unknown).is_dir():
            choices = compose(conf.stem, return_hydra_config=True).hydra.runtime.choices
            if placed := [group for group in choices if group.startswith(f"{unknown}@")]:
                return f"for a choice of this group write {placed[0]}=…"
    if unknown in _keys(usual):
        return "its group is off, or another one is chosen"
    group, _, inner = unknown.partition(".")
    options = [file for file in sorted((conf.parent / group).glob("*.yaml")) if file.stem != "default"]
    having = [
        file.stem
        for file in options
        if inner in _keys(OmegaConf.load(file)) or unknown in _keys(OmegaConf.load(file))
    ]
    if having:
        return f"it comes with {' or '.join(f'{group}={option}' for option in having)}"
    parent = unknown.rpartition(".")[0]
    # Arguments that the class takes and no config names.
    more = [
        f"{parent}.{argument}"
        for argument in _arguments(OmegaConf.select(config, parent) if parent else None)
    ]
    if unknown in more:
        return f"to set what is not in the config, add a +: '+{unknown}=…'"
    known = [key for key in _keys(config) if not unknown.startswith(f"{key}.")]
    close = difflib.get_close_matches(unknown, [*known, *more], n=1)
    if not close:
        return f"see {conf.name} and the groups beside it"
    return f"did you mean {'+' * (close[0] not in known) + close[0]!r}?"


def _keys(config: Any) -> list[str]:
    return [key for key, _ in flat_settings(OmegaConf.to_container(config))]


def _arguments(node: Any) -> list[str]:
    """Return the names of the arguments that the class or function of a config's node takes."""
    target = node.get("_target_") if isinstance(node, DictConfig) else None
    if target is None:
        return []
    try:
        return list(inspect.signature(get_object(target)).parameters)
    except Exception:  # Whatever an import may raise; then there is no hint.
        return []
