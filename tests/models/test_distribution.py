"""The exact distribution of an image against sampling, `LINF.sample`, `LINF.log_prob` and torch's own distributions."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal
from torch.nn import functional as F

from linf.coordinates import patch_centres
from linf.images.luma import BENCHMARK_LUMA
from linf.models.conditioner import FourierConditioner
from linf.models.distribution import NOMINAL, Distribution, coverage
from linf.models.encoders import EDSR
from linf.models.explosion import tame
from linf.models.flow import ConditionalFlow
from linf.models.linf import LINF

SIZE = (23, 29)  # No multiple of a patch.


def model(patch_size: int = 3, strength: float = 0.1) -> LINF:
    """A small LINF whose noise is about as strong as a real one's and differs from place to place."""
    torch.manual_seed(0)
    made = LINF(
        EDSR(blocks=1, channels=8),
        partial(FourierConditioner, width=16, depth=1),
        ConditionalFlow(patch_size, steps=3),
    )
    made.flow.whiten(strength * torch.randn(made.flow.dim, 1000))
    with torch.no_grad():
        made.conditioner.mlp[-1].weight *= 4
    return made.eval()


def distribution(linf: LINF, lr: Tensor, size: tuple[int, int], **options: Any) -> Distribution:
    known = linf.distribution(lr, size, **{"seed": 1, **options})
    assert known is not None
    return known


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


COLOURS = torch.cat([torch.eye(3), torch.tensor([BENCHMARK_LUMA])])


@pytest.fixture(scope="module")
def lr() -> Tensor:
    return torch.rand(2, 3, 8, 10, generator=generator())


@pytest.mark.parametrize("patch_size", [1, 3])
def test_every_temperature_is_what_sample_gives(lr: Tensor, patch_size: int) -> None:
    linf, taus = model(patch_size), [0.0, 0.3, 1.0]
    sampled = linf.sample(lr, SIZE, temperature=taus, seed=1)
    known = distribution(linf, lr, SIZE)
    assert known.deviation is None
    for tau, image in zip(taus, sampled, strict=True):
        assert known.at(tau).shape == (1, 2, 3, *SIZE)
        torch.testing.assert_close(known.at(tau)[0], image, rtol=0, atol=1e-6)


def test_samples_differ_and_the_first_is_that_of_one_sample(lr: Tensor) -> None:
    linf = model()
    three, one = (distribution(linf, lr, SIZE, samples=n) for n in (3, 1))
    assert torch.equal(three.noise[0], one.noise[0])
    assert torch.equal(three.mean, one.mean)
    assert (three.noise[1] - three.noise[2]).std() > 0.01
    assert three.at(0).shape[0] == 1
    assert three.at(0.5).shape[0] == 3


@pytest.mark.parametrize("patch_size", [1, 3])
def test_the_deviation_is_that_of_samples(lr: Tensor, patch_size: int) -> None:
    linf = model(patch_size)
    known = distribution(linf, lr[:1], SIZE, samples=2000, mix=COLOURS)
    moments = distribution(linf, lr[:1], SIZE, mix=torch.eye(3))
    mean, deviation = moments.mean, moments.deviation
    assert known.deviation is not None
    torch.testing.assert_close(known.mean, mean, rtol=0, atol=1e-6)
    torch.testing.assert_close(known.deviation[:, :3], deviation, rtol=1e-5, atol=1e-7)
    luma = torch.einsum("c,sbchw->sbhw", torch.tensor(BENCHMARK_LUMA), known.noise)
    torch.testing.assert_close(known.deviation[:, 3], luma.std(0), rtol=0.1, atol=0)
    assert (known.deviation[:, 3] / luma.std(0)).mean().item() == pytest.approx(1, abs=5e-3)


def test_latents_and_density_are_those_of_hr_in_whole_patches(lr: Tensor) -> None:
    linf, hr = model(), torch.rand(2, 3, *SIZE, generator=generator())
    known = distribution(linf, lr, SIZE, hr=hr)
    whole = (SIZE[0] // 3, SIZE[1] // 3)
    assert known.latents is not None
    assert known.log_prob is not None
    assert known.latents.shape == (2, 27, *whole)
    coord = torch.stack(
        torch.meshgrid(
            patch_centres(SIZE[0], 3)[: whole[0]], patch_centres(SIZE[1], 3)[: whole[1]], indexing="ij"
        ),
        dim=-1,
    ).expand(2, -1, -1, -1)
    cell = torch.tensor([[2 / SIZE[0], 2 / SIZE[1]]]).expand(2, -1)
    patches = F.pixel_unshuffle(hr[..., : 3 * whole[0], : 3 * whole[1]], 3)
    expected = linf.log_prob(lr, linf.residual(lr, patches, coord, cell), coord, cell)
    torch.testing.assert_close(known.log_prob, expected, rtol=1e-4, atol=1e-3)
    # What has these latents is this image.
    z = torch.zeros(2, *(-(-n // 3) for n in SIZE), 27)
    z[:, : whole[0], : whole[1]] = known.latents.movedim(1, -1)
    back = linf.sample(lr, SIZE, temperature=1, z=z)[..., : 3 * whole[0], : 3 * whole[1]]
    torch.testing.assert_close(back, hr[..., : 3 * whole[0], : 3 * whole[1]], rtol=0, atol=1e-4)


def test_mean_and_deviation_give_the_psnr_of_the_mean_of_64_samples() -> None:
    """Before clamping, within 0.02 dB, at every temperature (METHOD §4)."""
    linf = model()
    hr = torch.rand(1, 3, 96, 96, generator=generator())
    lr = torch.nn.functional.avg_pool2d(hr, 4)
    known = distribution(linf, lr, (96, 96), samples=64, mix=COLOURS)
    assert known.deviation is not None
    error = (known.mean - hr).square().mean().item()
    variance = known.deviation[:, :3].square().mean().item()
    for tau in (0.0, 0.2, 0.5, 0.8, 1.0):
        mse = (known.at(tau) - hr).double().square().flatten(1).mean(1)
        sampled = (-10 * mse.log10()).mean().item()
        assert -10 * math.log10(error + tau**2 * variance) == pytest.approx(sampled, abs=0.02)


def test_ninety_percent_intervals_hold_ninety_percent_of_the_models_own_samples(lr: Tensor) -> None:
    linf = model()
    truth = distribution(linf, lr, (96, 120), seed=7).at(1)[0]
    known = distribution(linf, lr, (96, 120), hr=truth, mix=COLOURS)
    assert known.deviation is not None
    assert known.latents is not None
    for standardised in ((truth - known.mean) / known.deviation[:, :3], known.latents):
        covered = dict(zip(NOMINAL, coverage(standardised), strict=True))
        assert covered[0.9] == pytest.approx(0.9, abs=0.01)
        assert all(share == pytest.approx(nominal, abs=0.015) for nominal, share in covered.items())
    assert known.latents.var().item() == pytest.approx(1, abs=0.01)


def test_coverage_counts_what_lies_within() -> None:
    values = Normal(0, 1).icdf(torch.linspace(0, 1, 200_003, dtype=torch.float64)[1:-1])
    assert coverage(values) == pytest.approx(NOMINAL, abs=1e-5)
    assert coverage(torch.zeros(5)) == [1.0] * len(NOMINAL)
    assert coverage(torch.tensor([math.nan, math.inf])) == [0.0] * len(NOMINAL)


@pytest.mark.parametrize("patch_size", [1, 3])
def test_a_map_of_temperatures_is_each_temperature_in_its_place(lr: Tensor, patch_size: int) -> None:
    linf, field = model(patch_size), torch.zeros(SIZE)
    field[:, 10:20], field[:, 20:] = 0.4, 1.0
    mixed = linf.sample(lr, SIZE, temperature=field, seed=1)
    assert mixed.shape == (2, 3, *SIZE)
    parts = linf.sample(lr, SIZE, temperature=[0.0, 0.4, 1.0], seed=1)
    for part, columns in zip(parts, (slice(10), slice(10, 20), slice(20, None)), strict=True):
        torch.testing.assert_close(mixed[..., columns], part[..., columns], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "field", [torch.zeros(23, 28), torch.full(SIZE, -0.1), torch.full(SIZE, math.nan), torch.zeros(1, *SIZE)]
)
def test_a_bad_map_of_temperatures_is_refused(lr: Tensor, field: Tensor) -> None:
    with pytest.raises(ValueError, match="map of temperatures"):
        model().sample(lr, SIZE, temperature=field)


def test_noise_that_explodes_is_left_out_with_a_warning(lr: Tensor, caplog: pytest.LogCaptureFixture) -> None:
    linf = model(strength=1000.0)
    known = distribution(linf, lr, SIZE, samples=2)
    assert "of 320 patches" in caplog.text
    assert known.at(1).isfinite().all()
    assert known.noise.abs().max() <= 10


@pytest.mark.parametrize("bad", [math.nan, math.inf, 30.0])
@pytest.mark.parametrize("sample", [0, 1])
def test_noise_of_any_sample_that_explodes_is_left_out(sample: int, bad: float) -> None:
    mean, noise = torch.zeros(3, 4), [torch.ones(3, 4), torch.ones(3, 4)]
    noise[sample][1, 2] = bad
    assert tame(mean, noise, 1.0) == 1
    assert noise[sample].sum() == 9
    assert noise[1 - sample].sum() == 12
