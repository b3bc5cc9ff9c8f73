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

_SYNONYMS = {
    "task.optimizer.lr": "lr learning_rate",
    "data.batch_size": "bs batch batch_size",
    "data.num_workers": "workers num_workers",
    "data.root": "root path dir folder dataroot",
    "data": "dataset datasets",
    "trainer.max_epochs": "epoch epochs max_epochs",
    "trainer.max_steps": "steps iters iterations max_iters max_iterations",
    "trainer.devices": "gpu gpus gpu_ids num_gpus",
    "trainer.precision": "amp fp16 bf16",
    "model.flow.patch_size": "patch patch_size",
    "ckpt_path": "ckpt checkpoint resume resume_from",
    "encoder": "backbone",
}
"""Settings, and what other programs for super-resolution call them."""

_OF_SCRIPT: dict[str, dict[str, str]] = {
    "train": {
        "data.scale": "scale scales",
        "init_from": "pretrained weights",
        "callbacks.panels.temperatures": "tau temp temperature",
    },
    "eval": {
        "data.test_scales": "scale scales",
        "ckpt_path": "pretrained weights model_path",
        "temperatures": "tau temp temperature",
    },
}
"""The same of words that mean different things in ``train.yaml`` and ``eval.yaml``."""


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
        group, _, inner = unknown.partition(".")
        if (conf.parent / group).is_dir():
            choices = compose(conf.stem, return_hydra_config=True).hydra.runtime.choices
            for placed in [choice for choice in choices if choice.startswith(f"{group}@")]:
                if not inner:
                    return f"for a choice of this group write {placed}=…"
                if (there := f"{placed.partition('@')[2]}.{inner}") in _keys(config):
                    return f"did you mean {there!r}?"
    if unknown in _keys(usual):
        return "its group is off, or another one is chosen"
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
    names = [key for key in [*known, *more] if not key.rpartition(".")[2].startswith("_")]
    meant = _meant(unknown, names, conf.stem)
    if meant is None:
        return f"see {conf.name} and the groups beside it"
    if meant in known:
        return f"did you mean {meant!r}?"
    further = setting_hint(meant, conf)
    return f"did you mean '+{meant}'?" if "add a +" in further else f"did you mean {meant!r}? {further}"


def _meant(unknown: str, names: list[str], script: str) -> str | None:
    """Return the setting that may be meant by one that does not exist: below the same node, by a synonym, or one that
    is spelt like it; that of a synonym may come with another choice of its group.
    """
    group, _, word = unknown.rpartition(".")
    if group and (below := [n for n in names if n.startswith(f"{group}.") and n.endswith(f".{word}")]):
        return below[0]
    synonyms = {
        each: setting
        for table in (_SYNONYMS, _OF_SCRIPT.get(script, {}))
        for setting, words in table.items()
        for each in words.split()
    }
    spelt = difflib.get_close_matches(unknown, names, n=1, cutoff=0.85)
    if word not in synonyms and spelt:
        return spelt[0]
    if close := difflib.get_close_matches(word, synonyms, n=1, cutoff=0.8):
        return synonyms[close[0]]
    return next(iter(difflib.get_close_matches(unknown, names, n=1)), None)


def _keys(config: Any) -> list[str]:
    return [key for key, _ in flat_settings(OmegaConf.to_container(config))]


def _arguments(node: Any) -> list[str]:
    """Return the names of the arguments that the class or function of a config's node takes."""
    target = node.get("_target_") if isinstance(node, DictConfig) else None
    if target is None:
        return []
    try:
        return list(inspect.signature(get_object(target)).parameters)
    except (
        ImportError,
        TypeError,
        ValueError,
    ):  # Hydra makes an ImportError of all that an import may raise.
        return []
