"""Losses against what they say of the flow."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from linf.conditioner import FourierConditioner
from linf.data.pairs import SRBatch
from linf.encoders import EDSR
from linf.errors import UsageError
from linf.flow import ConditionalFlow
from linf.losses import Mixture, l1, nll
from linf.model import LINF


def training(patch_size: int) -> tuple[LINF, SRBatch]:
    """A small model and a batch of 5×5 patches of two pictures."""
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


def test_mixture_reaches_every_parameter() -> None:
    model, batch = training(3)
    Mixture(0.05, 10)(model, batch)["loss"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name


def test_mixture_is_the_weighted_sum_of_its_parts() -> None:
    model, batch = training(3)
    parts = Mixture(0.05, 10)(model, batch)
    residual = model.residual(*batch)
    assert parts.keys() == {"loss", "nll", "l1"}
    likelihood = -model.log_prob(batch.lr, residual, batch.coord, batch.cell).mean() / 27
    torch.testing.assert_close(parts["nll"], likelihood, rtol=0, atol=1e-13)
    mean, _ = model.flow.moments(model.condition(batch.lr, batch.coord, batch.cell))
    error = (mean - residual.transpose(0, 1).flatten(1)).abs().mean()
    torch.testing.assert_close(parts["l1"], error, rtol=0, atol=1e-13)
    torch.testing.assert_close(parts["loss"], 0.05 * parts["nll"] + 10 * parts["l1"], rtol=0, atol=1e-13)


@pytest.mark.parametrize(("weights", "name"), [({}, "nll"), ({"nll": 0, "l1": 1}, "l1")])
def test_weight_of_zero_leaves_a_part_out(weights: dict, name: str) -> None:
    parts = Mixture(**weights)(*training(1))
    assert parts.keys() == {"loss", name}
    assert parts["loss"] == parts[name]


@pytest.mark.parametrize(
    ("nll", "l1"), [(0, 0), (-1, 2), (1, -0.1), (math.nan, 1), (1, math.nan), (math.inf, 0)]
)
def test_weights_that_weigh_nothing_are_refused(nll: float, l1: float) -> None:
    with pytest.raises(UsageError, match=f"nll={nll}, l1={l1}") as error:
        Mixture(nll, l1)
    assert "\n" not in str(error.value)
