"""LR consistency against its definition with Pillow's and MATLAB's own downscaling, in parts and whole."""

from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor

from helpers.fake_cuda import GPU, can_fake_cuda, fake_cuda
from helpers.images import photograph
from linf.checkpoints.native import load
from linf.images.reduction import Reduction
from linf.images.resize import matlab_bicubic
from linf.models.baselines import Bicubic
from linf.models.consistency import Projection
from linf.models.consistent_regions import consistent
from linf.models.decoding import Region
from linf.models.super_resolver import SuperResolver

SIZES = [
    ((12, 9), (48, 36)),
    ((33, 20), (71, 55)),  # Neither a whole scale nor one for both axes.
    ((10, 13), (10, 39)),
    ((3, 2), (20, 21)),
    ((1, 1), (5, 4)),
    ((150, 8), (330, 20)),  # Three bands.
]
ROTATED = Reduction("bicubic", sigma=(1.5, 0.8), angle=0.6)


def image(*size: int, seed: int = 0, channels: int = 3) -> Tensor:
    """(C,H,W) in double precision."""
    return torch.from_numpy(photograph(*size, seed=seed) / 255).movedim(-1, 0)[:channels]


def pillow(image: Tensor, size: tuple[int, int], kernel: str) -> Tensor:
    """Pillow's resize of (C,H,W), which works on single precision."""
    planes = [
        Image.fromarray(plane.float().numpy()).resize(size[::-1], Image.Resampling[kernel]) for plane in image
    ]
    return torch.from_numpy(np.stack([np.asarray(plane) for plane in planes])).double()


def reduced(hr: Tensor, size: tuple[int, int], reduction: Reduction) -> Tensor:
    """LR of (C,H,W) by Pillow, SciPy or `matlab_bicubic`."""
    if reduction.kernel == "matlab":
        return matlab_bicubic(hr, size)
    if any(reduction.sigma):
        assert reduction.angle == 0
        hr = torch.from_numpy(
            gaussian_filter(hr.numpy(), (0, *reduction.sigma[::-1]), mode="nearest", truncate=3)
        )
    return pillow(hr, size, {"bicubic": "BICUBIC", "bilinear": "BILINEAR", "area": "BOX"}[reduction.kernel])


@pytest.mark.parametrize("kernel", ["matlab", "bicubic", "bilinear", "area"])
@pytest.mark.parametrize(("lr_size", "size"), SIZES)
def test_rounds_are_those_of_the_definition(
    lr_size: tuple[int, int], size: tuple[int, int], kernel: str
) -> None:
    reduction = Reduction(kernel)
    hr, x = image(*size), image(*size, seed=1)
    lr = reduced(hr, lr_size, reduction)
    expected = x
    for _ in range(3):
        expected = expected + matlab_bicubic(lr - reduced(expected, lr_size, reduction), size)
    found = Projection(lr_size, size, 3, reduction)(x, lr)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12 if kernel == "matlab" else 2e-6)


def test_blur_is_part_of_the_reduction() -> None:
    reduction = Reduction("bicubic", sigma=(1.0, 2.0))
    hr, x = image(48, 40), image(48, 40, seed=1)
    lr = reduced(hr, (16, 20), reduction)
    made = Projection((16, 20), (48, 40), 12, reduction)(x, lr)
    before, after = (float((reduced(of, (16, 20), reduction) - lr).square().mean()) for of in (x, made))
    assert after < 1e-3 * before


@pytest.mark.parametrize("reduction", [Reduction(), ROTATED])
@pytest.mark.parametrize("rounds", [1, 3])
def test_it_is_affine_and_noise_goes_to_lr_0(reduction: Reduction, rounds: int) -> None:
    project = Projection((9, 8), (30, 19), rounds, reduction)
    mean, noise, lr = image(30, 19), image(30, 19, seed=1) - 0.5, image(9, 8, seed=2)
    torch.testing.assert_close(project(mean + 0.7 * noise, lr), project(mean, lr) + 0.7 * project(noise, 0))


def tiles(mean: Tensor, noise: Tensor, tile: tuple[int, int]) -> Iterator[Region]:
    """Two images in tiles, each in rectangles of seven rows."""
    height, width = mean.shape[-2:]
    for b, top, left in product(range(2), range(0, height, tile[0]), range(0, width, tile[1])):
        for row in range(top, min(top + tile[0], height), 7):
            rows = slice(row, min(row + 7, top + tile[0], height))
            cols = slice(left, min(left + tile[1], width))
            yield Region(b, rows, cols, mean[b, :, rows, cols], [noise[b, :, rows, cols]])


@pytest.mark.parametrize("reduction", [Reduction(), ROTATED])
@pytest.mark.parametrize(
    ("lr_size", "size"), [((150, 8), (330, 20)), ((140, 6), (140, 11)), ((9, 8), (30, 19))]
)
@pytest.mark.parametrize("tile", [(64, 30), (50, 8), (1000, 1000)])
def test_bands_of_tiles_are_the_whole_image(
    lr_size: tuple[int, int], size: tuple[int, int], tile: tuple[int, int], reduction: Reduction
) -> None:
    project = Projection(lr_size, size, 3, reduction)
    mean, noise = (torch.stack([image(*size, seed=n + k) for n in range(2)]) for k in (0, 2))
    lr = torch.stack([image(*lr_size, seed=n) for n in (4, 5)])
    seen = torch.zeros(2, *size)
    for region in consistent(tiles(mean, noise, tile), lr, project):
        where = (region.image, slice(None), region.rows, region.cols)
        torch.testing.assert_close(region.mean, project(mean, lr)[where], rtol=0, atol=1e-12)
        torch.testing.assert_close(region.noise[0], project(noise, 0)[where], rtol=0, atol=1e-12)
        seen[region.image, region.rows, region.cols] += 1
    assert (seen == 1).all()


def test_a_row_of_tiles_is_all_that_is_held() -> None:
    project = Projection((1000, 4), (2000, 8))
    mean = torch.zeros(1, 3, 2000, 8)
    behind, came = 0, 0

    def counted() -> Iterator[Region]:
        nonlocal came
        for region in tiles(mean.expand(2, -1, -1, -1), mean.expand(2, -1, -1, -1), (100, 4)):
            if region.image == 0:
                came = max(came, region.rows.stop)
                yield region

    for region in consistent(counted(), mean.new_zeros(1, 3, 1000, 4), project):
        behind = max(behind, came - region.rows.start)
    assert behind <= 128 + 100 + 64


@pytest.fixture(scope="module")
def model(checkpoint: object) -> SuperResolver:
    return load(str(checkpoint))


@pytest.mark.parametrize("size", [(40, 52), (43, 37)])
def test_sample_is_the_projection_of_the_sample(model: SuperResolver, size: tuple[int, int]) -> None:
    lr = torch.stack([image(17, 13, seed=n) for n in (0, 1)]).float()
    taus = [0.0, 0.5, 0.8]
    reduction = Reduction("area")
    plain = model.sample(lr, size, temperature=taus, seed=3)
    project = Projection((17, 13), size, 3, reduction)
    made = model.sample(lr, size, temperature=taus, seed=3, consistency=3, reduction=reduction)
    torch.testing.assert_close(made, project(plain, lr), rtol=0, atol=2e-6)
    one = model.sample(
        lr, size, temperature=0.5, seed=3, consistency=3, reduction=reduction, tile=5, chunk=40
    )
    torch.testing.assert_close(one, made[1], rtol=0, atol=2e-6)


def test_a_map_of_temperatures_is_consistent_too(model: SuperResolver) -> None:
    lr, tau = image(12, 12).float()[None], torch.linspace(0, 1, 48).expand(48, 48)
    plain, made = (model.sample(lr, (48, 48), temperature=tau, seed=0, consistency=n) for n in (0, 6))
    before, after = ((matlab_bicubic(x, (12, 12)) - lr).square().mean().sqrt() for x in (plain, made))
    assert after < 0.05 * before
    torch.testing.assert_close(made, Projection((12, 12), (48, 48), 6)(plain, lr), rtol=0, atol=2e-6)


def test_grey_lr_gives_grey_that_is_consistent(model: SuperResolver) -> None:
    lr = image(12, 12, channels=1).float()[None]
    made = model.sample(lr, (36, 36), temperature=0.5, seed=0, consistency=6)
    error = matlab_bicubic(made, (12, 12)) - lr
    assert float(error.square().mean().sqrt()) < 2e-3


def test_other_models_are_made_consistent() -> None:
    lr = image(20, 20).float()[None]
    plain, made = (Bicubic().sample(lr, (60, 50), consistency=n) for n in (0, 3))
    torch.testing.assert_close(made, Projection((20, 20), (60, 50))(plain, lr), rtol=0, atol=2e-6)


@pytest.mark.skipif(not can_fake_cuda(), reason="torch before 2.12 asks a driver for every GPU tensor")
def test_the_host_never_waits_for_a_gpu() -> None:
    with fake_cuda() as watch:
        images, lr = torch.empty(2, 3, 100, 120, device=GPU), torch.empty(2, 3, 40, 50, device=GPU)
        for reduction in (Reduction(), ROTATED, Reduction("area")):
            assert Projection((40, 50), (100, 120), 3, reduction)(images, lr).device == GPU
        assert dict(watch.found) == {}
        assert watch.kernels


def test_gradients_flow() -> None:
    lr = image(3, 4)
    x = torch.rand(1, 7, 9, dtype=torch.float64, requires_grad=True)
    projection = Projection((3, 4), (7, 9), 2)
    with torch.inference_mode():  # What it keeps for later calls may be used with gradients there.
        projection(x, lr[:1])
    assert torch.autograd.gradcheck(lambda x: projection(x, lr[:1]), x)


@pytest.mark.parametrize("rounds", [-1, 2.5, True])
def test_rounds_are_checked(model: SuperResolver, rounds: int) -> None:
    with pytest.raises(ValueError, match=rf"rounds of consistency are {rounds}: give a whole number"):
        model.sample(torch.rand(1, 3, 4, 4), (8, 8), consistency=rounds)


def test_sizes_and_kernels_are_checked() -> None:
    with pytest.raises(
        ValueError, match="images of 9×8 and LR of 4×4 are given; the projection is for 8×8 and 4×4"
    ):
        Projection((4, 4), (8, 8))(torch.rand(3, 9, 8), torch.rand(3, 4, 4))
    with pytest.raises(ValueError, match="'lanczos': choose from bicubic, matlab, bilinear, area"):
        Projection((4, 4), (8, 8), 3, Reduction("lanczos"))


@pytest.mark.parametrize("size", [(148, 222), (123, 167)])
@pytest.mark.parametrize("part", [(slice(60, 81), slice(90, 110)), (slice(0, 9), slice(140, 160))])
@pytest.mark.parametrize("reduction", [Reduction(), ROTATED])
def test_a_part_is_projected_as_it_is_of_the_whole_image(
    size: tuple[int, int], part: tuple[slice, slice], reduction: Reduction
) -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(3, *size, generator=generator, dtype=torch.float64)
    lr = torch.randint(256, (3, 40, 60), generator=generator, dtype=torch.uint8)
    whole = Projection((40, 60), size, 3, reduction)
    held = Projection((40, 60), size, 3, reduction, part)
    assert held.needed[1].stop - held.needed[1].start < size[1]
    inside = image[:, *held.needed]
    for wanted, made in (
        (whole(image, lr.double() / 255), held(inside, lr, peak=255)),
        (whole(image, 0), held(inside, 0)),
    ):
        torch.testing.assert_close(made, wanted[:, *part], rtol=0, atol=1e-12)
        assert (made - image[:, *part]).abs().max() > 0.01
