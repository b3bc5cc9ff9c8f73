"""Loss box of the figure: the terms of a loss, their weights, and the two layouts of patches."""

import math

import torch
from torch import Tensor


def check_weights(**weights: float) -> dict[str, float]:
    """Return the weights of a loss's terms by name.

    Raises:
        ValueError: a weight is negative or not finite, or all are 0.
    """
    if not all(math.isfinite(w) and w >= 0 for w in weights.values()) or not any(weights.values()):
        given = ", ".join(f"{name}={w}" for name, w in weights.items())
        raise ValueError(f"loss weights {given} must be finite and 0 or more, and one above 0")
    return weights


def weighted_sum(terms: dict[str, Tensor], weights: dict[str, float]) -> dict[str, Tensor]:
    """The terms by name, and their sum by weight as ``loss``."""
    return {"loss": torch.stack([weights[name] * value for name, value in terms.items()]).sum(), **terms}


def to_columns(patches: Tensor) -> Tensor:
    """The layout of the flow: (B,D,gh,gw) → (D, B·gh·gw)."""
    return patches.transpose(0, 1).flatten(1)


def to_patches(columns: Tensor, like: Tensor) -> Tensor:
    """The inverse of `to_columns`: (D, B·gh·gw) → the shape (B,D,gh,gw) of ``like``."""
    return columns.view_as(like.transpose(0, 1)).transpose(0, 1)
