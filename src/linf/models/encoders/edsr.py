"""Encoder box of the figure: EDSR without its upsampler.

Lim et al., *Enhanced Deep Residual Networks for Single Image Super-Resolution*, CVPRW 2017, arXiv 1707.02921.
"""

from torch import Tensor, nn

from linf.models.encoders.encoder import Encoder, check_sizes, conv3x3


class ResidualBlock(nn.Module):
    """``x + scale · conv(relu(conv(x)))``, without batch normalisation (arXiv 1707.02921, figure 2c)."""

    def __init__(self, channels: int, residual_scale: float) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv3x3(channels, channels), nn.ReLU(inplace=True), conv3x3(channels, channels)
        )
        self.residual_scale = residual_scale

    def forward(self, x: Tensor) -> Tensor:
        """(B,F,h,w) → (B,F,h,w)."""
        return x.add(self.body(x), alpha=self.residual_scale)


class EDSR(Encoder):
    """Residual network; `edsr_baseline` is 16 blocks of 64 channels, `edsr` 32 of 256 with scale 0.1.

    Args:
        blocks: number of residual blocks.
        channels: width, also of the features.
        residual_scale: factor on each block's residual.
        image_channels: of the images, 3 for RGB.
        checkpoint: recompute activations in the backward pass instead of keeping them, see `Encoder`.
    """

    def __init__(
        self,
        blocks: int = 16,
        channels: int = 64,
        residual_scale: float = 1.0,
        *,
        image_channels: int = 3,
        checkpoint: bool = False,
    ) -> None:
        settings = {"blocks": blocks, "channels": channels, "residual_scale": residual_scale}
        super().__init__(image_channels=image_channels, checkpoint=checkpoint, **settings)
        check_sizes("EDSR", blocks=blocks, channels=channels)
        self.head = nn.Sequential(conv3x3(image_channels, channels))
        self.body = nn.Sequential(
            *(ResidualBlock(channels, residual_scale) for _ in range(blocks)), conv3x3(channels, channels)
        )
        self.out_channels = channels
        self.receptive_field = 2 * blocks + 2  # One pixel for each 3×3 convolution in a row.

    def forward(self, image: Tensor) -> Tensor:
        shallow = self.head(image)
        return shallow + self.through(self.body, shallow)
