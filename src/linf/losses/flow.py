"""Loss box of the figure: the losses of both stages of LINF (METHOD §6), and what the prior's shares with them."""

import math
from collections.abc import Callable, Collection

import torch
from torch import Tensor
from torch.nn import functional as F

from linf.data.crops import SRBatch
from linf.losses.consistency import unseen
from linf.losses.distillation import Teacher
from linf.losses.perceptual import Perceptual, PerceptualLoss
from linf.models.correlation import LatentChoice, check_latents, chosen_correlation
from linf.models.flow import ConditionalFlow, to_columns, to_patches
from linf.models.linf import LINF
from linf.models.noise import gaussian
from linf.models.temperature import check_temperatures


def nll(flow: ConditionalFlow, residual: Tensor, condition: Tensor) -> Tensor:
    """Negative log-likelihood in nats per dimension, comparable between patch sizes; (D, N), (K·2·D, N) → scalar."""
    return -flow.log_prob(residual, condition).mean() / flow.dim


def l1(flow: ConditionalFlow, residual: Tensor, condition: Tensor) -> Tensor:
    """Mean absolute error of the image at τ = 0, in [-1, 1] units; (D, N), (K·2·D, N) → scalar."""
    return (flow.inverse(torch.zeros_like(residual), condition) - residual).abs().mean()


class LikelihoodL1:
    """``nll · NLL per dimension + l1 · L1``, both from one condition: the loss of stage 1 (METHOD §6).

    Args:
        nll: weight of the likelihood, 1 in the paper.
        l1: weight of the error at τ = 0, 0 in the paper. A term of weight 0 is not computed.

    Raises:
        ValueError: a weight is negative or not finite, or all are 0.
    """

    def __init__(self, nll: float = 1.0, l1: float = 0.0) -> None:
        self.weights = check_weights(nll=nll, l1=l1)

    def __call__(self, model: LINF, batch: SRBatch) -> dict[str, Tensor]:
        """Each term by name, and their weighted sum as ``loss``.

        Raises:
            ValueError: the model has no flow.
        """
        check_flow(model)
        residual = to_columns(model.residual(*batch))
        condition = model.condition(batch.lr, batch.coord, batch.cell)
        terms = {
            name: term(model.flow, residual, condition)
            for name, term in (("nll", nll), ("l1", l1))
            if self.weights[name]
        }
        return weighted_sum(terms, self.weights)


class Finetune:
    """``nll · NLL + l1 · L1 + perceptual · VGG``, all from one condition: the loss of stage 2 (METHOD §6).

    The published weights multiply the NLL in nats per **patch**, D times the NLL per dimension that is logged; the L1
    at τ = 0 in [-1, 1] units; and the distance of VGG features between a sample and the HR image. Distillation, which
    is not in the paper, is an L1 at τ = 0 against a teacher's images in place of HR.

    Args:
        nll: weight of the likelihood per patch.
        l1: weight of the error at τ = 0.
        distillation: weight of the error at τ = 0 against the teacher's images.
        perceptual: weight of the perceptual distance; published for RRDB, and 0 for the other encoders.
        temperature: τ of the sample in the perceptual distance.
        latents: of that sample's patches, ``independent`` or ``correlated`` as `linf latents` found them.
        consistency: rounds of back-projection of that sample, see `linf.losses.consistency`; 0 leaves it as it is.
        through_mean: how much of the perceptual distance's gradient reaches the mean, from 0 to 1: at 0 it shapes the
            noise of the samples alone.
        features: makes the perceptual distance; not called if its weight is 0.
        teacher: makes the teacher; not called if the weight of distillation is 0.

    Raises:
        ValueError: a weight is negative or not finite, all are 0, there is no teacher to distil, the temperature or
            through_mean is out of range, latents are neither, or consistency is not a whole number of at least 0.
    """

    def __init__(
        self,
        nll: float = 5e-4,
        l1: float = 1.0,
        perceptual: float = 2.5e-2,
        *,
        temperature: float = 0.8,
        latents: LatentChoice = "independent",
        consistency: int = 0,
        through_mean: float = 1.0,
        distillation: float = 0,
        features: Callable[[], PerceptualLoss] = Perceptual,
        teacher: Callable[[], Teacher] | None = None,
    ) -> None:
        self.weights = check_weights(nll=nll, l1=l1, distillation=distillation, perceptual=perceptual)
        if distillation and teacher is None:
            raise ValueError(f"distillation={distillation} needs a teacher")
        self.teacher = teacher() if distillation and teacher is not None else None
        (self.temperature,) = check_temperatures(temperature)
        self.latents = check_latents(latents)
        if type(consistency) is not int or consistency < 0:
            raise ValueError(
                f"rounds of consistency are {consistency}: give a whole number, 0 for samples as they are"
            )
        if not 0 <= through_mean <= 1:
            raise ValueError(f"through_mean is {through_mean}: give a number from 0 to 1")
        self.consistency, self.through_mean = consistency, through_mean
        self.perceptual = features() if perceptual else None

    def __call__(
        self, model: LINF, batch: SRBatch, z: Tensor | None = None, only: Collection[str] | None = None
    ) -> dict[str, Tensor]:
        """Each term by name, and their weighted sum as ``loss``.

        Args:
            model: a LINF.
            batch: training samples; for the perceptual term, contiguous windows of whole patches.
            z: (B,D,gh,gw) latents of the sample at τ = 1; None draws them from torch's own generator.
            only: the terms to compute; None computes all whose weight is not 0.

        Raises:
            ValueError: the model has no flow, or the windows are too small for the perceptual distance.
        """
        check_flow(model)
        wanted = [name for name, weight in self.weights.items() if weight and (only is None or name in only)]
        residual = model.residual(*batch)
        x, condition = to_columns(residual), model.condition(batch.lr, batch.coord, batch.cell)
        terms = {}
        if "nll" in wanted:
            terms["nll"] = nll(model.flow, x, condition)
        if wanted != ["nll"]:
            inverses = model.flow.inverses()
            mean = model.flow.inverse(torch.zeros_like(x), condition, inverses)
        if "l1" in wanted:
            terms["l1"] = (mean - x).abs().mean()
        if "distillation" in wanted:
            assert self.teacher is not None
            taught = self.teacher(batch.lr, batch.coord, batch.cell, model.patch_size)
            target = model.residual(batch.lr, taught, batch.coord, batch.cell)
            terms["distillation"] = (mean - to_columns(target)).abs().mean()
        if "perceptual" in wanted:
            assert self.perceptual is not None
            z = self.sample_latents(model, batch) if z is None else z
            noise = model.flow.inverse_linear(to_columns(z), condition, inverses)
            sample_mean = (
                mean if self.through_mean == 1 else torch.lerp(mean.detach(), mean, self.through_mean)
            )
            # The model is affine in z (METHOD §4).
            sample = to_patches(sample_mean + self.temperature * noise, residual)
            sr = model.restore(batch.lr, sample, batch.coord, batch.cell)
            sr, hr = (F.pixel_shuffle(patches, model.patch_size) for patches in (sr, batch.hr))
            if self.consistency:
                lr_size = batch.lr.shape[-2], batch.lr.shape[-1]
                sr = hr + unseen(sr - hr, batch.coord, batch.cell, lr_size, self.consistency)
            terms["perceptual"] = self.perceptual(sr, hr)
        return weighted_sum(terms, self.weights | {"nll": self.weights["nll"] * model.flow.dim})

    def sample_latents(self, model: LINF, batch: SRBatch, seed: int | None = None, first: int = 0) -> Tensor:
        """Latents of the sample in the perceptual distance, at τ = 1.

        Args:
            model: a LINF.
            batch: training samples in contiguous windows of patches.
            seed: see `white_latents`, as for ``first``; None draws from torch's own generator.
            first: the number of the batch's first sample.

        Returns:
            (B,D,gh,gw) on the batch's device.

        Raises:
            ValueError: they are to be correlated, and the model does not know how.
        """
        correlation = chosen_correlation(model.correlation, self.latents)
        margin = 0 if correlation is None else correlation.reach
        around = F.pad(batch.hr, [margin] * 4)
        white = torch.randn_like(around) if seed is None else white_latents(around, seed, first)
        if correlation is None:
            return white
        h, w = batch.lr.shape[-2:]
        scale = (4 / (batch.cell.prod(1) * h * w)).sqrt()  # A cell is (2/H, 2/W).
        return correlation(white, correlation.filters(scale)).to(white.dtype)


def white_latents(like: Tensor, seed: int, first: int) -> Tensor:
    """Standard Gaussian latents of a tensor's shape (B,D,gh,gw), dtype and device. Row ``i`` is a function of (seed,
    first + i) alone: a sample has the same latents in any batch, on any rank and device.
    """
    z = torch.stack([gaussian(seed, first + i, like.shape[1:]) for i in range(len(like))])
    # From pageable memory the host would wait for the device.
    z = z.pin_memory() if like.device.type == "cuda" else z
    return z.to(like.device, like.dtype, non_blocking=True)


def check_flow(model: object) -> None:
    """Raise ValueError if a model has no flow, and so no likelihood."""
    if not isinstance(model, LINF):
        raise ValueError(f"{type(model).__name__} has no likelihood to train: add task=regression")


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
