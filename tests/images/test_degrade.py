"""Degradation operators, against Pillow, SciPy and MATLAB's bicubic."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor

from linf.images.degrade import blur, jpeg, pad_to, pillow_jpeg, resample, shot_noise, webp
from linf.images.resize import KERNELS, matlab_bicubic


def smooth_images(*shape: int, seed: int = 0) -> Tensor:
    """Images with structure, in [0, 1]."""
    rng = np.random.default_rng(seed)
    field = gaussian_filter(rng.standard_normal(shape), (0,) * (len(shape) - 2) + (2, 2))
    return torch.from_numpy((field - field.min()) / (field.max() - field.min())).float()


def file_rms(a: Tensor, b: Tensor) -> float:
    return float((a - b).mul(255).square().mean().sqrt())


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("n_out", [(10, 13), (37, 20), (45, 64)])
def test_resample_is_that_of_pillow_or_matlab(kernel: str, n_out: tuple[int, int]) -> None:
    image = smooth_images(2, 3, 40, 52)
    n_in = torch.tensor([[40, 52], [33, 29]])
    # The second image is smaller, and lies in a corner; no pixel of it lies on the edge of a box.
    index = torch.full((2,), KERNELS.index(kernel))
    size = (max(n_out[0], 19), max(n_out[1], 21))
    resized = resample(image, n_in, torch.tensor([n_out, (19, 21)]), size, index)
    for b, ((h, w), (y, x)) in enumerate(zip(n_in.tolist(), (n_out, (19, 21)), strict=True)):
        inside = image[b, :, :h, :w]
        if kernel == "matlab":
            truth = matlab_bicubic(inside.double(), (y, x)).float()
        else:
            way = {"bicubic": "BICUBIC", "bilinear": "BILINEAR", "area": "BOX"}[kernel]
            planes = [
                Image.fromarray(plane.numpy()).resize((x, y), Image.Resampling[way]) for plane in inside
            ]
            truth = torch.from_numpy(np.stack([np.array(plane) for plane in planes]))
        assert torch.allclose(resized[b, :, :y, :x], truth, atol=2e-6)
        assert torch.equal(resized[b, :, y:], resized[b, :, y - 1 : y].expand(-1, size[0] - y, -1))


def test_blur_is_a_gaussian_of_its_own_for_each_image() -> None:
    images = smooth_images(3, 2, 30, 40)
    sigma = torch.tensor([[1.5, 1.5], [0.0, 0.0], [2.0, 0.7]])
    blurred = blur(images, sigma, torch.tensor([0.3, 1.0, 0.0]), 17)
    assert torch.allclose(blurred[1], images[1], atol=1e-6)
    for b, (y, x) in ((0, (1.5, 1.5)), (2, (0.7, 2.0))):
        truth = gaussian_filter(images[b].double().numpy(), (0, y, x), mode="nearest", radius=(0, 8, 8))
        assert np.allclose(blurred[b].numpy(), truth, atol=1e-5)


def test_an_angle_turns_the_kernel() -> None:
    point = torch.zeros(2, 1, 21, 21)
    point[:, :, 10, 10] = 1
    steep, level = blur(point, torch.tensor([[3.0, 1.0]]).expand(2, 2), torch.tensor([torch.pi / 2, 0.0]), 19)
    assert torch.allclose(steep, level.mT, atol=1e-6)
    assert level[0, 10, 14] > 2 * level[0, 14, 10]


def test_shot_noise_has_the_moments_of_poisson() -> None:
    light = torch.tensor([0.1, 0.5, 1.0]).repeat_interleave(40_000).reshape(1, 3, 200, 200)
    z = torch.randn(light.shape, generator=torch.Generator().manual_seed(0))
    noisy = shot_noise(light, z, torch.tensor([200.0]))
    for mean, plane in zip((0.1, 0.5, 1.0), noisy[0], strict=True):
        assert plane.mean().item() == pytest.approx(mean, abs=1e-3)
        assert plane.var().item() == pytest.approx(mean / 200, rel=0.03)
    assert torch.equal(shot_noise(light, z, torch.tensor([0.0])), light)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("quality", [15, 30, 60, 90])
def test_jpeg_of_the_device_is_near_that_of_a_file(channels: int, quality: int) -> None:
    # As in photographs, the channels differ little.
    images = 0.8 * smooth_images(2, 1, 48, 56) + 0.2 * smooth_images(2, channels, 48, 56, seed=1)
    images = (images * 255).round() / 255
    way = torch.tensor([float(quality), 0.0])
    ours, file = jpeg(images, way), pillow_jpeg(images, way)
    assert torch.equal(ours[1], images[1])
    assert torch.equal(file[1], images[1])
    lost = file_rms(file[0], images[0])
    assert file_rms(ours[0], file[0]) < max(0.8 * lost, 1)
    assert file_rms(ours[0], images[0]) == pytest.approx(lost, rel=0.25, abs=0.4)


def test_a_second_pass_of_jpeg_changes_nothing() -> None:
    """What soft rounding leaves of discarded detail a network could learn to read."""
    images, quality = smooth_images(1, 1, 64, 64), torch.tensor([30.0])
    once = jpeg(images, quality)
    assert file_rms(jpeg(once, quality), once) < 0.15


@pytest.mark.parametrize(("code", "suffix"), [(pillow_jpeg, "JPEG"), (webp, "WEBP")])
def test_the_host_codes_as_a_file(code, suffix: str) -> None:
    image = (smooth_images(1, 3, 33, 47) * 255).round() / 255
    pixels = Image.fromarray((image[0] * 255).byte().permute(1, 2, 0).numpy())
    file = io.BytesIO()
    pixels.save(file, suffix, quality=40, **({"subsampling": 2} if suffix == "JPEG" else {}))
    truth = torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1) / 255
    assert torch.equal(code(image, torch.tensor([40.0]))[0], truth)


def test_padding_repeats_the_border() -> None:
    image = torch.arange(12, dtype=torch.uint8).reshape(1, 3, 4)
    padded = pad_to(image, 5)
    assert padded.dtype == torch.uint8
    assert torch.equal(padded[:, :3, :4], image)
    assert torch.equal(padded[0, 4], padded[0, 2])
    assert padded[0, 1, 4] == image[0, 1, 3]
