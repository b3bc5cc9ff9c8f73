"""Correlated latents: each patch's own distribution, and how neighbours agree, against what a field was made with."""

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal
from torch.nn import functional as F

from linf.models.conditioner import FourierConditioner
from linf.models.correlation import CorrelatedField, LatentCorrelation
from linf.models.encoders import EDSR
from linf.models.flow import ConditionalFlow
from linf.models.joint_density import joint_gain
from linf.models.latent_statistics import LatentCovariance, filter_taps, latent_statistics
from linf.models.linf import LINF
from linf.models.noise import LatentField

SIZE = (47, 59)  # No multiple of a patch.


def random_taps(dim: int, reach: int, seed: int = 0) -> Tensor:
    """A filter whose middle is strongest, and whose output is not white within a patch."""
    generator = torch.Generator().manual_seed(seed)
    taps = torch.randn(2 * reach + 1, 2 * reach + 1, dim, dim, generator=generator) / dim**0.5 / 3
    taps[reach, reach] += torch.eye(dim)
    return taps


def correlation(dim: int = 27, reach: int = 1, scales: tuple[float, ...] = (2, 3, 4)) -> LatentCorrelation:
    made = LatentCorrelation(dim, scales, reach)
    made.taps.copy_(torch.stack([random_taps(dim, reach, seed) for seed in range(len(scales))]))
    return made


def model(patch_size: int = 3) -> LINF:
    torch.manual_seed(0)
    made = LINF(
        EDSR(blocks=1, channels=8),
        partial(FourierConditioner, width=16, depth=1),
        ConditionalFlow(patch_size, steps=3),
    )
    made.flow.whiten(0.1 * torch.randn(made.flow.dim, 1000))
    with torch.no_grad():
        made.conditioner.mlp[-1].weight *= 4
    made.correlation = correlation(made.dim)
    return made.eval()


def covariances(filters: Tensor, offset: tuple[int, int]) -> Tensor:
    """E[z_p z_{p+Δ}ᵀ] of filtered white noise, (n,n,D,D) → (D,D), by its definition."""
    side = range(len(filters))
    total = torch.zeros_like(filters[0, 0])
    for y in side:
        for x in side:
            if y - offset[0] in side and x - offset[1] in side:
                total += filters[y, x] @ filters[y - offset[0], x - offset[1]].T
    return total


@pytest.mark.parametrize("scale", [1.0, 2.0, 2.5, 3.7, 4.0, 9.0])
def test_a_patch_by_itself_is_standard_gaussian_at_every_scale(scale: float) -> None:
    (filters,) = correlation().filters(torch.tensor([scale]))
    assert torch.allclose(covariances(filters, (0, 0)), torch.eye(27), atol=1e-5)
    assert covariances(filters, (0, 1)).abs().max() > 0.1


def test_between_two_scales_the_filter_is_between_theirs() -> None:
    of = correlation()
    at = [covariances(f, (0, 1)) for f in of.filters(torch.tensor([2.0, 2.1, 2.9, 3.0]))]
    for near, far, between in ((at[0], at[3], at[1]), (at[3], at[0], at[2])):
        assert (between - near).norm() < 0.5 * (between - far).norm()
    beyond = of.filters(torch.tensor([1.0, 2.0, 4.0, 30.0]))
    assert torch.equal(beyond[0], beyond[1])
    assert torch.equal(beyond[2], beyond[3])
    single = correlation(scales=(4,))
    assert torch.equal(*single.filters(torch.tensor([2.0, 4.0])))


@pytest.mark.parametrize("kept", [0, 5])
def test_latents_in_parts_are_those_of_the_whole(kept: int) -> None:
    of = correlation(reach=2)
    whole = CorrelatedField(LatentField(3, 11, 27), of, 3.3)[1, slice(0, 9), slice(0, 7)]
    parts = CorrelatedField(LatentField(3, 11, 27, kept=kept), of, 3.3)
    for row in (8, 0, 4, 5):
        part = parts[1, slice(row, row + 1), slice(2, 5)]
        assert torch.allclose(part, whole[row : row + 1, 2:5], atol=1e-5)


def test_the_filter_is_a_convolution() -> None:
    of = correlation(reach=2)
    white, filters = torch.randn(2, 27, 10, 12), of.filters(torch.tensor([2.0, 3.5]))
    for each, kernel, given in zip(of(white, filters), filters, white, strict=True):
        assert torch.allclose(each, F.conv2d(given[None], kernel.permute(2, 3, 0, 1))[0], atol=1e-4)


def test_the_covariance_of_a_field_is_found_again_and_drawn_again() -> None:
    (truth,) = correlation(dim=3).filters(torch.tensor([2.0]))
    made = LatentCorrelation(3, [2], 1)
    field = made(torch.randn(1, 3, 502, 502, generator=torch.Generator().manual_seed(0)), truth[None])[0]
    sums = LatentCovariance(3, window=4)
    for part in field.split(250, dim=1):
        sums.update(part)
    found = sums.compute().float()
    assert torch.allclose(found[4, 4], torch.eye(3), atol=0.02)
    taps = filter_taps(found.double(), reach=4).float()
    for offset in ((0, 1), (1, 0), (1, 1), (1, -1), (2, 0), (2, 1)):
        expected = covariances(truth, offset)
        assert torch.allclose(found[4 + offset[0], 4 + offset[1]], expected, atol=0.02)
        assert torch.allclose(covariances(taps, offset), expected, atol=0.03)
    assert torch.allclose(covariances(taps, (0, 0)), torch.eye(3), atol=1e-5)


def test_the_covariance_of_few_patches_is_refused() -> None:
    sums = LatentCovariance(3, window=4)
    sums.update(torch.zeros(3, 4, 9))
    with pytest.raises(ValueError, match="more than 4 patches a side"):
        sums.compute()


def test_estimation_finds_latents_that_were_drawn() -> None:
    """Images sampled from a model with correlated latents give their correlation back."""
    linf = model(patch_size=1)
    assert linf.correlation is not None
    truth = {2.0: linf.correlation.filters(torch.tensor([2.0]))[0]}
    lr = torch.rand(1, 3, 60, 60)
    hr = linf.sample(lr, (120, 120), temperature=1.0, seed=1, latents="correlated")
    found, tails, covariance = latent_statistics(linf, [(2.0, lr, hr)])
    assert tails[2.0].freedom > 30, "they are Gaussian"
    assert tails[2.0].scale == pytest.approx(1, abs=0.1)
    assert found.config["scales"] == [2.0]
    middle = covariance[2.0].shape[0] // 2
    assert torch.allclose(covariance[2.0][middle, middle].float(), torch.eye(3), atol=0.1)
    for offset in ((0, 1), (1, 0), (1, 1)):
        expected = covariances(truth[2.0], offset)
        (filters,) = found.filters(torch.tensor([2.0]))
        assert torch.allclose(covariances(filters, offset), expected, atol=0.08)


def test_samples_agree_between_patches_and_keep_their_moments() -> None:
    linf, lr = model(), torch.rand(1, 3, 12, 15, generator=torch.Generator().manual_seed(1))
    known = {
        latents: linf.distribution(lr, SIZE, samples=200, seed=1, latents=latents, mix=torch.eye(3))
        for latents in ("independent", "correlated")
    }
    for found in known.values():
        assert found is not None
        assert found.deviation is not None
        ratio = found.noise.square().mean((0, 1)) / found.deviation[0].square()
        # Of 200 samples, the deviation of a pixel's mean square is 10 %.
        assert abs(ratio.mean() - 1) < 0.01
        assert ratio.std() < 0.15
    one, other = known.values()
    assert torch.equal(one.mean, other.mean)
    assert torch.equal(one.deviation, other.deviation)
    assert not torch.equal(one.noise, other.noise)


@pytest.mark.parametrize("patch_size", [1, 3])
def test_neither_tiles_nor_chunks_change_a_sample(patch_size: int) -> None:
    linf, lr = model(patch_size), torch.rand(2, 3, 12, 15)
    given = {"temperature": 0.8, "seed": 3, "latents": "correlated"}
    whole = linf.sample(lr, SIZE, **given)
    assert not torch.allclose(whole, linf.sample(lr, SIZE, **given | {"latents": "independent"}), atol=1e-2)
    assert torch.allclose(linf.sample(lr, SIZE, chunk=70, **given), whole, atol=1e-5)
    assert torch.allclose(linf.sample(lr, SIZE, tile=5, **given), whole, atol=1e-5)
    assert torch.allclose(linf.sample(lr[1:], SIZE, **given | {"seed": 4}), whole[1:], atol=1e-5)


def test_a_model_is_laid_out_channels_last_and_changes_its_dtype() -> None:
    linf, lr = model(), torch.rand(1, 3, 8, 8)
    given = {"temperature": 0.8, "seed": 3, "latents": "correlated"}
    before, taps = linf.sample(lr, SIZE, **given), linf.correlation.taps.clone()
    linf.to(memory_format=torch.channels_last)
    assert linf.conditioner.coef.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(linf.correlation.taps, taps)
    torch.testing.assert_close(linf.sample(lr, SIZE, **given), before, rtol=0, atol=1e-5)
    assert torch.equal(linf.double().correlation.taps, taps.double())


def test_a_model_that_does_not_know_its_correlation_says_so() -> None:
    linf = model()
    linf.correlation = None
    with pytest.raises(ValueError, match="linf latents"):
        linf.sample(torch.rand(1, 3, 8, 8), (16, 16), temperature=1.0, latents="correlated")
    with pytest.raises(ValueError, match="give one of independent, correlated"):
        linf.sample(torch.rand(1, 3, 8, 8), (16, 16), temperature=1.0, latents="smooth")


@pytest.mark.parametrize(("scales", "reach"), [([], 1), ([2, 2], 1), ([3, 2], 1), ([2], -1)])
def test_impossible_correlations_are_refused(scales: list[float], reach: int) -> None:
    with pytest.raises(ValueError, match=r"ascend|negative"):
        LatentCorrelation(3, scales, reach)


@pytest.mark.parametrize("size", [(2, 2), (1, 3), (3, 4)])
def test_joint_density_is_that_of_the_whole_field(size: tuple[int, int]) -> None:
    """Where all of a small grid is near, it equals torch's own density of all latents at once."""
    (filters,) = correlation(dim=3, reach=2).filters(torch.tensor([2.0])).double()
    places = [(y, x) for y in range(size[0]) for x in range(size[1])]
    whole = torch.cat(
        [torch.cat([covariances(filters, (b[0] - a[0], b[1] - a[1])) for b in places], dim=1) for a in places]
    )
    z = torch.randn(3, *size, generator=torch.Generator().manual_seed(0)).double()
    column = torch.stack([z[:, y, x] for y, x in places]).flatten()
    joint = MultivariateNormal(torch.zeros(len(column)).double(), whole).log_prob(column)
    alone = Normal(0, 1).log_prob(column).sum()
    torch.testing.assert_close(joint_gain(z, filters, near=4).sum(), joint - alone)


def test_joint_density_is_higher_for_the_fields_own_latents_only() -> None:
    of = correlation(dim=3, reach=1)
    filters = of.filters(torch.tensor([2.0]))
    drawn = of(torch.randn(1, 3, 102, 122, generator=torch.Generator().manual_seed(0)), filters)[0]
    assert joint_gain(drawn, filters[0], near=2).mean() > 0.05
    assert joint_gain(torch.randn(3, 100, 120), filters[0], near=2).mean() < -0.05
    white = torch.zeros(1, 1, 3, 3) + torch.eye(3)
    torch.testing.assert_close(joint_gain(drawn, white, near=1), torch.zeros(100, 120).double())
