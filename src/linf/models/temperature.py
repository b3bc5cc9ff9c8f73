"""Sampling temperatures: one, several, or a map of one for each pixel."""

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from linf.models.arguments import in_tuple

Temperature = float | Sequence[float] | Tensor
"""τ ≥ 0: one, a sequence, or a map (H,W) of one for each pixel."""


def check_temperatures(temperature: float | Sequence[float]) -> list[float]:
    """One temperature or several as a list.

    Raises:
        ValueError: one of them is negative or not finite, or there is none.
    """
    if isinstance(temperature, np.ndarray | np.generic):
        temperature = temperature.tolist()
    taus = list(temperature) if isinstance(temperature, Sequence) else [temperature]
    taus = [tau.item() if isinstance(tau, np.generic) else tau for tau in taus]
    if not taus:
        raise ValueError(f"temperatures is {temperature}: give at least one temperature, from 0 up")
    numbers = [t for t in taus if isinstance(t, int | float) and not isinstance(t, bool)]
    if len(numbers) < len(taus) or not all(math.isfinite(t) and t >= 0 for t in numbers):
        raise ValueError(f"temperature {temperature} is not a finite number from 0 up; 0 to 1 is usual")
    return taus


def each_temperature(temperature: Temperature, size: Sequence[int]) -> Sequence[float | Tensor]:
    """One temperature, each of a sequence, or a map for an output of this size (H, W), as a list.

    Raises:
        ValueError: a temperature is negative or not finite, or a map is not of this size.
    """
    if not isinstance(temperature, Tensor):
        return check_temperatures(temperature)
    if tuple(temperature.shape) != in_tuple(size):
        raise ValueError(
            f"a map of temperatures has shape {tuple(temperature.shape)}, and output {in_tuple(size)} needs its own: "
            "give one temperature for each pixel, or a number"
        )
    if not bool((temperature >= 0).logical_and(temperature < math.inf).all()):
        raise ValueError(
            f"a map of temperatures has values from {float(temperature.min()):g} to {float(temperature.max()):g}: give "
            "finite ones from 0 up"
        )
    return [temperature]
