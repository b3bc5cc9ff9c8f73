"""Grids and neighbourhoods against torch's own sampling of images."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from linf.coordinates import (
    AxisScales,
    axis_scales,
    grid,
    neighbourhood,
    patch_centres,
    pixel_centres,
    read_scale,
)

SIZES = [(1, 1), (1, 6), (4, 1), (5, 7), (37, 53)]


def queries(size: tuple[int, int], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Where rounding could go wrong: LR centres and edges, HR grids, the rim and beyond, and anywhere."""
    axes = []
    for n in size:
        special = [pixel_centres(n, dtype=dtype), torch.linspace(-1, 1, n + 1, dtype=dtype)]
        special += [pixel_centres(round(s * n), dtype=dtype) for s in (2, 2.7, 4)]
        axes.append(torch.cat([*special, torch.tensor([-1.2, -1 + 1e-6, 1 - 1e-6, 1.1], dtype=dtype)]))
    y, x = torch.cartesian_prod(*axes).T
    anywhere = torch.rand(2, 500, generator=torch.Generator().manual_seed(0), dtype=dtype) * 2.2 - 1.1
    return torch.cat([y, anywhere[0]]), torch.cat([x, anywhere[1]])


def by_grid_sample(y: Tensor, x: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """METHOD §1 word by word: pixel, rel_y, rel_x, weight, (4, N) each."""
    h, w = size
    index = torch.arange(h * w, dtype=y.dtype).view(1, 1, h, w)
    pixel = []
    for vy, vx in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
        shifted = torch.stack([x + (vx / w + 1e-6), y + (vy / h + 1e-6)], dim=-1).clamp(-1 + 1e-6, 1 - 1e-6)
        nearest = F.grid_sample(index, shifted[None, None], mode="nearest", align_corners=False)
        pixel.append(nearest.flatten().long())
    pixels = torch.stack(pixel)
    row, column = (pixels // w).to(y.dtype), (pixels % w).to(y.dtype)
    rel_y, rel_x = (y - (-1 + (2 * row + 1) / h)) * h, (x - (-1 + (2 * column + 1) / w)) * w
    lengths = []
    for rel in (rel_y.abs(), rel_x.abs()):
        on_its_last_pixel = (rel < 1e-6).all(0)
        lengths.append(rel.masked_fill(on_its_last_pixel, 1))
    area = lengths[0] * lengths[1] + 1e-9
    return pixels, rel_y, rel_x, area[[3, 2, 1, 0]] / area.sum(0)


def test_a_scale_for_each_axis_prints_sorts_and_reads_as_one_name() -> None:
    pair = read_scale([1.5, 4])
    assert (f"{pair:g}", str(pair), axis_scales(pair)) == ("1.5x4", "1.5x4", (1.5, 4.0))
    assert read_scale("1.5x4") == read_scale("1.5×4") == read_scale(pair) == pair != AxisScales(4, 1.5)
    assert sorted([4, pair, 2.4, AxisScales(4, 1.5), 2.5]) == [2.4, pair, AxisScales(4, 1.5), 2.5, 4]
    assert len({pair, AxisScales(1.5, 4), AxisScales(4, 1.5), 6**0.5}) == 3
    assert pair != 6**0.5
    # Two equal ones are one number, as before there were pairs.
    assert (read_scale([3.3, 3.3]), read_scale("2"), read_scale(3)) == (3.3, 2.0, 3)
    assert [read_scale(as_typed) for as_typed in ("4x", "x4", "×4", " 4 ")] == [4.0] * 4
    assert [read_scale(number) for number in np.arange(2, 5)] == [2, 3, 4]
    assert [read_scale(number) for number in np.array([2.5], np.float32)] == [2.5]
    assert axis_scales(3.3) == (3.3, 3.3)
    with pytest.raises(TypeError):
        float(pair)  # type: ignore[arg-type]
    for wrong in ([1, 2, 3], [], "2xx", "x", "", ["a", 2]):
        with pytest.raises(ValueError, match="neither a number nor one for each axis, vertical first"):
            read_scale(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("n", [1, 2, 7, 48])
def test_pixel_centres_halve_n_equal_parts(n: int) -> None:
    edges = torch.linspace(-1, 1, n + 1, dtype=torch.float64)
    centres = pixel_centres(n, dtype=torch.float64)
    torch.testing.assert_close(centres, (edges[1:] + edges[:-1]) / 2, rtol=0, atol=1e-15)


@pytest.mark.parametrize("size", SIZES)
def test_grid_is_that_of_an_identity_warp(size: tuple[int, int]) -> None:
    warp = F.affine_grid(torch.eye(2, 3)[None], [1, 1, *size], align_corners=False)[0]
    torch.testing.assert_close(grid(*size), warp.flip(-1), rtol=0, atol=2e-7)


@pytest.mark.parametrize("patch_size", [1, 3, 5])
@pytest.mark.parametrize("n", [1, 2, 9, 16, 37])
def test_patch_centres_are_middle_pixels_and_go_on_beyond_the_edge(n: int, patch_size: int) -> None:
    centres = patch_centres(n, patch_size)
    count = -(-n // patch_size)
    inside = pixel_centres(n)[patch_size // 2 :: patch_size]
    assert centres.shape == (count,)
    assert torch.equal(centres[: len(inside)], inside)
    assert (centres[len(inside) :] > 1).all()
    if count > 1:
        torch.testing.assert_close(centres.diff(), torch.full((count - 1,), 2 * patch_size / n))


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
@pytest.mark.parametrize("size", SIZES)
def test_neighbourhood_is_what_grid_sample_finds(
    size: tuple[int, int], dtype: torch.dtype, atol: float
) -> None:
    y, x = queries(size, dtype)
    near = neighbourhood(y, x, size)
    pixel, rel_y, rel_x, _ = by_grid_sample(y, x, size)
    assert torch.equal(near.pixel, pixel)
    torch.testing.assert_close(near.rel_y, rel_y, rtol=0, atol=atol)
    torch.testing.assert_close(near.rel_x, rel_x, rtol=0, atol=atol)


@pytest.mark.parametrize("size", SIZES)
def test_weights_are_areas_swapped_with_the_diagonal_and_sum_to_one(size: tuple[int, int]) -> None:
    y, x = queries(size, torch.float64)
    weight = neighbourhood(y, x, size).weight
    assert (weight > 0).all()
    torch.testing.assert_close(weight.sum(0), torch.ones_like(y), rtol=0, atol=1e-14)
    # Where all areas vanish, 1e-9 decides, and rounding by 1e-16 may show as 1e-7.
    torch.testing.assert_close(weight, by_grid_sample(y, x, size)[3], rtol=0, atol=1e-6)


def test_a_query_at_a_pixel_centre_has_that_pixel_alone() -> None:
    size = (5, 7)
    y, x = grid(*size).flatten(0, 1).T.double()
    near = neighbourhood(y, x, size)
    own = torch.where(near.pixel == torch.arange(35), near.weight, 0).sum(0)
    torch.testing.assert_close(own.view(size), torch.ones(size).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("h", [1, 5])
def test_on_the_centre_of_the_last_row_the_weights_are_those_beside_it(h: int) -> None:
    """Where every query of the last row lies for patches of 3 at ×3, and both neighbours along y are the same pixel."""
    last, along = pixel_centres(h)[-1].expand(23), torch.linspace(-0.95, 0.95, 23)
    here, beside = (neighbourhood(at, along, (h, 7)).weight for at in (last, last + 1e-4))
    torch.testing.assert_close(here, beside, rtol=0, atol=1e-4)
    here, beside = (neighbourhood(along, at, (7, h)).weight for at in (last, last + 1e-4))
    torch.testing.assert_close(here, beside, rtol=0, atol=1e-4)


def test_weighted_neighbours_interpolate_bilinearly() -> None:
    h, w = 6, 9
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 1, h, w, generator=generator, dtype=torch.float64)
    between = torch.rand(2, 1000, generator=generator, dtype=torch.float64) * 2 - 1
    y, x = between[0] * (1 - 1 / h), between[1] * (1 - 1 / w)
    near = neighbourhood(y, x, (h, w))
    bilinear = F.grid_sample(image, torch.stack([x, y], -1)[None, None], align_corners=False)
    ours = (image.flatten()[near.pixel] * near.weight).sum(0)
    torch.testing.assert_close(ours, bilinear.flatten(), rtol=0, atol=1e-8)


def test_a_tile_numbers_the_pixels_of_the_whole_image() -> None:
    size, origin, tile = (20, 30), (4, 11), (9, 12)
    y, x = queries(size, torch.float32)
    whole = neighbourhood(y, x, size)
    row, column = whole.pixel // size[1] - origin[0], whole.pixel % size[1] - origin[1]
    inside = ((row >= 0) & (row < tile[0]) & (column >= 0) & (column < tile[1])).all(0)
    part = neighbourhood(y[inside], x[inside], size, origin=origin, row=tile[1])
    numbers = torch.arange(size[0] * size[1]).view(size)
    numbers = numbers[origin[0] : origin[0] + tile[0], origin[1] : origin[1] + tile[1]].flatten()
    assert inside.sum() > 100
    assert torch.equal(numbers[part.pixel], whole.pixel[:, inside])
    for ours, theirs in zip(part[1:], whole[1:], strict=True):
        assert torch.equal(ours, theirs[:, inside])


def test_part_is_the_neighbourhood_of_some_queries() -> None:
    y, x = queries((5, 7), torch.float32)
    some = slice(3, 11)
    part = neighbourhood(y, x, (5, 7)).part(some)
    for ours, theirs in zip(part, neighbourhood(y[some], x[some], (5, 7)), strict=True):
        assert torch.equal(ours, theirs)
