"""The Fourier feature ensemble against METHOD §3 written out plainly, values and gradients."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from linf.coordinates import neighbourhood
from linf.models.conditioner import FourierConditioner
from linf.models.fourier import FourierEnsemble


def plainly(conditioner: FourierConditioner, features: Tensor, coord: Tensor, cell: Tensor) -> Tensor:
    """(B,C,h,w), (B,N,2), (B,2) → (B·N, out_channels): every map looked up by grid_sample for each neighbour."""
    size = features.new_tensor(features.shape[-2:])
    warp = torch.eye(2, 3, dtype=features.dtype).expand(features.shape[0], 2, 3)
    centres = F.affine_grid(warp, list(features.shape), align_corners=False).flip(-1).permute(0, 3, 1, 2)
    phase = (cell * size) @ conditioner.phase.weight.T
    parts, areas = [], []
    for v in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
        at = (coord + coord.new_tensor(v) / size + 1e-6).clamp(-1 + 1e-6, 1 - 1e-6).flip(-1)[:, None]
        coef, freq, q = (
            F.grid_sample(maps, at, mode="nearest", align_corners=False)[:, :, 0].transpose(1, 2)
            for maps in (conditioner.coef(features), conditioner.freq(features), centres)
        )
        rel = (coord - q) * size
        freq_y, freq_x = freq.chunk(2, dim=-1)
        angle = freq_y * rel[..., :1] + freq_x * rel[..., 1:] + phase[:, None]
        parts.append(coef * torch.cat([torch.cos(math.pi * angle), torch.sin(math.pi * angle)], dim=-1))
        areas.append(rel.prod(-1, keepdim=True).abs() + 1e-9)
    weights = [area / sum(areas) for area in reversed(areas)]
    rows = torch.cat([part * weight for part, weight in zip(parts, weights, strict=True)], dim=-1)
    *inner, last = [layer for layer in conditioner.mlp if isinstance(layer, torch.nn.Linear)]
    for layer in inner:
        rows = F.relu(F.linear(rows, layer.weight, layer.bias))
    return F.linear(rows, last.weight, last.bias).flatten(0, 1)


def case(
    batch: int, n: int, size: tuple[int, int]
) -> tuple[FourierConditioner, Tensor, Tensor, Tensor, Tensor]:
    """A conditioner, features, coordinates to beyond the edge, a cell for each image, and what to weigh by."""
    torch.manual_seed(0)
    conditioner = FourierConditioner(3, 7, width=6, depth=2).double()
    for p in conditioner.parameters():
        torch.nn.init.normal_(p, std=0.4)
    features = torch.randn(batch, 3, *size, dtype=torch.float64, requires_grad=True)
    coord = torch.rand(batch, n, 2, dtype=torch.float64) * 2.2 - 1.1
    cell = torch.rand(batch, 2, dtype=torch.float64) * 0.3 + 0.05
    return conditioner, features, coord, cell, torch.randn(7, batch * n, dtype=torch.float64)


CASES = [(1, 1, (1, 1)), (2, 5, (1, 4)), (1, 1024, (4, 3)), (1, 1025, (4, 3)), (3, 700, (5, 7))]


@pytest.mark.parametrize(("batch", "n", "size"), CASES)
def test_condition_is_the_four_neighbours_concatenated(batch: int, n: int, size: tuple[int, int]) -> None:
    conditioner, features, coord, cell, _ = case(batch, n, size)
    condition = conditioner(features, coord, cell)
    assert condition.shape == (7, batch * n)
    expected = plainly(conditioner, features, coord, cell).T
    torch.testing.assert_close(condition, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize(("batch", "n", "size"), CASES)
def test_gradient_by_hand_is_that_of_autograd(batch: int, n: int, size: tuple[int, int]) -> None:
    conditioner, features, coord, cell, weigh = case(batch, n, size)
    into = [features, *conditioner.parameters()]
    ours = torch.autograd.grad((conditioner(features, coord, cell) * weigh).sum(), into)
    plain = torch.autograd.grad((plainly(conditioner, features, coord, cell).T * weigh).sum(), into)
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
        assert a.any()


def test_ensemble_passes_gradcheck_in_maps_and_phase() -> None:
    torch.manual_seed(0)
    y, x = torch.rand(2, 9, dtype=torch.float64) * 2 - 1
    maps = torch.randn(6, 8, dtype=torch.float64, requires_grad=True)
    phase = torch.randn(9, 2, dtype=torch.float64, requires_grad=True)
    near = neighbourhood(y, x, (2, 3))
    assert torch.autograd.gradcheck(lambda *given: FourierEnsemble.apply(*given, *near), (maps, phase))


def test_queries_on_a_grid_come_in_row_major_order() -> None:
    conditioner, features, coord, cell, _ = case(2, 12, (4, 5))
    on_grid = conditioner(features, coord.view(2, 3, 4, 2), cell)
    assert torch.equal(on_grid, conditioner(features, coord, cell))


def test_angles_keep_their_digits_under_autocast() -> None:
    conditioner, features, coord, cell, _ = (part.float() for part in case(2, 40, (4, 5)))
    # Frequencies that bfloat16 holds exactly, and that turn the angle by whole turns if it is rounded to bfloat16.
    for conv, value in ((conditioner.coef, 1.0), (conditioner.freq, 64.0)):
        torch.nn.init.zeros_(conv.weight)
        torch.nn.init.constant_(conv.bias, value)
    single = conditioner(features, coord, cell)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = conditioner(features, coord, cell)
    assert (half - single).std() < 0.02 * single.std()


def test_start_near_zero_gives_conditions_near_zero_that_can_still_learn() -> None:
    conditioner, features, coord, cell, _ = case(1, 50, (4, 5))
    assert conditioner(features, coord, cell).abs().max() > 0.1
    conditioner.zero_init()
    condition = conditioner(features, coord, cell)
    assert condition.abs().max() < 1e-2
    condition.square().sum().backward()
    assert all(p.grad.any() for p in conditioner.parameters())


@pytest.mark.parametrize("width", [-2, 0, 3])
def test_width_that_has_no_halves_is_refused(width: int) -> None:
    with pytest.raises(ValueError, match=f"width {width} is not a positive even number"):
        FourierConditioner(3, 7, width=width)


@pytest.mark.parametrize("depth", [-1, 0])
def test_depth_without_a_hidden_layer_is_refused(depth: int) -> None:
    with pytest.raises(ValueError, match=f"depth {depth}"):
        FourierConditioner(3, 7, width=4, depth=depth)
