"""Each setting against what its constructor's annotation says: the kind of value, and whether null is one."""

import difflib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from linf.errors import UsageError
from linf.runs.annotations import allowed, either, fits, parameters, shown

LEAST: dict[str, float] = {
    "T_max": 1,
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": 1,
    "devices": -1,
    "flush_logs_every_n_steps": 1,
    "gamma": 0,
    "gradient_clip_val": 0,
    "log_every_n_steps": 1,
    "max_epochs": -1,
    "max_lr": 0,
    "max_steps": -1,
    "num_nodes": 1,
    "num_sanity_val_steps": -1,
    "step_size": 1,
}
"""The least values of arguments of torch and Lightning that these take without looking at them."""

FILES = ("path", "ckpt_path", "init_from", "encoder_from", "prior_path")
"""The settings of a command that name a file, before anything is constructed."""

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "64-true")
STRATEGIES = ("auto", "ddp")
ACCELERATORS = ("auto", "cpu", "gpu", "cuda")
SAME = {"32": "32-true", "64": "64-true", "16": "16-mixed", "bf16": "bf16-mixed"}
"""Lightning's short names of precisions."""


def check_arguments(cfg: DictConfig) -> None:
    """Raise UsageError if a setting is not of a kind that its constructor takes."""
    settings: Any = OmegaConf.to_container(cfg, resolve=True)
    given: Any = OmegaConf.to_container(cfg)
    nodes = sorted(_targets(settings, given), key=lambda found: found[0].count("."))
    for path, node, raw in nodes:
        target = node["_target_"]
        taken = parameters(target)
        if taken is not None:
            _check_known(path, node, taken)
        least = {} if target.startswith("linf.") else LEAST
        for key, value in node.items():
            name = _source(raw.get(key), f"{path}.{key}")
            hint = taken[key].annotation if taken and key in taken else Any
            if not fits(value, hint):
                raise UsageError(f"{name} is {shown(value)}: give {allowed(name, hint, value)}")
            if key in least and isinstance(value, int | float) and value < least[key]:
                raise UsageError(f"{name} is {value}: give at least {least[key]}")
    for key in FILES:
        if not isinstance(value := settings.get(key), str | None):
            raise UsageError(
                f"{key} is {shown(value)}: give a file, in quotes if its name is a number, or null"
            )
    if settings.get("ckpt_path") and settings.get("init_from"):
        raise UsageError("ckpt_path goes on with a run, and init_from starts one: give only one of them")
    if isinstance(trainer := settings.get("trainer"), dict):
        _check_trainer(trainer)


def _check_known(path: str, node: Mapping[str, Any], taken: Mapping[str, inspect.Parameter]) -> None:
    """Raise UsageError if a setting is no argument of the constructor that it is for."""
    if any(p.kind is p.VAR_KEYWORD for p in taken.values()):
        return
    for key in node:
        if not key.startswith("_") and key not in taken:
            close = difflib.get_close_matches(key, taken, n=1)
            meant = f"give {path}.{close[0]}, if that is meant" if close else "leave it out"
            name = node["_target_"].rpartition(".")[2]
            raise UsageError(
                f"there is no setting {path}.{key}, for {name} takes no {key}: {meant}; "
                f"'~{path}.{key}' takes it out of a config"
            )


def _check_trainer(trainer: Mapping[str, Any]) -> None:
    precision = str(trainer.get("precision") or PRECISIONS[0])
    if SAME.get(precision, precision) not in PRECISIONS:
        raise UsageError(
            f"trainer.precision is {precision}: give {either(PRECISIONS)}; the flow has no half-precision weights"
        )
    if trainer.get("use_distributed_sampler"):
        raise UsageError(
            "trainer.use_distributed_sampler is true: give false, since the samplers here know the ranks"
        )
    strategy = trainer.get("strategy") or "auto"
    if (
        isinstance(strategy, str)
        and strategy not in STRATEGIES
        and not strategy.startswith("ddp_find_unused")
    ):
        raise UsageError(
            f"trainer.strategy is {strategy}: give {either(STRATEGIES)}, which is one process per device, each with "
            "the whole model"
        )
    accelerator = trainer.get("accelerator") or "auto"
    mps = torch.backends.mps.is_available() and not torch.cuda.is_available()
    if accelerator not in ACCELERATORS or (mps and accelerator in ("auto", "gpu")):
        why = "; Apple's GPU (mps) has no float64" if mps or accelerator == "mps" else ""
        raise UsageError(
            f"trainer.accelerator is {accelerator}: give {'cpu' if mps else either(ACCELERATORS)}{why}"
        )


def _targets(
    node: Any, raw: Any, path: str = ""
) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """Yield every node that says what it constructs: its path, itself, and itself before interpolation."""
    if not isinstance(node, dict):
        return
    raw = raw if isinstance(raw, dict) else {}
    if isinstance(node.get("_target_"), str):
        yield path, node, raw
    for key, value in node.items():
        yield from _targets(value, raw.get(key), f"{path}.{key}" if path else str(key))


def _source(raw: Any, name: str) -> str:
    """Return the setting that a value comes from, which is another one for ``${other}``."""
    plain = isinstance(raw, str) and raw.startswith("${") and ":" not in raw and raw.count("$") == 1
    return raw[2:-1] if plain else name
