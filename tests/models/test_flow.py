"""The flow by what defines it: its inverse, its Jacobian, and the Gaussian it is."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from linf.models.flow import ConditionalFlow

PATCH_SIZES = [1, 3, 5]


@pytest.fixture
def double() -> Iterator[None]:
    """Identities are seen in float64, from the first weight on."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def case(patch_size: int, steps: int = 3, n: int = 6) -> tuple[ConditionalFlow, Tensor, Tensor]:
    """A flow well away from its start, patches (D, n) and conditions (K·2·D, n)."""
    torch.manual_seed(patch_size)
    flow = ConditionalFlow(patch_size, steps)
    with torch.no_grad():
        flow.weight += 0.3 / flow.dim**0.5 * torch.randn_like(flow.weight)
        flow.bias += 0.3 * torch.randn_like(flow.bias)
    return flow, torch.randn(flow.dim, n), torch.randn(flow.condition_dim, n)


def gaussian(flow: ConditionalFlow, condition: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and factor A (D, D) of the residual, for one condition (K·2·D, 1)."""
    mean = flow.inverse(torch.zeros(flow.dim, 1), condition)[:, 0]
    return mean, flow.inverse_linear(torch.eye(flow.dim), condition.repeat(1, flow.dim))


def correlated(dim: int, n: int) -> Tensor:
    """Patches (D, n) like residuals of photographs: small, correlated, not centred."""
    return 0.02 + 0.03 * torch.randn(dim, dim) / dim**0.5 @ torch.randn(dim, n) + 0.01 * torch.randn(1, n)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("patch_size", PATCH_SIZES)
def test_inverse_undoes_forward(patch_size: int) -> None:
    flow, x, condition = case(patch_size)
    z, _ = flow(x, condition)
    torch.testing.assert_close(flow.inverse(z, condition), x, rtol=0, atol=1e-9)
    torch.testing.assert_close(flow.inverse(z, condition, flow.inverses()), x, rtol=0, atol=1e-9)
    torch.testing.assert_close(flow(flow.inverse(x, condition), condition)[0], x, rtol=0, atol=1e-9)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("patch_size", PATCH_SIZES)
def test_log_determinant_is_that_of_the_jacobian(patch_size: int) -> None:
    flow, x, condition = case(patch_size)
    _, ladj = flow(x, condition)
    for i in range(2):
        jacobian = torch.autograd.functional.jacobian(
            lambda column, i=i: flow(column[:, None], condition[:, i : i + 1])[0][:, 0], x[:, i]
        )
        torch.testing.assert_close(ladj[i], torch.linalg.slogdet(jacobian).logabsdet, rtol=0, atol=1e-9)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("patch_size", PATCH_SIZES)
def test_density_is_the_gaussian_of_its_mean_and_factor(patch_size: int) -> None:
    flow, x, condition = case(patch_size)
    log_prob = flow.log_prob(x, condition)
    assert log_prob.shape == (6,)
    for i in range(6):
        mean, a = gaussian(flow, condition[:, i : i + 1])
        expected = MultivariateNormal(mean, a @ a.T).log_prob(x[:, i])
        torch.testing.assert_close(log_prob[i], expected, rtol=1e-9, atol=1e-8)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("patch_size", PATCH_SIZES)
def test_moments_are_mean_and_diagonal_of_the_covariance(patch_size: int) -> None:
    flow, _, condition = case(patch_size)
    mean, variance = flow.moments(condition)
    for i in range(6):
        m, a = gaussian(flow, condition[:, i : i + 1])
        torch.testing.assert_close(mean[:, i], m, rtol=0, atol=1e-10)
        torch.testing.assert_close(variance[:, i], (a @ a.T).diag(), rtol=1e-10, atol=0)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("patch_size", PATCH_SIZES)
def test_moments_are_those_of_samples(patch_size: int) -> None:
    flow, _, condition = case(patch_size, n=1)
    n = 20_000
    samples = flow.inverse(torch.randn(flow.dim, n), condition.repeat(1, n))
    mean, variance = (moment[:, 0] for moment in flow.moments(condition))
    # Five standard errors of a mean, and of a Gaussian's variance.
    assert ((samples.mean(1) - mean).abs() < 5 * (variance / n).sqrt()).all()
    assert ((samples.var(1) / variance - 1).abs() < 5 * (2 / n) ** 0.5).all()


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("patch_size", PATCH_SIZES)
def test_inverse_is_affine_in_the_latent(patch_size: int) -> None:
    flow, z, condition = case(patch_size)
    mean = flow.inverse(torch.zeros_like(z), condition)
    for tau in (0.3, 0.8, 2.0):
        expected = mean + tau * (flow.inverse(z, condition) - mean)
        torch.testing.assert_close(flow.inverse(tau * z, condition), expected, rtol=0, atol=1e-9)
    linear = flow.inverse(z, condition) - mean
    torch.testing.assert_close(flow.inverse_linear(z, condition), linear, rtol=0, atol=1e-9)


@pytest.mark.usefixtures("double")
def test_scale_runs_from_its_floor_to_one_and_logits_come_before_shifts() -> None:
    flow = ConditionalFlow(1, 2)
    logits, shifts = torch.tensor([-100.0, 0.0, 100.0]), torch.arange(3.0)
    condition = torch.cat([logits, shifts, torch.zeros(6)])[:, None]
    (first, second), (shift, _) = flow.scales_and_shifts(condition)
    start = 1 / (1 + torch.exp(torch.tensor(-2.0))) + 1e-4
    torch.testing.assert_close(first[:, 0], torch.stack([torch.tensor(1e-4), start, torch.tensor(1.0001)]))
    assert torch.equal(shift[:, 0], shifts)
    torch.testing.assert_close(second[:, 0], start.expand(3))


@pytest.mark.parametrize("patch_size", PATCH_SIZES)
def test_likelihood_reaches_every_parameter_and_all_of_the_condition(patch_size: int) -> None:
    flow, x, condition = case(patch_size)
    flow.log_prob(x, condition.requires_grad_()).sum().backward()
    for tensor in (condition, *flow.parameters()):
        assert torch.isfinite(tensor.grad).all()
        assert (tensor.grad != 0).all()


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(("patch_size", "fast"), [(1, False), (3, True)])
def test_likelihood_and_inverse_pass_gradcheck(patch_size: int, fast: bool) -> None:
    flow, x, condition = case(patch_size, steps=2, n=3)
    given = (x.requires_grad_(), condition.requires_grad_(), flow.weight, flow.bias)
    for function in (flow.log_prob, flow.inverse):
        assert torch.autograd.gradcheck(lambda x, c, *_, f=function: f(x, c), given, fast_mode=fast)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("patch_size", PATCH_SIZES)
def test_whitening_starts_at_the_best_gaussian(patch_size: int) -> None:
    torch.manual_seed(0)
    flow = ConditionalFlow(patch_size, 10)
    x = correlated(flow.dim, 50 * flow.dim)
    assert not flow.initialised
    flow.whiten(x)
    assert flow.initialised
    condition = torch.zeros(flow.condition_dim, x.shape[1])
    z, _ = flow(x, condition)
    torch.testing.assert_close(z.mean(1), torch.zeros(flow.dim), rtol=0, atol=1e-9)
    torch.testing.assert_close(z @ z.T / z.shape[1], torch.eye(flow.dim), rtol=0, atol=1e-9)
    fitted = MultivariateNormal(x.mean(1), torch.cov(x, correction=0)).log_prob(x.T)
    torch.testing.assert_close(flow.log_prob(x, condition), fitted, rtol=0, atol=1e-7)


def test_whitening_of_a_black_image_is_finite() -> None:
    flow = ConditionalFlow(3)
    x = torch.zeros(27, 100)
    flow.whiten(x)
    condition = torch.zeros(flow.condition_dim, 100)
    assert torch.isfinite(flow.weight).all()
    assert torch.isfinite(flow.log_prob(x, condition)).all()
    assert flow.inverse(torch.randn(27, 100), condition).abs().max() < 1e-3


@pytest.mark.parametrize("whitened", [False, True])
@pytest.mark.parametrize("patch_size", PATCH_SIZES)
def test_round_trip_in_single_precision_at_the_start(patch_size: int, whitened: bool) -> None:
    torch.manual_seed(0)
    flow = ConditionalFlow(patch_size)
    x = correlated(flow.dim, 50 * flow.dim) if whitened else torch.rand(flow.dim, 1000) * 2 - 1
    if whitened:
        flow.whiten(x)
    condition = 0.01 * torch.randn(flow.condition_dim, x.shape[1])
    with torch.no_grad():
        back = flow.inverse(flow(x, condition)[0], condition)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-4)


def test_autocast_leaves_the_likelihood_in_single_precision() -> None:
    flow, x, condition = case(3)
    half = condition.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        log_prob, back = flow.log_prob(x, half), flow.inverse(x, half)
    assert log_prob.dtype == back.dtype == torch.float32
    assert torch.equal(log_prob, flow.log_prob(x, half.float()))
    assert torch.equal(back, flow.inverse(x, half.float()))


@pytest.mark.parametrize("patch_size", [-3, 0, 2])
def test_patch_size_without_a_centre_is_refused(patch_size: int) -> None:
    with pytest.raises(ValueError, match=f"patch size {patch_size} is not a positive odd number"):
        ConditionalFlow(patch_size)


@pytest.mark.parametrize("steps", [-1, 0])
def test_flow_without_a_conditional_step_is_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=f"{steps}"):
        ConditionalFlow(1, steps)
