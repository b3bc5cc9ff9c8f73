"""Prior box of the figure: a U-Net that predicts the flow's latent from the LR image (METHOD §9).

Tsao et al., *Boosting Flow-based Generative Super-Resolution Models via Learned Prior*, CVPR 2024, arXiv 2403.10988.
Modules keep the names of the published code, so that its weights load by name.
"""

import itertools
from collections import OrderedDict

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn import functional as F

from linf.models.bilinear import bilinear_patches
from linf.models.encoders.encoder import DenseBlock, other_than_rgb
from linf.models.flow import check_patch_size


@torch.no_grad()
def _dense_block(in_channels: int, growth: int) -> DenseBlock:
    """(B,in_channels,h,w) → (B,growth,h,w), with small weights at first."""
    block = DenseBlock(in_channels, growth, growth)
    for name, parameter in block.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        else:
            nn.init.kaiming_normal_(parameter).mul_(0.1)
    return block


class BatchNorm(nn.BatchNorm2d):
    """Batch norm over the batches of all ranks; torch's own for this, `nn.SyncBatchNorm`, knows no CPU."""

    def forward(self, x: Tensor) -> Tensor:
        """(B,F,h,w) → (B,F,h,w)."""
        if not (self.training and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(x)
        assert self.momentum is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        values = x.float()
        n = x.new_tensor(len(x) * x.shape[2] * x.shape[3], dtype=torch.float32) * dist.get_world_size()
        mean = all_reduce(values.sum((0, 2, 3))) / n
        centred = values - mean[:, None, None]
        variance = all_reduce(centred.square().sum((0, 2, 3))) / n
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * n / (n - 1), self.momentum)
            self.num_batches_tracked += 1
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


def _named(name: str, module: nn.Module) -> nn.Sequential:
    """A module one level down, as its published name has it."""
    return nn.Sequential(OrderedDict({name: module}))


def _double_conv(in_channels: int, between: int, out_channels: int) -> nn.Sequential:
    """Convolution, batch norm and LeakyReLU, twice: (B,in_channels,h,w) → (B,out_channels,h,w)."""
    layers: list[nn.Module] = []
    for before, after in ((in_channels, between), (between, out_channels)):
        conv = nn.Conv2d(before, after, 3, padding=1, bias=False)
        layers += [conv, BatchNorm(after), nn.LeakyReLU(0.2, inplace=True)]
    return _named("double_conv", nn.Sequential(*layers))


class Up(nn.Module):
    """Twice the size, zeros around to that of the skip connection, then two convolutions of both."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = _double_conv(in_channels, in_channels // 2, out_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B,·,h/2,w/2) and (B,·,h,w) → (B,out_channels,h,w)."""
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        dy, dx = (n - m for n, m in zip(skip.shape[-2:], x.shape[-2:], strict=True))
        # Below zero, where a side of 1 was not halved, it crops.
        x = F.pad(x, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])
        return self.conv(torch.cat((skip, x), dim=1))


class UNet(nn.Module):
    """Latent of the upscaled LR image, and the LR image → the latent to sample with.

    .. math::
        ẑ = U(z_{lr}, LR),   z_{lr} = f(r | c),   r = up(LR) − up(down(up(LR)))

    It sees the whole grid at once: its `align_corners` upsampling leaves no exact tiling.

    Args:
        patch_size: P of the flow; D = C·P² channels in and out.
        width: channels at full size; even. The paper's is 64.
        depth: how often the grid is halved.
        image_channels: of the images, 3 for RGB.
    """

    def __init__(
        self, patch_size: int = 1, *, width: int = 64, depth: int = 3, image_channels: int = 3
    ) -> None:
        super().__init__()
        check_patch_size(patch_size)
        if width < 2 or width % 2:
            raise ValueError(f"prior width {width} is not a positive even number; the paper uses 64")
        if depth < 1:
            raise ValueError(f"prior depth {depth} is below 1; the paper uses 3")
        self.config = {"patch_size": patch_size, "width": width, "depth": depth}
        self.config |= other_than_rgb(image_channels)
        self.patch_size, self.depth, self.image_channels = patch_size, depth, image_channels
        dim = image_channels * patch_size**2
        self.input_proj = _dense_block(dim, width // 2)
        self.lr_proj = nn.Sequential(
            nn.Conv2d(image_channels, dim, 3, stride=3, padding=1),
            nn.LeakyReLU(0.2, inplace=True),
            _dense_block(dim, width // 2),
        )
        self.inc = _double_conv(width, width, width)
        # The deepest stage does not widen, for its output joins a skip connection as wide as itself.
        widths = [width * 2 ** min(i, depth - 1) for i in range(depth + 1)]
        self.down_layers = nn.ModuleList(
            _named("maxpool_conv", _named("1", _double_conv(before, after, after)))
            for before, after in itertools.pairwise(widths)
        )
        self.up_layers = nn.ModuleList(
            Up(2 * widths[i], widths[max(i - 1, 0)]) for i in reversed(range(depth))
        )
        self.outc = _named("conv", nn.Conv2d(width, dim, 1))

    @property
    def bytes_per_patch(self) -> int:
        """Memory that `forward` takes for each patch of a large grid, without gradient, in single precision."""
        # Measured on the CPU, where the last stage joins its skip: 29 for each channel of the width, 10 for each of D.
        return 32 * self.config["width"] + 12 * self.image_channels * self.patch_size**2

    def forward(self, z_lr: Tensor, lr: Tensor, coord: Tensor | None = None) -> Tensor:
        """ẑ on the grid of ``z_lr``: (B,D,gh,gw).

        Args:
            z_lr: (B,D,gh,gw), of any size from 1×1.
            lr: (B,C,h,w) in [-1, 1], of any size from 1×1.
            coord: (B,gh,gw,2) patch centres, (y, x) in [-1, 1], at which LR features are taken; by default they are
                resized to the grid, which for a grid that covers the image in whole patches is the same.
        """
        high, wide = (max(n >> self.depth, 1) for n in z_lr.shape[-2:])
        if self.training and z_lr.shape[0] * high * wide == 1:
            raise ValueError(
                "batch norm has a single value to train on at the bottom of the prior: raise data.batch_size, or "
                f"data.crop for windows of at least {2 ** (self.depth + 1)} patches a side"
            )
        features = self.lr_proj(lr)
        if coord is None:
            features = F.interpolate(features, z_lr.shape[-2:], mode="bilinear", align_corners=False)
        else:
            features = F.grid_sample(
                features, coord.flip(-1), mode="bilinear", padding_mode="border", align_corners=False
            )
        x = self.inc(torch.cat((self.input_proj(z_lr), features), dim=1))
        del features
        skips = []
        for down in self.down_layers:
            skips.append(x)
            # An odd last row or column is left out; a side of 1, where the published code fails, stays 1.
            x = down(F.max_pool2d(x, [min(2, n) for n in x.shape[-2:]]))
        for up in self.up_layers:
            x = up(x, skips.pop())
        return self.outc(x)


def lr_residual(lr: Tensor, size: tuple[int, int]) -> Tensor:
    """What enlarging, reducing and enlarging again takes from the enlarged LR image, ``up(lr) − up(down(up(lr)))``.

    (B,C,h,w) in [0, 1] → (B,C,H,W) in [-1, 1] units; all bilinear, and without antialiasing.
    """

    def resized(image: Tensor, to: tuple[int, int]) -> Tensor:
        return F.interpolate(image, to, mode="bilinear", align_corners=False)

    lr_up = resized(lr, size)
    return 2 * (lr_up - resized(resized(lr_up, (lr.shape[-2], lr.shape[-1])), size))


def window_lr_residual(lr: Tensor, coord: Tensor, cell: Tensor, patch_size: int) -> Tensor:
    """The patches of `lr_residual`, (B,D,gh,gw), in one contiguous window of whole patches for each image of a batch,
    by matrix products, for which no device has to tell the host a size.

    Args:
        lr: (B,C,h,w) in [0, 1].
        coord: (B,gh,gw,2) patch centres, (y, x) in [-1, 1]; they may lie between pixels.
        cell: (B,2), 2 over the HR size; it may differ from image to image.
        patch_size: P.

    Raises:
        ValueError: the patches do not lie side by side. On a GPU, and in a graph, nobody looks: the host would wait.
    """
    if coord.device.type != "cuda" and not torch.compiler.is_compiling():
        pixel = (coord + 1) / cell[:, None, None]
        steps = torch.cartesian_prod(*(torch.arange(n) for n in coord.shape[1:3])).view(*coord.shape[1:3], 2)
        if not ((pixel - pixel[:, :1, :1] - patch_size * steps).abs() < 0.25).all():
            raise ValueError(
                "a prior is trained on contiguous windows of whole patches: set data.window=true"
            )
    # In double precision, which no setting of torch rounds.
    y, x = (_up_and_down(n, 2 / cell[:, axis].double())[:, None] for axis, n in enumerate(lr.shape[-2:]))
    reduced = (y @ lr.double() @ x.mT).to(lr.dtype)
    return 2 * bilinear_patches(lr - reduced, coord.to(lr), cell.to(lr), patch_size)


def _up_and_down(n: int, size: Tensor) -> Tensor:
    """Bilinear enlargement of ``n`` pixels to each of ``size`` (B,), and reduction again, as (B,n,n) matrices."""
    pixel, size = torch.arange(n, device=size.device, dtype=size.dtype), size.round()[:, None]

    def enlarged(at: Tensor) -> Tensor:
        place = ((at + 0.5) * n / size - 0.5).clamp(0, n - 1)
        return (1 - (place[..., None] - pixel).abs()).clamp(min=0)

    place = torch.minimum(((pixel + 0.5) * size / n - 0.5).clamp(min=0), size - 1)
    below = place.floor()
    share = (place - below)[..., None]
    return (1 - share) * enlarged(below) + share * enlarged(torch.minimum(below + 1, size - 1))
