"""What a search varies: ranges in words, and the settings that a trial draws from them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from linf.errors import UsageError

Space = dict[str, BaseDistribution]
"""What is searched, by the key of the setting."""


def space(ranges: Mapping[str, Any]) -> Space:
    """Distributions of ranges by key: ``{low, high, log, step}``, whole where both ends are, or ``{choices: […]}``.

    Raises:
        UsageError: there is none, or one is no range.
    """
    if not ranges:
        raise UsageError(
            "the search space is empty: give a range, such as task.optimizer.lr: {low: …, high: …}"
        )
    return {key: _distribution(key, given) for key, given in ranges.items()}


def _distribution(key: str, given: Any) -> BaseDistribution:
    said = f"the range of {key} is {given}"
    if isinstance(given, Mapping) and set(given) == {"choices"}:
        choices = given["choices"]
        if not isinstance(choices, Sequence) or isinstance(choices, str) or len(choices) < 2:
            raise UsageError(f"{said}: give two choices or more, such as {{choices: [64, 128]}}")
        plain = (type(None), bool, int, float, str)
        return CategoricalDistribution([c if isinstance(c, plain) else str(c) for c in choices])
    if not isinstance(given, Mapping) or not {"low", "high"} <= set(given) <= {"low", "high", "log", "step"}:
        raise UsageError(f"{said}: give {{low: …, high: …}}, with log: true or step: …, or {{choices: […]}}")
    low, high, step, log = given["low"], given["high"], given.get("step"), bool(given.get("log"))
    numbers = [low, high] if step is None else [low, high, step]
    if any(isinstance(n, bool) or not isinstance(n, int | float) or not math.isfinite(n) for n in numbers):
        raise UsageError(f"{said}: low, high and step are numbers")
    if not low < high or (step is not None and not 0 < step <= high - low):
        raise UsageError(f"{said}: low must be below high, and step fit between them")
    if log and (low <= 0 or step is not None):
        raise UsageError(f"{said}: with log: true low must be above 0, and there is no step")
    if all(isinstance(n, int) for n in numbers):
        return IntDistribution(low, high, log, 1 if step is None else step)
    return FloatDistribution(low, high, log, step)


def overrides(params: Mapping[str, Any]) -> list[str]:
    """Parameters as settings of a command; words stand there as they are, so that they may be lists."""
    written = {None: "null", True: "true", False: "false"}
    return [
        f"{key}={written[value] if value is None or isinstance(value, bool) else value}"
        for key, value in params.items()
    ]


def probes(space: Space) -> Iterator[dict[str, Any]]:
    """Parameters by which every choice can be tried once before the search."""
    first = {
        key: d.choices[0] if isinstance(d, CategoricalDistribution) else d.low  # type: ignore[attr-defined]
        for key, d in space.items()
    }
    yield first
    for key, distribution in space.items():
        if isinstance(distribution, CategoricalDistribution):
            yield from (first | {key: choice} for choice in distribution.choices[1:])
