"""LINF as a whole: what its images, moments and densities say about each other."""

import json
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal
from torch.nn import functional as F

from linf.checkpoints.native import build
from linf.coordinates import pixel_centres
from linf.models.conditioner import FourierConditioner
from linf.models.encoders import EDSR
from linf.models.flow import ConditionalFlow
from linf.models.linf import LINF
from linf.models.temperature import check_temperatures

PATCH_SIZES = [1, 3, 5]
SIZE = (11, 13)


def case(patch_size: int, batch: int = 2) -> tuple[LINF, Tensor, Tensor]:
    """A model with conditions that differ from query to query, LR images and latents for `SIZE`, in float64."""
    torch.manual_seed(0)
    flow = ConditionalFlow(patch_size, steps=2)
    model = LINF(EDSR(blocks=1, channels=4), partial(FourierConditioner, width=8, depth=2), flow).double()
    for p in (*model.encoder.parameters(), *model.conditioner.parameters()):
        torch.nn.init.normal_(p, std=0.2)
    grid = [-(-n // patch_size) for n in SIZE]
    z = torch.randn(batch, *grid, flow.dim, dtype=torch.float64)
    return model, torch.rand(batch, 3, 5, 6, dtype=torch.float64), z


def moments(model: LINF, lr: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation, (B,3,H,W) each."""
    known = model.distribution(lr, SIZE, mix=torch.eye(3))
    assert known is not None
    assert known.deviation is not None
    return known.mean, known.deviation


def queries(size: tuple[int, int], patch_size: int, batch: int) -> tuple[Tensor, Tensor]:
    """Coordinates (B,gh,gw,2) and cells (B,2) of the patches of an image of whole patches."""
    axes = [pixel_centres(n, dtype=torch.float64)[patch_size // 2 :: patch_size] for n in size]
    coord = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).repeat(batch, 1, 1, 1)
    return coord, torch.tensor([[2 / n for n in size]], dtype=torch.float64).repeat(batch, 1)


# Temperatures and latents


@pytest.mark.parametrize("patch_size", PATCH_SIZES)
def test_sequence_of_temperatures_is_each_by_itself(patch_size: int) -> None:
    model, lr, _ = case(patch_size)
    taus = [0.0, 0.4, 1.0, 1.7]
    together = model.sample(lr, SIZE, temperature=taus, seed=7)
    assert together.shape == (4, 2, 3, *SIZE)
    for tau, image in zip(taus, together, strict=True):
        alone = model.sample(lr, SIZE, temperature=tau, seed=7)
        assert alone.shape == (2, 3, *SIZE)
        torch.testing.assert_close(image, alone, rtol=0, atol=1e-12)


def test_sequence_of_temperatures_is_each_by_itself_in_single_precision() -> None:
    model, lr, z = (part.float() for part in case(3))
    together = model.sample(lr, SIZE, temperature=[0, 0.8], z=z)
    for tau, image in zip((0.0, 0.8), together, strict=True):
        alone = model.sample(lr, SIZE, temperature=tau, z=z)
        torch.testing.assert_close(image, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("patch_size", PATCH_SIZES)
def test_temperature_multiplies_latents(patch_size: int) -> None:
    model, lr, z = case(patch_size)
    halved = model.sample(lr, SIZE, temperature=1.0, z=0.5 * z)
    torch.testing.assert_close(model.sample(lr, SIZE, temperature=0.5, z=z), halved, rtol=0, atol=1e-12)
    torch.testing.assert_close(model.sample(lr, SIZE, temperature=[0.5], z=z)[0], halved, rtol=0, atol=1e-12)


@pytest.mark.parametrize("patch_size", PATCH_SIZES)
def test_temperature_zero_is_the_exact_mean_and_draws_nothing(patch_size: int) -> None:
    model, lr, _ = case(patch_size)
    state = torch.random.get_rng_state()
    image = model.sample(lr, SIZE, temperature=0)
    assert torch.equal(torch.random.get_rng_state(), state)
    mean, _ = moments(model, lr)
    torch.testing.assert_close(image, mean, rtol=0, atol=1e-12)
    torch.testing.assert_close(model.sample(lr, SIZE, temperature=[0.0])[0], mean, rtol=0, atol=1e-12)


@pytest.mark.parametrize("consistency", [0, 1])
def test_a_sample_counts_the_pixels_that_it_makes(consistency: int) -> None:
    model, lr, _ = case(3)
    made: list[int] = []
    model.sample(lr, SIZE, temperature=0.4, seed=7, consistency=consistency, advance=made.append)
    assert sum(made) == len(lr) * SIZE[0] * SIZE[1]


def test_a_seed_decides_the_sample() -> None:
    model, lr, _ = case(3)
    draws = [model.sample(lr, SIZE, temperature=0.8, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    z = model.sample_latents(SIZE, 0, batch=2)
    assert torch.equal(model.sample(lr, SIZE, temperature=0.8, z=z), draws[0])
    assert torch.equal(z[1], model.sample_latents(SIZE, 1)[0])
    torch.manual_seed(5)
    unseeded = [model.sample(lr, SIZE, temperature=0.8) for _ in range(2)]
    assert not torch.equal(*unseeded)
    torch.manual_seed(5)
    assert torch.equal(model.sample(lr, SIZE, temperature=0.8), unseeded[0])
    assert not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize("temperature", [0.8, [0.8]])
def test_exploding_inverse_falls_back_to_the_mean(temperature: float | list[float]) -> None:
    """Ten scales at their floor of 1e-4 are beyond float32, while the mean is the bilinear image (METHOD §4)."""
    model, lr, _ = case(3)
    model = LINF(model.encoder, partial(FourierConditioner, width=8, depth=2), ConditionalFlow(3, 10)).float()
    last = model.conditioner.mlp[-1]
    torch.nn.init.zeros_(last.weight)
    logits_and_shifts = torch.tensor([-60.0, 0.0]).repeat(10).repeat_interleave(27)
    last.bias.data.copy_(logits_and_shifts)
    bilinear = F.interpolate(lr.float(), SIZE, mode="bilinear", align_corners=False)
    image = model.sample(lr.float(), SIZE, temperature=temperature)
    torch.testing.assert_close(image.view_as(bilinear), bilinear, rtol=0, atol=1e-5)


# Moments


@pytest.mark.parametrize("patch_size", PATCH_SIZES)
def test_deviation_is_what_unit_latents_add_up_to(patch_size: int) -> None:
    """The variance of ``m + A z`` is the sum of the squares of ``A``'s columns."""
    model, lr, z = case(patch_size)
    mean, deviation = moments(model, lr)
    variance = torch.zeros_like(mean)
    for i in range(z.shape[-1]):
        unit = torch.zeros_like(z)
        unit[..., i] = 1
        variance += (model.sample(lr, SIZE, temperature=1.0, z=unit) - mean).square()
    torch.testing.assert_close(deviation, variance.sqrt(), rtol=0, atol=1e-12)


def test_mean_and_deviation_are_those_of_samples() -> None:
    model, lr, _ = case(3)
    mean, deviation = moments(model, lr)
    n = 400
    samples = torch.stack([model.sample(lr, SIZE, temperature=1.0, seed=2 * k) for k in range(n)])
    # Five standard errors of a mean, and of a Gaussian's deviation.
    assert ((samples.mean(0) - mean).abs() < 5 * deviation / n**0.5).all()
    assert ((samples.std(0) / deviation - 1).abs() < 5 / (2 * n) ** 0.5).all()


# Density


@pytest.mark.parametrize(("patch_size", "size"), [(1, (7, 9)), (3, (12, 9)), (5, (10, 15))])
def test_a_sampled_image_leads_back_to_its_latents_and_their_density(
    patch_size: int, size: tuple[int, int]
) -> None:
    model, lr, _ = case(patch_size)
    coord, cell = queries(size, patch_size, batch=2)
    grid = coord.shape[1:3]
    z = torch.randn(2, *grid, model.flow.dim, dtype=torch.float64)
    hr = model.sample(lr, size, temperature=1.0, z=z)
    residual = model.residual(lr, F.pixel_unshuffle(hr, patch_size), coord, cell)
    condition = model.condition(lr, coord, cell)
    columns = residual.transpose(0, 1).flatten(1)
    back, ladj = model.flow(columns, condition)
    # `sample` makes its own coordinates, in float32.
    torch.testing.assert_close(back.T.view_as(z), z, rtol=0, atol=1e-5)
    log_prob = model.log_prob(lr, residual, coord, cell)
    assert log_prob.shape == (2, *grid)
    assert torch.equal(log_prob.flatten(), model.flow.log_prob(columns, condition))
    unit = MultivariateNormal(torch.zeros(model.flow.dim).double(), torch.eye(model.flow.dim).double())
    torch.testing.assert_close(log_prob, unit.log_prob(z) + ladj.view(2, *grid), rtol=0, atol=1e-3)


@pytest.mark.parametrize("patch_size", PATCH_SIZES)
def test_residual_of_the_bilinear_image_is_zero(patch_size: int) -> None:
    model, lr, _ = case(patch_size)
    size = (15, 30)
    bilinear = F.interpolate(lr, size, mode="bilinear", align_corners=False)
    coord, cell = queries(size, patch_size, batch=2)
    patches = F.pixel_unshuffle(bilinear, patch_size)
    residual = model.residual(lr, patches + 0.25, coord, cell)
    torch.testing.assert_close(residual, torch.full_like(patches, 0.5), rtol=0, atol=1e-12)


@pytest.mark.parametrize("patch_size", PATCH_SIZES)
def test_likelihood_reaches_every_parameter_of_the_model(patch_size: int) -> None:
    model, lr, _ = case(patch_size)
    coord, cell = queries((15, 15), patch_size, batch=2)
    residual = torch.randn(2, model.flow.dim, *coord.shape[1:3], dtype=torch.float64)
    model.log_prob(lr, residual, coord, cell).sum().backward()
    for name, p in model.named_parameters():
        assert torch.isfinite(p.grad).all(), name
        assert p.grad.any(), name


@pytest.mark.parametrize("patch_size", PATCH_SIZES)
def test_images_of_a_batch_do_not_know_each_other(patch_size: int) -> None:
    model, lr, z = case(patch_size, batch=3)
    coord, cell = queries((15, 15), patch_size, batch=3)
    residual = torch.randn(3, model.flow.dim, *coord.shape[1:3], dtype=torch.float64)
    image = model.sample(lr, SIZE, temperature=1.0, z=z)
    both = moments(model, lr)
    log_prob = model.log_prob(lr, residual, coord, cell)
    for i in range(3):
        one = slice(i, i + 1)
        alone = model.sample(lr[one], SIZE, temperature=1.0, z=z[one])
        torch.testing.assert_close(image[one], alone, rtol=0, atol=1e-12)
        for together, by_itself in zip(both, moments(model, lr[one]), strict=True):
            torch.testing.assert_close(together[one], by_itself, rtol=0, atol=1e-12)
        by_itself = model.log_prob(lr[one], residual[one], coord[one], cell[one])
        torch.testing.assert_close(log_prob[one], by_itself, rtol=0, atol=1e-10)


# Start and configuration


def batches(patch_size: int, seed: int) -> list[tuple[Tensor, ...]]:
    """Noisy images as training gives them: lr, hr, coord, cell."""
    coord, cell = queries((30, 30), patch_size, batch=2)
    generator = torch.Generator().manual_seed(seed)
    given = []
    for _ in range(20):
        lr = torch.rand(2, 3, 10, 10, generator=generator, dtype=torch.float64)
        hr = F.interpolate(lr, (30, 30), mode="bicubic")
        hr += 0.1 * torch.randn(2, 3, 30, 30, generator=generator, dtype=torch.float64)
        given.append((lr, F.pixel_unshuffle(hr, patch_size), coord, cell))
    return given


@pytest.mark.parametrize("patch_size", PATCH_SIZES)
def test_initialise_starts_at_the_best_gaussian_of_the_residuals(patch_size: int) -> None:
    model, _, _ = case(patch_size)
    data = batches(patch_size, seed=0)
    model.initialise(data)
    residual = torch.cat([model.residual(*batch).transpose(0, 1).flatten(1) for batch in data], dim=1)
    fitted = MultivariateNormal(residual.mean(1), torch.cov(residual, correction=0)).log_prob(residual.T)
    log_prob = torch.stack([model.log_prob(lr, model.residual(lr, *rest), *rest[1:]) for lr, *rest in data])
    assert log_prob.mean().item() / model.flow.dim == pytest.approx(
        fitted.mean().item() / model.flow.dim, abs=1e-3
    )


def test_initialise_acts_once() -> None:
    model, _, _ = case(3)
    model.initialise(batches(3, seed=0))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.initialise(batches(3, seed=1))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("patch_size", PATCH_SIZES)
def test_config_builds_the_model_again(patch_size: int) -> None:
    model, lr, z = case(patch_size)
    config = json.loads(json.dumps(model.config))
    again = build(config).double()
    assert again.config == model.config == config
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.sample(lr, SIZE, temperature=1, z=z), model.sample(lr, SIZE, temperature=1, z=z))


# Mistakes


@pytest.mark.parametrize(
    "temperature",
    [
        -0.1,
        float("nan"),
        float("inf"),
        [0.4, -1],
        [0.4, float("nan")],
        [[0.4]],
        "0.4",
        ["0.4"],
        None,
        1j,
        True,
    ],
)
def test_temperature_that_is_none_is_refused(temperature: object) -> None:
    model, lr, _ = case(1, batch=1)
    for refuse in (check_temperatures, lambda tau: model.sample(lr, SIZE, temperature=tau)):
        with pytest.raises(ValueError, match=r"temperature .* not a finite number from 0 up") as error:
            refuse(temperature)
        assert "\n" not in str(error.value)


def test_an_empty_list_of_temperatures_is_refused() -> None:
    for empty in ([], (), np.zeros(0)):
        with pytest.raises(ValueError, match="give at least one temperature"):
            check_temperatures(empty)


def test_ragged_temperatures_are_refused() -> None:
    with pytest.raises(ValueError, match="temperature"):
        check_temperatures([0.4, [0.8]])


def test_temperatures_become_a_list() -> None:
    assert check_temperatures(0.4) == [0.4]
    assert check_temperatures(1) == [1]
    assert check_temperatures((0, 0.8)) == [0, 0.8]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda z: z[:1],
        lambda z: z[:, 1:],
        lambda z: z[..., :-1],
        lambda z: z.permute(0, 3, 1, 2),
        lambda z: z.flatten(1, 2),
    ],
)
def test_latents_of_another_shape_are_refused(wrong: Callable[[Tensor], Tensor]) -> None:
    model, lr, z = case(3)
    with pytest.raises(ValueError, match=r"z has shape .* output 11×13 needs \(2, 4, 5, 27\)") as error:
        model.sample(lr, SIZE, temperature=0.8, z=wrong(z))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [(0, 13), (11, -13), (11.0, 13), (11,), (11, 13, 3)])
def test_size_that_is_none_is_refused(size: tuple) -> None:
    model, lr, _ = case(3)
    for method in (model.sample, model.distribution):
        with pytest.raises(ValueError, match=r"output size .* is not two positive whole numbers"):
            method(lr, size)
