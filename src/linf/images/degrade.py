"""What happens to an image on its way to a file, for batches on any device: blur, reduction, noise and compression."""

import io
from collections.abc import Callable

import numpy as np
import torch
from kornia.enhance import jpeg_codec_differentiable
from kornia.filters import filter2d
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from linf.images.resize import box, keys_cubic, product_dtype, triangle


def blur(images: Tensor, sigma: Tensor, angle: Tensor, size: int) -> Tensor:
    """Blur each image by a Gaussian of its own; the border is repeated.

    Args:
        images: (B,C,H,W).
        sigma: (B,2) standard deviations along the kernel's two axes, in pixels; 0 leaves an image as it is.
        angle: (B,) of the first axis against the horizontal, in radians.
        size: the kernels' side in pixels, odd.

    Returns:
        (B,C,H,W).
    """
    x = torch.arange(size, device=images.device) - size // 2
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    along, across = x * cos + x[:, None] * sin, x[:, None] * cos - x * sin
    # Below a tenth of a pixel the neighbours' weights vanish.
    a, b = sigma.clamp(min=0.1)[..., None, None].unbind(1)
    return filter2d(
        images, torch.exp(-0.5 * ((along / a) ** 2 + (across / b) ** 2)), "replicate", normalized=True
    )


def resample(images: Tensor, n_in: Tensor, n_out: Tensor, size: tuple[int, int], kernel: Tensor) -> Tensor:
    """Resize each image from a size of its own to another, antialiased, by matrix products.

    Args:
        images: (B,C,H,W), of which (n_in[b,0], n_in[b,1]) pixels at the top left are image b.
        n_in: (B,2) heights and widths.
        n_out: (B,2) heights and widths wanted.
        size: (H', W') of the result; beyond its wanted size an image's last row and column are repeated.
        kernel: (B,) indices into `linf.images.resize.KERNELS`.

    Returns:
        (B,C,H',W'), neither rounded nor clamped.
    """
    dtype = product_dtype(images)
    y, x = (_weights(n_in[:, d], n_out[:, d], images.shape[d - 2], size[d], kernel).to(dtype) for d in (0, 1))
    return (y[:, None] @ images.to(dtype) @ x[:, None].mT).to(images.dtype)


def _weights(n_in: Tensor, n_out: Tensor, most_in: int, most_out: int, kernel: Tensor) -> Tensor:
    """(B, most_out, most_in) weights of input pixels in output pixels."""
    n_in, n_out, kernel = (t.double()[:, None, None] for t in (n_in, n_out, kernel))
    i = torch.arange(most_out, device=n_in.device, dtype=torch.float64)[:, None]
    j = torch.arange(most_in, device=n_in.device, dtype=torch.float64)
    centre = (torch.minimum(i, n_out - 1) + 0.5) * (n_in / n_out)
    shrink = 1 / (n_in / n_out).clamp(min=1)

    def weigh(j: Tensor) -> Tensor:
        t = (j - centre + 0.5) * shrink  # In the order of Pillow, which decides ties of the box.
        return torch.where(kernel <= 1, keys_cubic(t), torch.where(kernel == 2, triangle(t), box(t)))

    mirrored = torch.where(kernel == 1, weigh(-1 - j) + weigh(2 * n_in - 1 - j), 0.0)
    weight = torch.where(j < n_in, weigh(j) + mirrored, 0.0)
    return weight / weight.sum(-1, keepdim=True)


def shot_noise(images: Tensor, z: Tensor, photons: Tensor) -> Tensor:
    """Add the noise of counted photons: Poisson's mean and variance, by the unbiased inverse of Anscombe's transform
    (*The transformation of Poisson, binomial and negative-binomial data*, Biometrika 35, 1948), so that Gaussian
    numbers decide it on every device.

    Args:
        images: (B,C,H,W) in [0, 1].
        z: (B,C,H,W) standard Gaussian numbers.
        photons: (B,) counted at white; 0 leaves an image as it is.
    """
    count = photons[:, None, None, None].clamp(min=1)
    noisy = ((z / 2 + (images.clamp(0, 1) * count + 0.375).sqrt()).clamp(min=0) ** 2 - 0.625) / count
    return torch.where(photons[:, None, None, None] > 0, noisy, images)


def jpeg(images: Tensor, quality: Tensor) -> Tensor:
    """Compress each image as JPEG with 4:2:0 chroma, by kornia on the images' device. Its rounding is soft, which
    leaves a trace of what JPEG discards; a second pass removes it.

    Args:
        images: (B,3,H,W) in [0, 1]; also (B,1,H,W).
        quality: (B,) from 1 to 100, on the host, where kornia checks it; 0 leaves an image as it is.
    """
    coded, some = images.expand(-1, 3, -1, -1), quality.clamp(min=1)
    for _ in range(2):
        coded = jpeg_codec_differentiable(coded, some)
    if images.shape[1] == 1:
        coded = coded.mean(1, keepdim=True)
    chosen = (quality > 0).to(images.device, non_blocking=True)
    return torch.where(chosen[:, None, None, None], coded, images)


def pillow_jpeg(images: Tensor, quality: Tensor) -> Tensor:
    """As `jpeg`, by Pillow on the host: what a file holds, to the bit."""
    return _by_pillow(
        images, quality, lambda image, file, q: image.save(file, "JPEG", quality=q, subsampling=2)
    )


def webp(images: Tensor, quality: Tensor) -> Tensor:
    """Compress each image as WebP by Pillow, on the host, for which a GPU has to wait; arguments as for `jpeg`."""
    return _by_pillow(images, quality, lambda image, file, q: image.save(file, "WEBP", quality=q))


def _by_pillow(
    images: Tensor, quality: Tensor, save: Callable[[Image.Image, io.BytesIO, int], None]
) -> Tensor:
    coded = images.clone()
    for b, q in enumerate(quality.tolist()):
        if q:
            file = io.BytesIO()
            pixels = images[b].clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).cpu().numpy()
            save(Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels), file, round(q))
            with Image.open(file) as opened:
                decoded = np.array(opened.convert("L" if images.shape[1] == 1 else "RGB"))
            coded[b] = torch.from_numpy(decoded).reshape(*images.shape[-2:], -1).permute(2, 0, 1) / 255
    return coded


def pad_to(image: Tensor, size: int) -> Tensor:
    """Repeat the last row and column of a (C,H,W) image up to (C,size,size)."""
    room = (0, size - image.shape[-1], 0, size - image.shape[-2])
    return F.pad(image[None].float(), room, "replicate")[0].to(image.dtype)
