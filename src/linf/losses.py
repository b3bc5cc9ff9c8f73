"""Loss box of the figure: what a condition is judged by, given the residual patches it should explain."""

import math

import torch
from torch import Tensor

from linf.errors import UsageError
from linf.flow import ConditionalFlow


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
        if not all(math.isfinite(w) and w >= 0 for w in (nll, l1)) or nll + l1 == 0:
            raise UsageError(f"loss weights nll={nll}, l1={l1} must be finite and 0 or more, and one above 0")
        self.weights = {"nll": nll, "l1": l1}

    def __call__(self, flow: ConditionalFlow, residual: Tensor, condition: Tensor) -> dict[str, Tensor]:
        """Each part by name, and their weighted sum as ``loss``."""
        parts = {
            name: term(flow, residual, condition)
            for name, term in (("nll", nll), ("l1", l1))
            if self.weights[name]
        }
        return {
            "loss": torch.stack([self.weights[name] * value for name, value in parts.items()]).sum(),
            **parts,
        }
