"""Student's tails of latents, against scipy's own multivariate distribution."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from linf.models.tails import Tails, fit_tails, tails_at

DIM = 27


def student(tails: Tails, count: int) -> Tensor:
    """Latents (D, count) drawn by scipy."""
    made = stats.multivariate_t(shape=tails.scale**2 * np.eye(DIM), df=tails.freedom, seed=0).rvs(count)
    return torch.from_numpy(made.T.copy())


def test_density_is_scipys() -> None:
    tails, z = Tails(3.5, 0.8), 3 * torch.randn(DIM, 40, generator=torch.Generator().manual_seed(0)).double()
    truth = stats.multivariate_t(shape=0.64 * np.eye(DIM), df=3.5).logpdf(z.T.numpy())
    torch.testing.assert_close(tails.log_prob(z), torch.from_numpy(truth))


def test_intervals_of_a_value_are_those_of_students_t() -> None:
    tails, nominal = Tails(3.5, 0.8), torch.tensor([0.5, 0.9, 0.99], dtype=torch.float64)
    covered = (student(tails, 40_000).abs().flatten()[:, None] <= tails.bounds(nominal)).double().mean(0)
    torch.testing.assert_close(covered, nominal, rtol=0, atol=0.005)


@pytest.mark.parametrize("freedom", [0.8, 6.0])
def test_tails_are_found_again(freedom: float) -> None:
    found = fit_tails(student(Tails(freedom, 0.7), 20_000).square().sum(0), DIM)
    assert found.freedom == pytest.approx(freedom, rel=0.05)
    assert found.scale == pytest.approx(0.7, rel=0.02)
    gaussian = fit_tails(torch.randn(DIM, 20_000).square().sum(0), DIM)
    assert gaussian.freedom > 100
    assert gaussian.scale == pytest.approx(1, abs=0.02)
    assert fit_tails(torch.zeros(10), DIM).scale < 0.01


def test_students_latents_become_standard_gaussian() -> None:
    z = student(Tails(2.0, 0.7), 20_000)
    made = Tails(2.0, 0.7).gaussianise(z)
    assert stats.kstest(made.square().sum(0).numpy(), stats.chi2(DIM).cdf).pvalue > 0.01
    assert made.var().item() == pytest.approx(1, abs=0.02)
    assert stats.kurtosis(made.flatten().numpy()) == pytest.approx(0, abs=0.05)
    torch.testing.assert_close(made / made.norm(dim=0), z / z.norm(dim=0))
    far = Tails(2.0, 0.7).gaussianise(torch.tensor([[1e-3, 1.0, 1e3, 1e6]]).double().expand(DIM, -1))
    assert far.isfinite().all()
    assert (far[0].diff() > 0).all()
    assert Tails(2.0, 0.7).gaussianise(torch.zeros(DIM, 1)).abs().max() == 0
    beyond = Tails(1000.0, 1.0).gaussianise(torch.full((DIM, 1), 1e4).double())
    assert 5 < beyond.max() < 1e4, "its probability is beyond doubles"


def test_between_two_scales_the_tails_are_between_theirs() -> None:
    known = {2.0: Tails(12, 0.9), 4.0: Tails(3, 0.6)}
    assert tails_at(known, 1.0) == pytest.approx(known[2.0])
    assert tails_at(known, 9.0) == pytest.approx(known[4.0])
    assert tails_at(known, 3.0) == pytest.approx((6, 0.54**0.5))
    with pytest.raises(ValueError, match="linf latents"):
        tails_at({}, 2.0)
