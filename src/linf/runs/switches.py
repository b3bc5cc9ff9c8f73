"""``null`` as off: groups, callbacks, loggers and metrics that a command leaves out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from linf.errors import UsageError

OPTIONAL = {"callbacks", "debug", "experiment", "launcher", "logger", "scheduler", "speed", "sweep"}
"""The groups without which a run works."""

MEMBERS = ("callbacks", "logger", "metrics")
"""The settings whose members are each on or off."""


def without_null_groups(arguments: Sequence[str], conf: Path) -> list[str]:
    """Return the arguments of a command with each ``group=null`` as Hydra spells it: ``~group``, or null for each
    member of a group that the primary config has itself.

    Args:
        arguments: The command's arguments.
        conf: The primary config file, beside which each group has a folder.

    Raises:
        UsageError: If the group is one that every run needs.
    """
    text = conf.read_text().splitlines()
    spelt = []
    for argument in arguments:
        name, _, value = argument.partition("=")
        group = name.lstrip("+~")
        chosen = value.lower().split(",")
        if len(chosen) > 1 and "null" in chosen and (conf.parent / group).is_dir():
            raise UsageError(
                f"{argument} sweeps over a group, whose choices null is not: run {group}=null by itself"
            )
        off = chosen == ["null"] or (name.startswith("~") and not value)
        if not (off and group and (conf.parent / group).is_dir()):
            spelt.append(argument)
            continue
        # A default that depends on another cannot be left out.
        if (conf.parent / group / "none.yaml").is_file():
            spelt.append(f"{group}=none")
            continue
        if group not in OPTIONAL:
            choices = ", ".join(sorted(path.stem for path in (conf.parent / group).glob("*.yaml")))
            known = any(line.strip().startswith(f"- {group}:") for line in text)
            hint = f"give {group}= one of {choices}" if known else "leave this out"
            raise UsageError(f"{argument} leaves out what a run needs: {hint}")
        spelt = [other for other in spelt if other.partition("=")[0].lstrip("+") != group]
        default = next((line for line in text if line.strip().startswith(f"- {group}:")), None)
        if default is None:  # The primary config has them itself, if any.
            spelt += [
                f"{group}.{member}=null" for member in OmegaConf.select(OmegaConf.load(conf), group) or {}
            ]
        elif "null" not in default.split("#")[0]:  # What is off by default cannot be taken out.
            spelt.append(f"~{group}")
    return spelt


def switch_off(cfg: DictConfig) -> None:
    """Take out of a config the callbacks, loggers and metrics that are null, and what depends on them."""
    with open_dict(cfg):
        for part in MEMBERS:
            if isinstance(members := cfg.get(part), DictConfig):
                for name in list(members):
                    if not OmegaConf.is_missing(members, name) and members[name] is None:
                        del members[name]
            elif part in cfg:
                cfg[part] = {}
        trainer: Any = cfg.get("trainer")
        if not isinstance(trainer, DictConfig):
            return
        if not cfg.get("logger") or not trainer.get("logger"):
            trainer.logger = False  # Lightning makes one for null.
            cfg.get("callbacks", {}).pop("learning_rate", None)  # It refuses to run without a logger.
        if "progress" not in (cfg.get("callbacks") or {}):
            trainer.setdefault("enable_progress_bar", False)  # Lightning makes one by itself.
