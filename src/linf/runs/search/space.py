"""A search space: the ranges in a config, as distributions and as settings of a trial."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from linf.errors import UsageError

Space = dict[str, BaseDistribution]
"""A distribution for each setting that is searched."""


def space(ranges: Mapping[str, Any]) -> Space:
    """Return the distributions of ranges.

    Args:
        ranges: For each setting ``{low, high, log, step}``, of integers if both ends are, or ``{choices: […]}``.

    Raises:
        UsageError: There is no range, or one cannot be read.
    """
    if not ranges:
        raise UsageError(
            "the search space is empty: give a range, for instance task.optimizer.lr: {low: …, high: …}"
        )
    return {key: _distribution(key, given) for key, given in ranges.items()}


def _distribution(key: str, given: Any) -> BaseDistribution:
    given_range = f"the range of {key} is {given}"
    if isinstance(given, Mapping) and set(given) == {"choices"}:
        choices = given["choices"]
        if not isinstance(choices, Sequence) or isinstance(choices, str) or len(choices) < 2:
            raise UsageError(f"{given_range}: give two choices or more, for instance {{choices: [64, 128]}}")
        plain = (type(None), bool, int, float, str)
        return CategoricalDistribution([c if isinstance(c, plain) else str(c) for c in choices])
    if not isinstance(given, Mapping) or not {"low", "high"} <= set(given) <= {"low", "high", "log", "step"}:
        raise UsageError(
            f"{given_range}: give {{low: …, high: …}}, with log: true or step: …, or {{choices: […]}}"
        )
    low, high, step, log = given["low"], given["high"], given.get("step"), bool(given.get("log"))
    numbers = [low, high] if step is None else [low, high, step]
    if any(isinstance(n, bool) or not isinstance(n, int | float) or not math.isfinite(n) for n in numbers):
        raise UsageError(f"{given_range}: give numbers for low, high and step")
    if not low < high or (step is not None and not 0 < step <= high - low):
        raise UsageError(f"{given_range}: low must be below high, and step must fit between them")
    if log and (low <= 0 or step is not None):
        raise UsageError(f"{given_range}: with log: true, low must be above 0 and step left out")
    if all(isinstance(n, int) for n in numbers):
        return IntDistribution(low, high, log, 1 if step is None else step)
    return FloatDistribution(low, high, log, step)


def overrides(params: Mapping[str, Any]) -> list[str]:
    """Return parameters as overrides of a command; strings are not quoted, so that they may be lists."""
    written = {None: "null", True: "true", False: "false"}
    return [
        f"{key}={written[value] if value is None or isinstance(value, bool) else value}"
        for key, value in params.items()
    ]


def probes(space: Space) -> Iterator[dict[str, Any]]:
    """Yield parameters that together contain every choice at least once, to check them before the search."""
    first = {
        key: d.choices[0] if isinstance(d, CategoricalDistribution) else d.low  # type: ignore[attr-defined]
        for key, d in space.items()
    }
    yield first
    for key, distribution in space.items():
        if isinstance(distribution, CategoricalDistribution):
            yield from (first | {key: choice} for choice in distribution.choices[1:])
