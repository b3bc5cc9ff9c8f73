"""Loss box of the figure: what a model is judged by on a batch of training pairs."""

import math

import torch
from torch import Tensor

from linf.data.pairs import SRBatch
from linf.errors import UsageError
from linf.flow import ConditionalFlow
from linf.model import LINF


def nll(flow: ConditionalFlow, residual: Tensor, condition: Tensor) -> Tensor:
    """Negative log-likelihood in nats per dimension, so that patch sizes compare; (D, N), (K·2·D, N) → scalar."""
    return -flow.log_prob(residual, condition).mean() / flow.dim


def l1(flow: ConditionalFlow, residual: Tensor, condition: Tensor) -> Tensor:
    """Mean absolute error of the picture at τ = 0, in [-1, 1] units; (D, N), (K·2·D, N) → scalar."""
    return (flow.inverse(torch.zeros_like(residual), condition) - residual).abs().mean()


class Mixture:
    """``nll · NLL per dimension + l1 · L1``, both from one condition (METHOD §6).

    Args:
        nll: weight of the likelihood; the paper's stage 1 is 1.
        l1: weight of the error at τ = 0; 0 leaves it out.
    """

    def __init__(self, nll: float = 1.0, l1: float = 0.0) -> None:
        self.weights = checked_weights(nll=nll, l1=l1)

    def __call__(self, model: LINF, batch: SRBatch) -> dict[str, Tensor]:
        """Each part by name, and their weighted sum as ``loss``."""
        residual = model.residual(*batch).transpose(0, 1).flatten(1)
        condition = model.condition(batch.lr, batch.coord, batch.cell)
        parts = {
            name: term(model.flow, residual, condition)
            for name, term in (("nll", nll), ("l1", l1))
            if self.weights[name]
        }
        return weighted_sum(parts, self.weights)


def checked_weights(**weights: float) -> dict[str, float]:
    """The weights of a loss's parts, if they are such.

    Raises:
        UsageError: one is negative or not finite, or all are 0.
    """
    if not all(math.isfinite(w) and w >= 0 for w in weights.values()) or not any(weights.values()):
        given = ", ".join(f"{name}={w}" for name, w in weights.items())
        raise UsageError(f"loss weights {given} must be finite and 0 or more, and one above 0")
    return weights


def weighted_sum(parts: dict[str, Tensor], weights: dict[str, float]) -> dict[str, Tensor]:
    """The parts, and their sum by weight as ``loss``."""
    return {"loss": torch.stack([weights[name] * value for name, value in parts.items()]).sum(), **parts}
