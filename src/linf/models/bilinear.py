"""The bilinear image that residuals are relative to: of patches, of rectangles, of whole images (METHOD §5)."""

import torch
from torch import Tensor
from torch.nn import functional as F


def bilinear_patches(lr: Tensor, coord: Tensor, cell: Tensor, patch_size: int) -> Tensor:
    """Patches of the bilinear image at given centres.

    Args:
        lr: (B,C,h,w).
        coord: (B,gh,gw,2) patch centres, (y, x) in [-1, 1].
        cell: (B,2) size of one HR pixel.
        patch_size: P.

    Returns:
        (B,D,gh,gw), channel-major.
    """
    pixel = pixels_of_patches(coord, cell, patch_size)
    bilinear = F.grid_sample(lr, pixel.flip(-1), mode="bilinear", padding_mode="border", align_corners=False)
    return bilinear.reshape(len(lr), -1, *coord.shape[1:3])


def pixels_of_patches(coord: Tensor, cell: Tensor, patch_size: int) -> Tensor:
    """Places of a patch's pixels: centres (B,gh,gw,2) and cells (B,2) → (B, P², gh·gw, 2)."""
    step = torch.arange(patch_size, device=coord.device, dtype=coord.dtype) - patch_size // 2
    offset = torch.cartesian_prod(step, step) if patch_size > 1 else coord.new_zeros(1, 2)
    return coord.flatten(1, 2)[:, None] + offset[:, None] * cell[:, None, None]


def image_residual(lr: Tensor, hr: Tensor) -> Tensor:
    """What a flow models of whole images: lr (B,C,h,w) and hr (B,C,H,W) in [0, 1] → (B,C,H,W) in [-1, 1] units."""
    return 2 * (hr - F.interpolate(lr, hr.shape[-2:], mode="bilinear", align_corners=False))


class BilinearBase:
    """The bilinear image of a size, any rectangle of it, from whole numbers or floats.

    A rectangle is that of ``F.interpolate(lr, size, mode="bilinear", align_corners=False)``, to rounding.

    Args:
        lr: (B,C,h,w), or (B,1,h,w) for grey.
        size: (H, W).
        peak: the value of white.
        channels: C of the bilinear image, for which grey is repeated.
    """

    def __init__(self, lr: Tensor, size: tuple[int, int], peak: float = 1, channels: int = 3) -> None:
        self.lr, self.size, self.peak, self.channels = lr, size, peak, channels
        self.dtype = lr.dtype if lr.is_floating_point() else torch.float32
        # On the CPU, where looking at a coordinate waits for no device.
        self.axes = [
            ((torch.arange(n, dtype=torch.float64) + 0.5) * (k / n) - 0.5).clamp_(min=0)
            for k, n in zip(lr.shape[-2:], size, strict=True)
        ]

    def __call__(self, image: int, rows: slice, cols: slice) -> Tensor:
        """(C,y,x) in [0, 1]: HR rows and columns of one of the images."""
        y, x = self.axes[0][rows], self.axes[1][cols]
        top, left = int(y[0]), int(x[0])
        part = self.lr[image, :, top : int(y[-1]) + 2, left : int(x[-1]) + 2].to(self.dtype)
        if self.peak != 1:
            part = part / self.peak
        return _lerp(_lerp(part, x - left, 2), y - top, 1).expand(self.channels, -1, -1)


def _lerp(part: Tensor, at: Tensor, dim: int) -> Tensor:
    """Interpolate (C,h,w) linearly at n places along axis 1 or 2: (C,n,w) or (C,h,n)."""
    below = at.long().clamp(max=part.shape[dim] - 1)
    above = (below + 1).clamp(max=part.shape[dim] - 1)
    weight = (at - below).view(-1, *[1] * (2 - dim)).to(part)
    below, above = below.to(part.device), above.to(part.device)
    return torch.lerp(part.index_select(dim, below), part.index_select(dim, above), weight)
