"""Loss box of the figure: what a model is judged by on a batch of training pairs."""

import math
from collections.abc import Callable, Collection

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from linf.data.pairs import SRBatch
from linf.errors import UsageError
from linf.losses.perceptual import Perceptual
from linf.models import baselines
from linf.models.flow import ConditionalFlow
from linf.models.linf import LINF
from linf.models.prior import window_lr_residual
from linf.models.super_resolver import check_temperatures


def nll(flow: ConditionalFlow, residual: Tensor, condition: Tensor) -> Tensor:
    """Negative log-likelihood in nats per dimension, so that patch sizes compare; (D, N), (K·2·D, N) → scalar."""
    return -flow.log_prob(residual, condition).mean() / flow.dim


def l1(flow: ConditionalFlow, residual: Tensor, condition: Tensor) -> Tensor:
    """Mean absolute error of the image at τ = 0, in [-1, 1] units; (D, N), (K·2·D, N) → scalar."""
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
        _check_flow(model)
        residual = _columns(model.residual(*batch))
        condition = model.condition(batch.lr, batch.coord, batch.cell)
        parts = {
            name: term(model.flow, residual, condition)
            for name, term in (("nll", nll), ("l1", l1))
            if self.weights[name]
        }
        return weighted_sum(parts, self.weights)


class Finetune:
    """``nll · NLL + l1 · L1 + perceptual · VGG``, all from one condition: the loss of stage 2 (METHOD §6).

    The published weights are of the NLL in nats per **patch**, D times that per dimension, which is what is shown; of
    the L1 at τ = 0 in [-1, 1] units; and of the distance of VGG features between a sample and the HR image.

    Args:
        nll: weight of the likelihood per patch.
        l1: weight of the error at τ = 0.
        perceptual: weight of the perceptual distance; published for RRDB, and 0 for the other encoders.
        temperature: τ of the sample that is compared.
        features: gives the perceptual distance; not called where its weight is 0.
    """

    def __init__(
        self,
        nll: float = 5e-4,
        l1: float = 1.0,
        perceptual: float = 2.5e-2,
        *,
        temperature: float = 0.8,
        features: Callable[[], Perceptual] = Perceptual,
    ) -> None:
        self.weights = checked_weights(nll=nll, l1=l1, perceptual=perceptual)
        (self.temperature,) = check_temperatures(temperature)
        self.perceptual = features() if perceptual else None

    def __call__(
        self, model: LINF, batch: SRBatch, z: Tensor | None = None, only: Collection[str] | None = None
    ) -> dict[str, Tensor]:
        """Each part by name, and their weighted sum as ``loss``.

        Args:
            model: with a flow.
            batch: for the perceptual part a contiguous window of whole patches.
            z: (B,D,gh,gw) latents of the sample at τ = 1; None for such from torch's own generator.
            only: the parts that are wanted; None for all whose weight is not 0.
        """
        _check_flow(model)
        wanted = [name for name, weight in self.weights.items() if weight and (only is None or name in only)]
        residual = model.residual(*batch)
        x, condition = _columns(residual), model.condition(batch.lr, batch.coord, batch.cell)
        parts = {}
        if "nll" in wanted:
            parts["nll"] = nll(model.flow, x, condition)
        if "l1" in wanted or "perceptual" in wanted:
            inverses = model.flow.inverses()
            mean = model.flow.inverse(torch.zeros_like(x), condition, inverses)
        if "l1" in wanted:
            parts["l1"] = (mean - x).abs().mean()
        if "perceptual" in wanted:
            assert self.perceptual is not None
            z = torch.randn_like(residual) if z is None else z
            texture = model.flow.inverse_linear(_columns(z), condition, inverses)
            # The model is affine in z (METHOD §4).
            sample = (mean + self.temperature * texture).view_as(residual.transpose(0, 1)).transpose(0, 1)
            sr = model.restore(batch.lr, sample, batch.coord, batch.cell)
            sr, hr = (F.pixel_shuffle(patches, model.patch_size) for patches in (sr, batch.hr))
            parts["perceptual"] = self.perceptual.to(sr)(sr, hr)
        return weighted_sum(parts, self.weights | {"nll": self.weights["nll"] * model.flow.dim})


class LearnedPrior:
    """``perceptual · VGG + l1_latent · |ẑ − z_hr| + l1 · |SR − HR|`` of the prior's image (METHOD §9).

    LINF gives no gradient but to ẑ.

    Args:
        perceptual: weight of the perceptual distance.
        l1_latent: weight of the error of the latent; z_hr is that of the HR image.
        l1: weight of the error of the image, in [-1, 1] units.
        aligned: the U-Net takes LR features at the window's own place, as in a whole image; False, as published,
            for those of the whole LR crop, wherever in it the window lies.
        features: gives the perceptual distance; not called where its weight is 0.
    """

    def __init__(
        self,
        perceptual: float = 1.0,
        l1_latent: float = 0.0,
        l1: float = 0.0,
        *,
        aligned: bool = False,
        features: Callable[[], Perceptual] = Perceptual,
    ) -> None:
        self.weights = checked_weights(perceptual=perceptual, l1_latent=l1_latent, l1=l1)
        self.aligned = aligned
        self.perceptual = features() if perceptual else None

    def __call__(self, model: LINF, batch: SRBatch) -> dict[str, Tensor]:
        """Each part by name, and their weighted sum as ``loss``; of contiguous windows of whole patches."""
        assert model.prior is not None
        lr, hr, coord, cell = batch
        with torch.no_grad():
            condition = model.condition(lr, coord, cell)
            r = window_lr_residual(lr, coord, cell, model.patch_size)
            z_lr = model.flow(_columns(r), condition)[0].view_as(r.transpose(0, 1)).transpose(0, 1)
            residual = model.residual(lr, hr, coord, cell)
        latent = _columns(model.prior(z_lr, 2 * lr - 1, coord if self.aligned else None))
        parts = {}
        if self.weights["l1_latent"]:
            with torch.no_grad():
                z_hr = model.flow(_columns(residual), condition)[0]
            parts["l1_latent"] = (latent - z_hr).abs().mean()
        if self.weights["perceptual"] or self.weights["l1"]:
            x = model.flow.inverse(latent, condition).view_as(r.transpose(0, 1)).transpose(0, 1)
        if self.weights["perceptual"]:
            assert self.perceptual is not None
            patches = model.restore(lr, x, coord, cell), hr
            shown, wanted = (F.pixel_shuffle(part, model.patch_size) for part in patches)
            parts["perceptual"] = self.perceptual.to(shown)(shown, wanted)
        if self.weights["l1"]:
            parts["l1"] = (x - residual).abs().mean()
        return weighted_sum(parts, self.weights)


def latents(like: Tensor, seed: int, first: int) -> Tensor:
    """Standard normal numbers of a tensor's shape, type and device.

    Row ``i`` is a function of (seed, first + i) alone: a sample has its latents whatever batch or rank it comes in.
    """

    def row(i: int) -> Tensor:
        key = int(np.random.SeedSequence((seed, first + i)).generate_state(1, np.uint64)[0])
        generator = torch.Generator(like.device).manual_seed(key)
        return torch.randn(like.shape[1:], generator=generator, device=like.device, dtype=like.dtype)

    return torch.stack([row(i) for i in range(len(like))])


class Regression:
    """Mean absolute error of the colours, in [-1, 1] units: how LIIF and LTE are trained (METHOD §8)."""

    def __call__(self, model: baselines.Regression, batch: SRBatch) -> dict[str, Tensor]:
        """The error as ``loss``."""
        if not isinstance(model, baselines.Regression):
            raise UsageError(f"{type(model).__name__} is no regression: task=regression is for LIIF and LTE")
        return {"loss": 2 * (model.predict(batch.lr, batch.coord, batch.cell) - batch.hr).abs().mean()}


def _columns(patches: Tensor) -> Tensor:
    """(B,D,gh,gw) → (D, B·gh·gw)."""
    return patches.transpose(0, 1).flatten(1)


def _check_flow(model: object) -> None:
    if not isinstance(model, LINF):
        raise UsageError(f"{type(model).__name__} has no likelihood to train: add task=regression")


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
