"""Each setting against what its constructor's annotation says: the kind of value, and whether null is one."""

import collections.abc
import difflib
import inspect
import math
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

import torch
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from linf.errors import UsageError

NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}

LEAST = {
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

LISTS = (Collection, Iterable, Sequence, list, tuple)
"""The annotations of lists; a tensor can be iterated over, too, but is none."""

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
        hints = _hints(node["_target_"])
        _check_known(path, node)
        for key, value in node.items():
            if key in hints and not _fits(value, hints[key]):
                name = _source(raw.get(key), f"{path}.{key}")
                raise UsageError(f"{name} is {_shown(value)}: give {_allowed(name, hints[key], value)}")
            least = LEAST.get(key, -math.inf) if not node["_target_"].startswith("linf.") else -math.inf
            if isinstance(value, int | float) and value < least:
                name = _source(raw.get(key), f"{path}.{key}")
                raise UsageError(f"{name} is {value}: give at least {least}")
    for key in FILES:
        if not isinstance(value := settings.get(key), str | None):
            raise UsageError(
                f"{key} is {_shown(value)}: give a file, in quotes if its name is a number, or null"
            )
    if settings.get("ckpt_path") and settings.get("init_from"):
        raise UsageError("ckpt_path goes on with a run, and init_from starts one: give only one of them")
    if isinstance(trainer := settings.get("trainer"), dict):
        _check_trainer(trainer)


def _check_known(path: str, node: Mapping[str, Any]) -> None:
    """Raise UsageError if a setting is no argument of the constructor that it is for."""
    function = _constructor(node["_target_"])
    parameters = {} if function is None else inspect.signature(function).parameters
    if function is None or any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    for key in node:
        if not key.startswith("_") and key not in parameters:
            close = difflib.get_close_matches(key, parameters, n=1)
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
            f"trainer.precision is {precision}: give {_either(PRECISIONS)}; the flow has no half-precision weights"
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
            f"trainer.strategy is {strategy}: give {_either(STRATEGIES)}, which is one process per device, each with "
            "the whole model"
        )
    accelerator = trainer.get("accelerator") or "auto"
    mps = torch.backends.mps.is_available() and not torch.cuda.is_available()
    if accelerator not in ACCELERATORS or (mps and accelerator in ("auto", "gpu")):
        why = "; Apple's GPU (mps) has no float64" if mps or accelerator == "mps" else ""
        raise UsageError(
            f"trainer.accelerator is {accelerator}: give {'cpu' if mps else _either(ACCELERATORS)}{why}"
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


def _constructor(target: str) -> Callable[..., Any] | None:
    """Return the function that takes a target's settings; None where there is no such target, or it hides them."""
    try:
        found = get_object(target)
        function = found.__init__ if inspect.isclass(found) else found
        inspect.signature(function)
    except Exception:  # Where it is made, an unknown target is reported.
        return None
    return function


def _hints(target: str) -> dict[str, Any]:
    """Return the annotations of a constructor's arguments, as far as they can be had."""
    if (function := _constructor(target)) is None:
        return {}
    parameters = inspect.signature(function).parameters
    # Some annotations are text, with names that only type checkers import.
    names = vars(typing) | vars(collections.abc) | getattr(inspect.unwrap(function), "__globals__", {})
    hints = {}
    for p in parameters.values():
        hint = p.annotation
        if isinstance(hint, str):
            try:
                hint = eval(hint, dict(names))
            except Exception:
                continue
        if hint is not p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            hints[p.name] = hint
    return hints


def _fits(value: Any, hint: Any) -> bool:
    """Tell whether a plain value of a config is of the kind of an annotation, or makes an object that may be."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any or hint is object or isinstance(hint, typing.TypeVar) or value == "???":
        return True
    if origin in (Union, types.UnionType):
        return any(_fits(value, each) for each in inner)
    if origin is typing.Annotated:
        return _fits(value, inner[0])
    if origin is Literal:
        return value in inner and type(value) in map(type, inner)
    if hint in (None, type(None)):
        return value is None
    if hint in (bool, str):
        return isinstance(value, hint)
    if hint is int:
        return type(value) is int
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value)
    if isinstance(value, dict):
        return "_target_" in value or _is_a(origin or hint, Mapping)
    kind = origin or hint
    if isinstance(value, list):
        if kind is tuple and inner and inner[-1] is not Ellipsis:
            return len(value) == len(inner) and all(map(_fits, value, inner))
        each = inner[0] if inner else Any
        return kind in LISTS and all(_fits(item, each) for item in value)
    # What is left are objects, of which a file's path alone is written as text.
    return isinstance(value, str) and getattr(kind, "__name__", "") in ("PathLike", "Path")


def _is_a(kind: Any, base: type) -> bool:
    return inspect.isclass(kind) and issubclass(kind, base)


def _allowed(name: str, hint: Any, value: Any) -> str:
    """Say what an annotation allows."""
    if name == "trainer.max_time":
        return 'days:hours:minutes:seconds in quotes, for instance "00:04:00:00", or null'
    kinds = list(dict.fromkeys(_kinds(hint)))
    if isinstance(value, float) and value.is_integer() and NAMES[int] in kinds and NAMES[float] not in kinds:
        kinds[kinds.index(NAMES[int])] += f", {int(value)}"
    return _either(kinds)


def _kinds(hint: Any) -> Iterator[str]:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        for each in inner:
            yield from _kinds(each)
    elif origin is Literal:
        yield from map(str, inner)
    elif hint in NAMES:
        yield NAMES[hint]
    elif _is_a(origin or hint, Sequence) or (origin or hint) in (Iterable, Collection):
        # Of a number or a list, as of scales, the number is what most give.
        items = (
            get_args(inner[0]) if inner and get_origin(inner[0]) in (Union, types.UnionType) else inner[:1]
        )
        of = [each for each in items if each in NAMES]
        yield f"a list of {NAMES[of[0]].removeprefix('a ')}s" if of and of[0] in (int, float) else "a list"
    elif getattr(origin or hint, "__name__", "") == "PathLike":
        yield "a file"
    elif origin is Callable or not isinstance(hint, type) or hint.__module__ != "builtins":
        yield "an object, by its _target_"
    else:
        yield hint.__name__


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value) if isinstance(value, str) else str(value)


def _either(words: Sequence[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]
