"""The two bicubics against MATLAB's own output, published numbers, torch and Pillow."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from helpers.paths import DATA
from linf.errors import UsageError
from linf.images.read import read_image
from linf.images.resize import KERNELS, AxisResize, bicubic, matlab_bicubic, pil_bicubic

needs_data = pytest.mark.skipif(
    not (DATA / "Set5_LR_matlab").is_dir(),
    reason=f"no Set5 and Set5_LR_matlab in {DATA}: set LINF_TEST_DATA",
)
SET5 = ("baby", "bird", "butterfly", "head", "woman")


def set5_pair(name: str, s: int) -> tuple[Tensor, Tensor]:
    """HR cropped to a multiple of the scale and the given LR, (3, H, W) uint8."""
    files = (DATA / "Set5" / f"{name}.png", DATA / "Set5_LR_matlab" / f"X{s}" / f"{name}x{s}.png")
    hr, lr = (torch.from_numpy(read_image(file)).permute(2, 0, 1) for file in files)
    return hr[:, : hr.shape[1] // s * s, : hr.shape[2] // s * s], lr


@needs_data
@pytest.mark.parametrize("s", [2, 3, 4, 8])
def test_downscale_is_matlabs_to_the_last_bit(s: int) -> None:
    for name in SET5:
        hr, lr = set5_pair(name, s)
        # ×8 of this data set was made from doubles, the others from uint8.
        ours = matlab_bicubic(hr, scale=1 / s) if s < 8 else matlab_bicubic(hr.double(), scale=1 / s)
        assert torch.equal(ours.round().clamp(0, 255).byte(), lr), name


@needs_data
def test_set5_bicubic_psnr_is_the_published_one() -> None:
    luma = torch.tensor([65.738, 129.057, 25.064], dtype=torch.float64) / 256
    for s, published in ((2, 33.66), (3, 30.39), (4, 28.42)):
        psnr = []
        for name in SET5:
            hr, lr = set5_pair(name, s)
            sr = matlab_bicubic(lr, (hr.shape[1], hr.shape[2]))
            error = torch.einsum("c,chw->hw", luma, sr.double() - hr)[s:-s, s:-s]
            psnr.append(10 * math.log10(255**2 / error.square().mean()))
        assert sum(psnr) / 5 == pytest.approx(published, abs=0.02), s


@pytest.mark.parametrize("size", [(4, 9), (9, 4), (20, 3)])
def test_uint8_is_rounded_after_each_axis_the_most_shrunk_first(size: tuple[int, int]) -> None:
    image = torch.randint(256, (3, 12, 12), dtype=torch.uint8)
    order = [(size[0], 12), (size[0], size[1])] if size[0] <= size[1] else [(12, size[1]), (size[0], size[1])]
    expected = image.double()
    for step in order:
        expected = (matlab_bicubic(expected, step) + 0.5).floor().clamp(0, 255)
    assert torch.equal(matlab_bicubic(image, size), expected.byte())


@pytest.mark.parametrize("size", [(3, 5), (12, 20), (40, 7), (1, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_constant_stays_constant(size: tuple[int, int], dtype: torch.dtype) -> None:
    out = matlab_bicubic(torch.full((2, 3, 12, 20), 0.3, dtype=dtype), size)
    assert (out.shape, out.dtype) == ((2, 3, *size), dtype)
    assert torch.allclose(out, torch.tensor(0.3, dtype=dtype), atol=1e-6)


def test_its_own_size_is_the_identity() -> None:
    image = torch.rand(3, 9, 11, dtype=torch.float64)
    assert torch.equal(matlab_bicubic(image, (9, 11)), image)


def test_axes_are_alike_and_mirrored_alike() -> None:
    image = torch.rand(3, 17, 23, dtype=torch.float64)
    out = matlab_bicubic(image, (6, 31))
    assert torch.allclose(matlab_bicubic(image.mT, (31, 6)).mT, out)
    assert torch.allclose(matlab_bicubic(image.flip(-1, -2), (6, 31)).flip(-1, -2), out)


@pytest.mark.parametrize("s", [2, 3, 2.5])
def test_torch_antialias_agrees_inside(s: float) -> None:
    image = torch.rand(1, 3, 60, 90, dtype=torch.float64)
    size = (int(60 / s), int(90 / s))
    ours = matlab_bicubic(image, size)
    theirs = interpolate(image, size, mode="bicubic", antialias=True)
    inside = slice(3, -3)
    assert torch.allclose(ours[..., inside, inside], theirs[..., inside, inside], atol=1e-6)


def test_a_parabola_is_enlarged_exactly_inside() -> None:
    n, s = 20, 4
    x = torch.arange(n, dtype=torch.float64)
    fine = (torch.arange(n * s, dtype=torch.float64) + 0.5) / s - 0.5
    out = matlab_bicubic((x**2).expand(n, n), (n * s, n * s))
    assert torch.allclose(out[40, 12:-12], (fine**2)[12:-12], atol=1e-9)


def test_border_is_mirrored_with_its_edge() -> None:
    image = torch.rand(1, 12, 12, dtype=torch.float64)
    padded = torch.from_numpy(np.pad(image.numpy(), ((0, 0), (12, 12), (12, 12)), mode="symmetric"))
    whole = matlab_bicubic(padded, (12, 12))
    assert torch.allclose(matlab_bicubic(image, (4, 4)), whole[:, 4:8, 4:8])
    # Even where the kernel is wider than the image.
    assert matlab_bicubic(image, (1, 1)).isfinite().all()


def test_a_given_scale_decides_over_the_sizes() -> None:
    image = torch.rand(1, 10, 10, dtype=torch.float64)
    by_scale = matlab_bicubic(image, scale=0.35)
    assert by_scale.shape == (1, 4, 4)
    assert torch.equal(matlab_bicubic(image, (4, 4), scale=0.35), by_scale)
    assert not torch.allclose(matlab_bicubic(image, (4, 4)), by_scale)
    assert matlab_bicubic(torch.rand(30, 30), scale=0.1).shape == (3, 3)


def test_gradients_flow() -> None:
    image = torch.rand(1, 7, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: matlab_bicubic(x, (3, 9)), image)


def test_wrong_sizes_scales_and_dtypes_are_refused() -> None:
    with pytest.raises(UsageError, match="neither size nor scale"):
        matlab_bicubic(torch.rand(4, 4))
    with pytest.raises(UsageError, match="scale is nan"):
        matlab_bicubic(torch.rand(4, 4), scale=math.nan)
    with pytest.raises(UsageError, match="at least one pixel"):
        matlab_bicubic(torch.rand(4, 4), (0, 3))
    with pytest.raises(TypeError, match="float16"):
        matlab_bicubic(torch.zeros(4, 4, dtype=torch.float16), (2, 2))
    with pytest.raises(TypeError, match="uint8: give floats"):
        bicubic(torch.zeros(4, 4, dtype=torch.uint8), (8, 8))


def test_arrays_and_tensors_are_not_mixed_up() -> None:
    array: Any = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(TypeError, match="ndarray: give a torch tensor"):
        matlab_bicubic(array, (2, 2))
    tensor: Any = torch.zeros(4, 4, 3)
    with pytest.raises(TypeError, match="Tensor: give a numpy array"):
        pil_bicubic(tensor, (2, 2))


def test_pil_bicubic_is_pillows() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    expected = Image.fromarray(image).resize((13, 7), Image.Resampling.BICUBIC)
    assert np.array_equal(pil_bicubic(image, (7, 13)), np.asarray(expected))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("n_in", "n_out"), [(300, 90), (90, 300), (201, 67), (5, 1), (1, 7), (90, 60)])
def test_any_part_of_an_axis_is_that_of_the_whole(kernel: str, n_in: int, n_out: int) -> None:
    image, resize = torch.rand(2, n_in, 3, dtype=torch.float64), AxisResize(n_in, n_out, kernel)
    whole = resize(image, -2)
    if kernel != "matlab":
        way = {"bicubic": "BICUBIC", "bilinear": "BILINEAR", "area": "BOX"}[kernel]
        for plane, ours in zip(image.float(), whole, strict=True):
            theirs = Image.fromarray(plane.numpy()).resize((3, n_out), Image.Resampling[way])
            assert np.abs(ours.numpy() - np.asarray(theirs)).max() < 2e-6
    for outputs in ((0, 1), (n_out // 3, n_out // 2 + 1), (n_out - 1, n_out), (0, n_out)):
        near, far = resize.support(*outputs)
        first = max(near - 2, 0)
        part = resize(image[:, first : far + 1], -2, outputs, first)
        assert torch.allclose(part, whole[:, slice(*outputs)], atol=1e-14)
        # Nothing beyond its support matters.
        changed = image.clone()
        changed[:, :near], changed[:, far:] = 9, 9
        assert torch.allclose(resize(changed, -2)[:, slice(*outputs)], part, atol=1e-14)
