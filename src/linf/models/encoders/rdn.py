"""Encoder box of the figure: RDN without its upsampler.

Zhang et al., *Residual Dense Network for Image Super-Resolution*, CVPR 2018, arXiv 1802.08797. Modules keep the
names of the published code, so that its weights load by name.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from linf.models.encoders.encoder import Encoder, check_sizes, conv3x3


class DenseLayer(nn.Module):
    """``[x, relu(conv(x))]``: the new channels are appended to the input."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(conv3x3(in_channels, growth))

    def forward(self, x: Tensor) -> Tensor:
        """(B,F,h,w) → (B,F+growth,h,w)."""
        return torch.cat((x, F.relu(self.conv(x), inplace=True)), dim=1)


class ResidualDenseBlock(nn.Module):
    """Dense layers, fused by a 1×1 convolution and added to the input (arXiv 1802.08797, equation 7)."""

    def __init__(self, channels: int, growth: int, layers: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(*(DenseLayer(channels + i * growth, growth) for i in range(layers)))
        self.LFF = nn.Conv2d(channels + layers * growth, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B,F,h,w) → (B,F,h,w)."""
        return self.LFF(self.convs(x)) + x


class RDN(Encoder):
    """Residual dense network; `rdn` is the paper's B: 16 blocks of 8 layers, growth 64.

    Args:
        blocks: number of residual dense blocks.
        layers: dense layers in each.
        growth: channels that each layer adds.
        channels: width between blocks, also of the features.
        image_channels: of the images, 3 for RGB.
        checkpoint: recompute activations in the backward pass instead of keeping them, see `Encoder`.
    """

    def __init__(
        self,
        blocks: int = 16,
        layers: int = 8,
        growth: int = 64,
        channels: int = 64,
        *,
        image_channels: int = 3,
        checkpoint: bool = False,
    ) -> None:
        sizes = {"blocks": blocks, "layers": layers, "growth": growth, "channels": channels}
        super().__init__(image_channels=image_channels, checkpoint=checkpoint, **sizes)
        check_sizes("RDN", **sizes)
        self.SFENet1 = conv3x3(image_channels, channels)
        self.SFENet2 = conv3x3(channels, channels)
        self.RDBs = nn.ModuleList(ResidualDenseBlock(channels, growth, layers) for _ in range(blocks))
        self.GFF = nn.Sequential(nn.Conv2d(blocks * channels, channels, 1), conv3x3(channels, channels))
        self.out_channels = channels
        self.receptive_field = 3 + blocks * layers

    def forward(self, image: Tensor) -> Tensor:
        shallow = self.SFENet1(image)
        x, outputs = self.SFENet2(shallow), []
        for block in self.RDBs:
            x = self.through([block], x)
            outputs.append(x)
        return self.GFF(torch.cat(outputs, dim=1)) + shallow
