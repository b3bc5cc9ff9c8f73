"""Encoder box of the figure: EDSR without its upsampler, image → features at the same resolution.

Lim et al., *Enhanced Deep Residual Networks for Single Image Super-Resolution*, CVPRW 2017, arXiv 1707.02921.
"""

import os

from torch import Tensor, nn

from linf.checkpoints.initial import start_from
from linf.models.encoders.encoder import call, conv3x3


class ResidualBlock(nn.Module):
    """``x + scale · conv(relu(conv(x)))``, without batch normalisation (arXiv 1707.02921, figure 2c)."""

    def __init__(self, channels: int, residual_scale: float) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv3x3(channels, channels), nn.ReLU(inplace=True), conv3x3(channels, channels)
        )
        self.residual_scale = residual_scale

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,h,w) → (B,C,h,w)."""
        return x.add(self.body(x), alpha=self.residual_scale)


class EDSR(nn.Module):
    """Residual network; `edsr_baseline` is 16 blocks of 64 channels, `edsr` 32 of 256 with scale 0.1.

    Args:
        blocks: number of residual blocks.
        channels: width, and `out_channels`.
        residual_scale: factor on each block's residual.
        checkpoint: keep no activations inside blocks, see `call`.
        pretrained: whose weights to begin with, see `start_from`.
    """

    def __init__(
        self,
        blocks: int = 16,
        channels: int = 64,
        residual_scale: float = 1.0,
        *,
        checkpoint: bool = False,
        pretrained: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__()
        self.config = {"blocks": blocks, "channels": channels, "residual_scale": residual_scale}
        self.head = nn.Sequential(conv3x3(3, channels))
        self.body = nn.Sequential(
            *(ResidualBlock(channels, residual_scale) for _ in range(blocks)), conv3x3(channels, channels)
        )
        self.out_channels, self.checkpoint = channels, checkpoint
        self.receptive_field = 2 * blocks + 2
        """LR pixels around a tile that its features depend on: one for each 3×3 convolution in a row."""
        start_from(self, pretrained)

    def forward(self, image: Tensor) -> Tensor:
        """(B,3,h,w) in [-1,1] → (B,C,h,w)."""
        shallow = self.head(image)
        x = shallow
        for block in self.body:
            x = call(block, x, checkpointed=self.checkpoint)
        return shallow + x
