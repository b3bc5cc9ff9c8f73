"""What a constructor's annotations allow: whether a value of a config is of their kind, and their kinds in words."""

import collections.abc
import inspect
import math
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

from hydra.utils import get_object

NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}

LISTS = (Collection, Iterable, Sequence, list, tuple)
"""The annotations of lists; a tensor can be iterated over, too, but is none."""


def parameters(target: str) -> dict[str, inspect.Parameter] | None:
    """Return what a constructor takes, its annotations evaluated as far as they can be; None where there is no such
    target, or it hides them.
    """
    try:
        found = get_object(target)
        function = found.__init__ if inspect.isclass(found) else found
        signature = inspect.signature(function)
    except Exception:  # Where it is made, an unknown target is reported.
        return None
    # Some annotations are text, with names that only type checkers import.
    names = vars(typing) | vars(collections.abc) | getattr(inspect.unwrap(function), "__globals__", {})

    def evaluated(hint: Any) -> Any:
        try:
            return eval(hint, dict(names)) if isinstance(hint, str) else hint
        except Exception:
            return Any

    return {name: p.replace(annotation=evaluated(p.annotation)) for name, p in signature.parameters.items()}


def fits(value: Any, hint: Any) -> bool:
    """Tell whether a plain value of a config is of the kind of an annotation, or makes an object that may be."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint in (Any, object, inspect.Parameter.empty) or isinstance(hint, typing.TypeVar) or value == "???":
        return True
    if origin in (Union, types.UnionType):
        return any(fits(value, each) for each in inner)
    if origin is typing.Annotated:
        return fits(value, inner[0])
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
            return len(value) == len(inner) and all(map(fits, value, inner))
        each = inner[0] if inner else Any
        return kind in LISTS and all(fits(item, each) for item in value)
    # What is left are objects, of which a file's path alone is written as text.
    return isinstance(value, str) and getattr(kind, "__name__", "") in ("PathLike", "Path")


def _is_a(kind: Any, base: type) -> bool:
    return inspect.isclass(kind) and issubclass(kind, base)


def allowed(name: str, hint: Any, value: Any) -> str:
    """Say what an annotation allows."""
    if name == "trainer.max_time":
        return 'days:hours:minutes:seconds in quotes, for instance "00:04:00:00", or null'
    kinds = list(dict.fromkeys(_kinds(hint)))
    if isinstance(value, float) and value.is_integer() and NAMES[int] in kinds and NAMES[float] not in kinds:
        kinds[kinds.index(NAMES[int])] += f", {int(value)}"
    brackets = isinstance(value, str | int | float) and fits([value], hint)
    return either(kinds) + f", in brackets: '{name}=[{value}]'" * brackets


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


def shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value) if isinstance(value, str) else str(value)


def either(words: Sequence[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]
