"""One image at one scale, by every system: all that a table, a curve or a panel of a study shows of it."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from linf.coordinates import mean_scale
from linf.data.pairs import ImagePair, ScaledImages
from linf.errors import UsageError
from linf.evaluation.assumptions import Assumptions
from linf.evaluation.systems import System, systems
from linf.images.luma import BENCHMARK_LUMA
from linf.metrics.corpus import PatchFeatures
from linf.metrics.functional import bits_per_dimension, crop_border
from linf.metrics.metric import LPIPS, ImageMetric, SelfSSIM
from linf.models.baselines import Bicubic
from linf.models.consistency import Projection
from linf.models.distribution import NOMINAL, Distribution, coverage, with_tails
from linf.models.joint_density import NEAR, joint_gain
from linf.models.super_resolver import SuperResolver
from linf.models.tails import Tails

Measured = dict[str, float | str | None]

Features = dict[str, dict[str, Tensor]]
"""Features (n,F) of one image by each network and system."""


class Unit(NamedTuple):
    """What is known of one image at one scale."""

    rows: list[Measured]
    """Per system: its name, temperature and metrics."""
    distribution: Measured | None
    """Of LINF: likelihood, whitened residuals, and what closed-form PSNR is made of."""
    calibration: list[Measured]
    """Of LINF: shares of HR within the predicted intervals."""
    deviations: Sequence[Measured] = ()
    """Of systems with several samples: their names, temperatures, and the deviation of each metric over the samples."""
    digest: str | None = None
    """Of the images that it was measured on, see `ScaledImages.digest`; None where an earlier version measured it."""
    at: float = 0
    """When it was measured, in seconds since 1970; of two of one image and scale the later counts."""


class Measurement(NamedTuple):
    """What is found of one image at one scale."""

    unit: Unit
    images: dict[str, Tensor]
    """Where they are to be kept: each system's first image (C,H,W), LINF's ``deviation`` (H,W) at τ = 1, of Y or else
    over all channels, and, where LPIPS is among the metrics, its ``best_temperature`` (H,W)."""
    features: Features
    """Of each system's first image, and of ``HR``."""


def measure(
    model: SuperResolver,
    image: ImagePair,
    metrics: Mapping[str, ImageMetric],
    *,
    temperatures: Sequence[float],
    samples: int,
    border: int,
    seed: int,
    assumed: Assumptions = Assumptions(),
    consistency: int = 0,
    ensemble: bool = False,
    keep: bool = False,
    networks: Mapping[str, PatchFeatures] | None = None,
) -> Measurement:
    """Score every system on an image, from one encoding and, for LINF, ``1 + samples`` decodes for all temperatures.

    Args:
        model: what is studied.
        image: from `collate_pair`.
        metrics: by name.
        temperatures: of LINF's samples.
        samples: of each temperature, over which its figures are means.
        border: pixels left out on each side.
        seed: of the first sample; the next has ``seed + 1``.
        assumed: how latents are drawn and measured.
        consistency: rounds that make every image of the model consistent with LR; its likelihood, deviation and
            calibration stay those of the model itself.
        ensemble: whether there is a line of the self-ensemble.
        keep: whether images are kept.
        networks: what computes features of patches, by name, for the metrics of all images together.
    """
    lr, hr = image.lr, image.hr
    # The distribution and the prior share them.
    encoded = model.encode(lr)
    sampling: dict[str, Any] = {
        "samples": samples,
        "seed": seed,
        "latents": assumed.latents,
        "highest": max(temperatures),
        "features": encoded,
    }
    known = model.distribution(lr, image.size, mix=mixtures(hr.shape[1]).to(lr), hr=hr, **sampling)

    def by_system(size: tuple[int, int], known: Distribution | None) -> Iterator[System]:
        projection = None
        if consistency:
            assert image.reduction is not None
            projection = Projection((lr.shape[-2], lr.shape[-1]), size, consistency, image.reduction)
        given: dict[str, Any] = {"features": encoded, "peak": image.peak, "ensemble": ensemble}
        return systems(model, lr, size, temperatures, known=known, projection=projection, **given)

    lower: Iterator[System | None] = itertools.repeat(None)
    if any(isinstance(metric, SelfSSIM) for metric in metrics.values()):
        # Half the size, but not below LR's: the scale at which `SelfSSIM` looks again.
        high, wide = (max((n + 1) // 2, m) for n, m in zip(image.size, lr.shape[-2:], strict=True))
        lower = by_system((high, wide), model.distribution(lr, (high, wide), **sampling))
    rows, deviations, images = list[Measured](), list[Measured](), dict[str, Tensor]()
    networks = networks or {}
    features = {name: {"HR": network(hr)} for name, network in networks.items()}
    # The endless `lower` is not asked for a system more than there are.
    for system, below in zip(by_system(image.size, known), lower, strict=False):
        row, spread = _score(system, below, image, metrics, border, samples)
        rows.append(row)
        if len(system.images) > 1:
            deviations.append(spread)
        if keep:
            images[system.name] = system.images[0, 0]
        for name, network in networks.items():
            features[name][system.name] = network(system.images[0])
    if known is None:
        return Measurement(Unit(rows, None, [], deviations), images, features)
    if keep:
        lpips = next((m for m in metrics.values() if isinstance(m, LPIPS)), None)
        if lpips is not None and len(temperatures) > 1:
            images["best_temperature"] = best_temperature(
                lpips, {tau: images[f"τ={tau:g}"] for tau in temperatures}, hr
            )
        assert known.deviation is not None
        part = luma_of(known.deviation, hr.shape[1])[0]
        images["deviation"] = part[0] if len(part) == 1 else part.square().mean(0).sqrt()
    tails = assumed.tails_of(model, image.scale)
    known = known if tails is None else with_tails(known, tails)
    joint = _joint_log_prob(model, known, image)
    unit = Unit(rows, *_distribution(known, hr, border, image.peak, joint, tails), deviations)
    return Measurement(unit, images, features)


def _score(
    system: System,
    below: System | None,
    image: ImagePair,
    metrics: Mapping[str, ImageMetric],
    border: int,
    samples: int,
) -> tuple[Measured, Measured]:
    """The figures of a system as means over its samples, and their deviations; ``below`` is it at the lower scale."""
    row: Measured = {"system": system.name, "temperature": system.temperature}
    spread = dict(row)
    for name, metric in metrics.items():
        # What is not random varies by nothing, as two of it show.
        repeated = metric.compares_samples and len(system.images) == 1
        sr = system.images[:, 0].expand(min(samples, 2) if repeated else -1, -1, -1, -1)
        against = below.images[:, 0] if isinstance(metric, SelfSSIM) and below else image.hr
        figures = metric.of_samples(sr, against, image.lr, border).double()
        row[name] = figures.mean().item()
        spread[name] = figures.std().item() if figures.ndim and len(figures) > 1 else None
    return row, spread


def check_consistency(rounds: int, model: SuperResolver, data_sets: Sequence[ScaledImages]) -> None:
    """Raise UsageError where no image can be made consistent: bicubic's, or with LR that is not linear in HR."""
    if rounds and isinstance(model, Bicubic):
        raise UsageError("consistency changes a model's images, and bicubic stays as it is: leave it out")
    for images in data_sets if rounds else ():
        if images.degradation and not images.degradation.linear and set(images.scales) - set(images.lr):
            raise UsageError(
                f"consistency={rounds} would put into every image what was done to LR of {images.name} "
                f"({images.degradation}): leave it out, or degrade by blur and a kernel alone"
            )


def mixtures(channels: int) -> Tensor:
    """The weights of each channel by itself and, for RGB, of Y: (M,C)."""
    each = torch.eye(channels)
    return torch.cat([each, torch.tensor([BENCHMARK_LUMA])]) if channels == 3 else each


def luma_of(mixed: Tensor, channels: int) -> Tensor:
    """Of `mixtures` (B,M,H,W) what PSNR on Y is taken on: Y of RGB, and otherwise all channels."""
    return mixed[:, 3:] if channels == 3 else mixed


def best_temperature(lpips: LPIPS, images: Mapping[float, Tensor], hr: Tensor) -> Tensor:
    """The temperature at which each pixel's share of LPIPS is least: (C,H,W) by temperature, HR (1,C,H,W) → (H,W)."""
    least, best = torch.full_like(hr[0, 0], math.inf), torch.full_like(hr[0, 0], math.nan)
    for tau, image in images.items():
        distance = lpips.network.spatial(image[None], hr)[0]
        better = distance < least
        least[better], best[better] = distance[better], tau
    return best


def _joint_log_prob(model: SuperResolver, known: Distribution, image: ImagePair) -> Tensor | None:
    """As `Distribution.log_prob`, of correlated latents; None for a model that does not know how they are."""
    assert known.latents is not None
    assert known.log_prob is not None
    if model.correlation is None:
        return None
    (filters,) = model.correlation.filters(image.lr.new_tensor([mean_scale(image.scale)]))
    gain = joint_gain(known.latents[0], filters, math.ceil(NEAR / model.patch_size))
    return known.log_prob + gain


def _distribution(
    known: Distribution, hr: Tensor, border: int, peak: int, joint: Tensor | None, tails: Tails | None
) -> tuple[Measured, list[Measured]]:
    assert known.deviation is not None
    assert known.latents is not None
    assert known.log_prob is not None
    error, deviation = (crop_border(part, border).double() for part in (known.mean - hr, known.deviation))
    channels = hr.shape[1]
    luma = torch.einsum("c,bchw->bhw", error.new_tensor(BENCHMARK_LUMA), error) if channels == 3 else error
    z = known.latents.double()
    measured: Measured = {
        "bits_per_dim": bits_per_dimension(known.log_prob, z.shape[1], peak).item(),
        "joint_bits_per_dim": None if joint is None else bits_per_dimension(joint, z.shape[1], peak).item(),
        "whitened_mean": z.mean().item(),
        "whitened_var": z.var(correction=0).item(),
        "whitened_kurtosis": ((z - z.mean()).pow(4).mean() / z.var(correction=0).square()).item(),
        "error_y": luma.square().mean().item(),
        "variance_y": luma_of(deviation, channels).square().mean().item(),
        "error_rgb": error.square().mean().item(),
        "variance_rgb": deviation[:, :channels].square().mean().item(),
    }
    calibration: list[Measured] = [
        {"kind": kind, "nominal": nominal, "covered": covered}
        for kind, values, of in (("pixel", error / deviation[:, :channels], tails), ("latent", z, None))
        for nominal, covered in zip(NOMINAL, coverage(values, of), strict=True)
    ]
    return measured, calibration
