"""LR consistency of samples in windows of a training crop, for the perceptual loss of stage 2.

A round of back-projection (see `linf.models.consistency`) takes from the error of an image what its LR image sees of
it: ``e ← e − up(down(e))``. Here both maps are matrices of the window at hand, made on its device and without waiting
for it, whatever the scale of each sample. What lies around the window has no error in them.
"""

import torch
from torch import Tensor

from linf.images.resize import keys_cubic

SPAN = 32
"""HR pixels on either side of an LR pixel by which its weights are divided: all up to ×16; beyond, their sum is 1."""


def unseen(error: Tensor, coord: Tensor, cell: Tensor, lr_size: tuple[int, int], rounds: int) -> Tensor:
    """What is left of an error after rounds of back-projection.

    Args:
        error: (B,C,n,m) the error of a window of HR pixels.
        coord: (B,gh,gw,2) the centres of the window's patches, (y, x) in [-1, 1], see `SRBatch`.
        cell: (B,2) the size of one HR pixel, (2/H, 2/W).
        lr_size: (h, w) of the LR crops, which have been reduced by a bicubic.
        rounds: how many.

    Returns:
        (B,C,n,m), of the dtype of ``error``.
    """
    left = error.to(torch.promote_types(error.dtype, torch.float32))
    with torch.autocast(error.device.type, enabled=False):
        rows = _down_up(coord[:, :, 0, 0].to(left), cell[:, 0].to(left), lr_size[0], error.shape[-2])
        cols = _down_up(coord[:, 0, :, 1].to(left), cell[:, 1].to(left), lr_size[1], error.shape[-1])
        for _ in range(rounds):
            left = left - rows[:, None] @ left @ cols[:, None].mT
    return left.to(error.dtype)


def _down_up(centres: Tensor, cell: Tensor, lr_pixels: int, pixels: int) -> Tensor:
    """A reduction and an enlargement of one axis of a window, by MATLAB's bicubic, which mirrors the border.

    Args:
        centres: (B,g) of patches along the axis.
        cell: (B,) the size of one HR pixel.
        lr_pixels: of the whole LR crop along the axis.
        pixels: n of the window along the axis.

    Returns:
        (B,n,n), from errors of the window to what its LR image shows of them.
    """
    count = 2 / cell[:, None]  # HR pixels of the crop.
    scale = count / lr_pixels
    patch = pixels // centres.shape[1]
    first = ((centres[:, :1] + 1) * count - patch) / 2
    hr = first.round() + torch.arange(pixels, device=cell.device)
    lr = torch.arange(lr_pixels, device=cell.device, dtype=hr.dtype)
    stretch = scale.clamp_min(1)[..., None]
    middle = (lr + 0.5) * scale - 0.5
    # The host does not know how many pixels an LR pixel's weights span, of which the window has a part only.
    around = middle.round()[..., None] + torch.arange(-SPAN, SPAN + 1, device=cell.device)
    total = keys_cubic((around - middle[..., None]) / stretch).sum(-1, keepdim=True)
    total = torch.where(stretch > SPAN / 2, stretch, total)
    # What lies beyond the border is mirrored.
    mirrored = (hr, -1 - hr, 2 * count - 1 - hr)
    down = torch.stack([keys_cubic((at[:, None] - middle[..., None]) / stretch) for at in mirrored]).sum(0)
    middle = (hr + 0.5) / scale - 0.5
    mirrored = (lr, -1 - lr, 2 * lr_pixels - 1 - lr)
    up = torch.stack([keys_cubic(middle[..., None] - at) for at in mirrored]).sum(0)
    return up @ (down / total)
