"""Losses against the flow's own density, mean and samples."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from helpers.networks import write_network
from linf.coordinates import patch_centres
from linf.data.crops import SRBatch
from linf.images.resize import matlab_bicubic
from linf.losses.flow import Finetune, LikelihoodL1, l1, nll, white_latents
from linf.losses.perceptual import Perceptual
from linf.models.conditioner import FourierConditioner
from linf.models.consistency import Projection
from linf.models.correlation import LatentCorrelation
from linf.models.encoders import EDSR
from linf.models.flow import ConditionalFlow
from linf.models.linf import LINF
from linf.models.noise import gaussian


def training(patch_size: int) -> tuple[LINF, SRBatch]:
    """A small model and a batch of 5×5 patches of two images."""
    torch.manual_seed(0)
    flow = ConditionalFlow(patch_size, steps=2)
    model = LINF(EDSR(1, 4), partial(FourierConditioner, width=8, depth=1), flow).double()
    lr, hr = torch.rand(2, 3, 6, 6).double(), torch.rand(2, flow.dim, 5, 5).double()
    return model, SRBatch(
        lr, hr, torch.rand(2, 5, 5, 2).double() * 1.8 - 0.9, torch.full((2, 2), 2 / 15).double()
    )


def case(patch_size: int) -> tuple[ConditionalFlow, Tensor, Tensor]:
    torch.manual_seed(0)
    flow = ConditionalFlow(patch_size, steps=2).double()
    torch.nn.init.normal_(flow.bias)
    residual = torch.randn(flow.dim, 20, dtype=torch.float64)
    return flow, residual, torch.randn(flow.condition_dim, 20, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize("patch_size", [1, 3])
def test_nll_is_nats_per_dimension(patch_size: int) -> None:
    flow, residual, condition = case(patch_size)
    expected = -flow.log_prob(residual, condition).sum() / residual.numel()
    torch.testing.assert_close(nll(flow, residual, condition), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("patch_size", [1, 3])
def test_l1_is_the_distance_to_the_mean(patch_size: int) -> None:
    flow, residual, condition = case(patch_size)
    mean, _ = flow.moments(condition)
    value = l1(flow, residual, condition)
    torch.testing.assert_close(value, (mean - residual).abs().mean(), rtol=0, atol=1e-13)
    assert l1(flow, mean, condition) == 0


@pytest.mark.parametrize("loss", [nll, l1])
def test_every_loss_reaches_flow_and_condition(loss: Callable[..., Tensor]) -> None:
    flow, residual, condition = case(3)
    loss(flow, residual, condition).backward()
    for tensor in (condition, *flow.parameters()):
        assert torch.isfinite(tensor.grad).all()
        assert tensor.grad.any()


def test_likelihood_l1_reaches_every_parameter() -> None:
    model, batch = training(3)
    LikelihoodL1(0.05, 10)(model, batch)["loss"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name


def test_likelihood_l1_is_the_weighted_sum_of_its_parts() -> None:
    model, batch = training(3)
    parts = LikelihoodL1(0.05, 10)(model, batch)
    residual = model.residual(*batch)
    assert parts.keys() == {"loss", "nll", "l1"}
    likelihood = -model.log_prob(batch.lr, residual, batch.coord, batch.cell).mean() / 27
    torch.testing.assert_close(parts["nll"], likelihood, rtol=0, atol=1e-13)
    mean, _ = model.flow.moments(model.condition(batch.lr, batch.coord, batch.cell))
    error = (mean - residual.transpose(0, 1).flatten(1)).abs().mean()
    torch.testing.assert_close(parts["l1"], error, rtol=0, atol=1e-13)
    torch.testing.assert_close(parts["loss"], 0.05 * parts["nll"] + 10 * parts["l1"], rtol=0, atol=1e-13)


@pytest.mark.parametrize(("weights", "name"), [({}, "nll"), ({"nll": 0, "l1": 1}, "l1")])
def test_weight_of_zero_leaves_a_term_out(weights: dict, name: str) -> None:
    parts = LikelihoodL1(**weights)(*training(1))
    assert parts.keys() == {"loss", name}
    assert parts["loss"] == parts[name]


@pytest.mark.parametrize(
    ("nll", "l1"), [(0, 0), (-1, 2), (1, -0.1), (math.nan, 1), (1, math.nan), (math.inf, 0)]
)
def test_negative_infinite_or_all_zero_weights_are_refused(nll: float, l1: float) -> None:
    with pytest.raises(ValueError, match=f"nll={nll}, l1={l1}") as error:
        LikelihoodL1(nll, l1)
    assert "\n" not in str(error.value)


# Stage 2


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Perceptual]:
    return partial(Perceptual, weights=write_network(tmp_path_factory.mktemp("vgg") / "vgg16.pth"))


def windows(patch_size: int) -> tuple[LINF, SRBatch, Tensor, Tensor]:
    """A model with strong noise, a batch of two whole images, these images, and latents."""
    model, _ = training(patch_size)
    model.flow.whiten(0.3 * torch.randn(model.flow.dim, 500))
    side = -(-18 // patch_size) * patch_size
    hr = torch.rand(2, 3, side, side).double()
    centres = patch_centres(side, patch_size).double()
    coord = torch.stack(torch.meshgrid(centres, centres, indexing="ij"), dim=-1).expand(2, -1, -1, -1)
    batch = SRBatch(
        # No query of an even image lies at the centre of an LR pixel of an odd one, where neighbours are a matter of
        # rounding.
        torch.rand(2, 3, 5, 5).double(),
        F.pixel_unshuffle(hr, patch_size),
        coord,
        torch.full((2, 2), 2 / side).double(),
    )
    return model, batch, hr, torch.randn_like(batch.hr)


@pytest.mark.parametrize("patch_size", [1, 3, 5])
def test_finetune_is_the_published_sum(patch_size: int, features: Callable[[], Perceptual]) -> None:
    model, batch, hr, z = windows(patch_size)
    parts = Finetune(5e-4, 1.0, 2.5e-2, features=features)(model, batch, z)
    residual = model.residual(*batch)
    log_prob = model.log_prob(batch.lr, residual, batch.coord, batch.cell)
    mean, _ = model.flow.moments(model.condition(batch.lr, batch.coord, batch.cell))
    error = (mean - residual.transpose(0, 1).flatten(1)).abs().mean()
    sr = model.sample(batch.lr, hr.shape[-2:], temperature=0.8, z=z.permute(0, 2, 3, 1))
    distance = features().double()(sr, hr)
    assert list(parts) == ["loss", "nll", "l1", "perceptual"]
    torch.testing.assert_close(parts["nll"], -log_prob.mean() / model.flow.dim, rtol=0, atol=1e-12)
    torch.testing.assert_close(parts["l1"], error, rtol=0, atol=1e-12)
    torch.testing.assert_close(parts["perceptual"], distance, rtol=1e-6, atol=0)
    assert distance > 0.01
    # The published weight is of nats per patch.
    whole = -5e-4 * log_prob.mean() + error + 2.5e-2 * distance
    torch.testing.assert_close(parts["loss"], whole, rtol=1e-6, atol=0)


def test_the_perceptual_distance_reaches_the_mean_as_far_as_it_is_let(
    features: Callable[[], Perceptual],
) -> None:
    """Only shifts have a gradient by the mean alone: noise does not depend on biases."""

    def gradient(through_mean: float) -> tuple[Tensor, Tensor]:
        model, batch, _, z = windows(3)
        loss = Finetune(0, 0, 1, through_mean=through_mean, features=features)
        parts = loss(model, batch, z)
        parts["loss"].backward()
        assert model.flow.bias.grad is not None
        assert model.flow.weight.grad is not None
        return model.flow.bias.grad, model.flow.weight.grad

    whole, half, none = (gradient(share) for share in (1, 0.5, 0))
    torch.testing.assert_close(half[0], whole[0] / 2)
    assert whole[0].any()
    assert not none[0].any()
    assert none[1].any()
    with pytest.raises(ValueError, match="through_mean is 2: give a number from 0 to 1"):
        Finetune(through_mean=2)


@pytest.mark.parametrize("only", [None, ("nll",), ("l1",), ("perceptual",), ("l1", "perceptual")])
def test_every_step_of_stage_2_reaches_every_parameter(
    only: tuple[str, ...] | None, features: Callable[[], Perceptual]
) -> None:
    model, batch, _, z = windows(3)
    torch.nn.init.normal_(model.flow.bias, std=0.01)
    parts = Finetune(features=features)(model, batch, z, only)
    assert parts.keys() == {"loss", *(only or ("nll", "l1", "perceptual"))}
    parts["loss"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name


def test_the_temperature_is_that_of_the_sample(features: Callable[[], Perceptual]) -> None:
    model, batch, hr, z = windows(3)
    cold = Finetune(temperature=0.0, features=features)(model, batch, z)["perceptual"]
    expected = features().double()(model.sample(batch.lr, hr.shape[-2:], temperature=0), hr)
    torch.testing.assert_close(cold, expected, rtol=1e-6, atol=0)
    assert Finetune(features=features)(model, batch, z)["perceptual"] != cold
    with pytest.raises(ValueError, match="temperature -1"):
        Finetune(temperature=-1, features=features)


def test_without_latents_torchs_own_generator_draws_them(features: Callable[[], Perceptual]) -> None:
    model, batch, _, _ = windows(1)
    loss = Finetune(0, 0, 1, features=features)
    torch.manual_seed(5)
    first, second = loss(model, batch)["loss"], loss(model, batch)["loss"]
    torch.manual_seed(5)
    assert first == loss(model, batch, torch.randn_like(batch.hr))["loss"]
    assert first != second


def test_correlated_latents_of_a_window_are_filtered_by_its_own_scale(
    features: Callable[[], Perceptual],
) -> None:
    model, batch, _, _ = windows(3)
    model.correlation = LatentCorrelation(27, [2, 4], reach=1)
    model.correlation.taps += 0.1 * torch.randn(model.correlation.taps.shape)
    of_scales = batch._replace(
        cell=batch.cell * torch.tensor([[18 / 10], [18 / 15]])
    )  # ×2 and ×3 of 5 pixels.
    loss = Finetune(0, 0, 1, latents="correlated", features=features)
    z = loss.sample_latents(model, of_scales, seed=3, first=8)
    white = white_latents(torch.empty(2, 27, 8, 8), 3, 8)
    for i, scale in enumerate((2.0, 3.0)):
        (kernel,) = model.correlation.filters(torch.tensor([scale]))
        expected = F.conv2d(white[i][None], kernel.permute(2, 3, 0, 1))[0].double()
        torch.testing.assert_close(z[i], expected, rtol=0, atol=1e-5)
    assert loss(model, of_scales, z)["loss"] != Finetune(0, 0, 1, features=features)(model, of_scales)["loss"]
    torch.manual_seed(5)
    first = loss(model, of_scales)["loss"]
    torch.manual_seed(5)
    assert first == loss(model, of_scales, loss.sample_latents(model, of_scales))["loss"]


@pytest.mark.parametrize("patch_size", [1, 3])
def test_the_sample_is_made_consistent_before_it_is_compared(
    patch_size: int, features: Callable[[], Perceptual]
) -> None:
    model, batch, hr, z = windows(patch_size)
    lr = matlab_bicubic(hr, (9, 9))  # ×2, where no query lies at the centre of an LR pixel.
    batch = batch._replace(lr=lr)
    parts = Finetune(temperature=0.5, consistency=2, features=features)(model, batch, z)
    sr = model.sample(lr, hr.shape[-2:], temperature=0.5, z=z.permute(0, 2, 3, 1))
    expected = features().double()(Projection((9, 9), (18, 18), 2)(sr, lr), hr)
    torch.testing.assert_close(parts["perceptual"], expected, rtol=1e-6, atol=0)
    plain = Finetune(temperature=0.5, features=features)(model, batch, z)
    assert parts["perceptual"] != plain["perceptual"]
    assert parts["l1"] == plain["l1"]
    parts["loss"].backward()
    with pytest.raises(ValueError, match="consistency are -1"):
        Finetune(consistency=-1, features=features)


def test_correlated_latents_need_a_model_that_knows_them(features: Callable[[], Perceptual]) -> None:
    model, batch, _, _ = windows(1)
    with pytest.raises(ValueError, match="linf latents"):
        Finetune(0, 0, 1, latents="correlated", features=features)(model, batch)
    with pytest.raises(ValueError, match="give one of independent, correlated"):
        Finetune(0, 0, 1, latents="smooth", features=features)  # type: ignore[arg-type]


def test_weight_of_zero_leaves_a_term_of_stage_2_and_its_network_out() -> None:
    model, batch, _, _ = windows(1)

    def never() -> Perceptual:
        raise AssertionError

    parts = Finetune(perceptual=0.0, features=never)(model, batch)
    assert parts.keys() == {"loss", "nll", "l1"}
    torch.testing.assert_close(parts["loss"], 3 * 5e-4 * parts["nll"] + parts["l1"], rtol=0, atol=1e-14)
    with pytest.raises(ValueError, match="nll=0, l1=0, distillation=0, perceptual=0"):
        Finetune(0, 0, 0, features=never)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_latents_depend_on_seed_and_index_alone(dtype: torch.dtype) -> None:
    like = torch.empty(4, 27, 5, 6, dtype=dtype)
    whole = white_latents(like, 7, 8)
    assert whole.dtype == dtype
    assert torch.equal(
        whole,
        torch.cat(
            [white_latents(like[:2], 7, 8), white_latents(like[:1], 7, 10), white_latents(like[:1], 7, 11)]
        ),
    )
    assert torch.equal(whole[1], gaussian(7, 9, (27, 5, 6)).to(dtype))
    assert not torch.equal(whole, white_latents(like, 8, 8))
    many = white_latents(torch.empty(200, 27, 5, 6), 0, 0)
    assert many.mean().item() == pytest.approx(0, abs=0.01)
    assert many.std().item() == pytest.approx(1, abs=0.01)
    assert torch.corrcoef(many.flatten(1))[0, 1:].abs().max() < 0.15
