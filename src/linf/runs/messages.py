"""Messages about a user's settings: checks before a run, and Hydra's errors in one plain line."""

import re
from contextlib import chdir
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from linf.errors import UsageError, causes, find_mistake, message
from linf.files import expand_home
from linf.runs.hints import setting_hint
from linf.runs.record import flat_settings


def check_settings(cfg: DictConfig) -> None:
    """Raise UsageError if a setting or a choice of a group is missing, or the seed is none."""
    missing = [key for key, value in flat_settings(OmegaConf.to_container(cfg)) if value == "???"]
    if missing:
        raise UsageError(f"not given: {', '.join(missing)}; add {missing[0]}=… to the command")
    if not (isinstance(cfg.seed, int) and 0 <= cfg.seed < 2**32):
        given = "null" if cfg.seed is None else cfg.seed
        raise UsageError(f"seed is {given}: give a whole number from 0 to {2**32 - 1}")
    hydra = HydraConfig.get()
    if hydra.searchpath:  # Hydra's loader does not know it yet.
        return
    with chdir(hydra.runtime.cwd):  # The folder of --config-dir may be relative.
        for given in hydra.overrides.task:
            group, _, choice = given.partition("=")
            if group in hydra.runtime.choices and re.fullmatch(r"[\w.-]+", choice):
                options = GlobalHydra.instance().config_loader().get_group_options(group)
                # Hydra passes over what is not there if the group is an optional one.
                if options and choice not in options:
                    raise UsageError(f"there is no {given}: choose {group}= one of {', '.join(options)}")


def expand_homes(node: Any) -> None:
    """Replace ``~`` in the paths of a config, or of a list in it, by the home folder.

    Raises:
        UsageError: There is a ``~``, but the user has no home.
    """
    keys = list(node) if isinstance(node, DictConfig) else range(len(node))
    for key in keys:
        if OmegaConf.is_missing(node, key) or OmegaConf.is_interpolation(node, key):
            continue
        value = node[key]
        if isinstance(value, str) and value.startswith("~"):
            node[key] = expand_home(value)
        elif isinstance(value, DictConfig | ListConfig):
            expand_homes(value)


def error_line(error: BaseException, conf: Path | None = None) -> str:
    """Return the message of the user's mistake in an error, or of the error itself, as one line.

    ``conf`` is the path of the primary config file, if the error may concern its settings.
    """
    mistake = find_mistake(error) or error
    text = message(mistake) or type(mistake).__name__
    if "No supported gpu backend found" in text:  # Lightning's.
        return "the trainer asks for a GPU, and torch finds none here: see nvidia-smi, or give trainer=cpu"
    if isinstance(mistake, OverrideParseException):
        return _unreadable(mistake.override)
    if conf is not None and (unknown := re.match(r"Could not override '([^']+)'", text)):
        # In a dict of several it is one that is unknown.
        keys = [getattr(cause, "full_key", None) for cause in causes(mistake)]
        key = next((key for key in keys if key and key.startswith(f"{unknown[1]}.")), unknown[1])
        return f"there is no setting {key!r}; {setting_hint(key, conf)}"
    if isinstance(mistake, HydraException | OmegaConfBaseException):
        text = _plain(text)
        root = _plain(message([*causes(mistake)][-1]))
        return text if root in text else f"{text}: {root}"
    return text


def _unreadable(override: str) -> str:
    """Say what in an override Hydra's grammar cannot read."""
    key, equal, value = override.partition("=")
    text = f"cannot read {override!r} as setting=value"
    if not equal:
        return f"{text}: it has no ="
    for part, remedy in (
        (key, "the names of settings have none"),
        (value, "put the value in quotes: \"…='…'\""),
    ):
        if strange := re.search(r"[^\w\s/.+$%*@?|:,(){}\[\]='\"~\\-]|[^\x00-\x7f]", part):
            return f"{text}, for it has {strange[0]!r}; {remedy}"
    return f"{text}; quote a value with any of = , ( ) [ ] {{ }} in it"


def _plain(text: str) -> str:
    """Return a message of Hydra's without the parts that address programmers."""
    text = text.split(" Config search path:")[0]
    text = text.replace(", set env var HYDRA_FULL_ERROR=1 to see chained exception.", "")
    return re.sub(r" ?full_key: ([\w.]+)", r" (setting \1)", text)
