"""Encoder box of the figure: RRDBNet without its upsampler.

Wang et al., *ESRGAN: Enhanced Super-Resolution Generative Adversarial Networks*, ECCVW 2018, arXiv 1809.00219.
Modules keep the names of the published code, so that its weights load by name.
"""

from torch import Tensor, nn

from linf.models.encoders.encoder import DenseBlock, Encoder, check_sizes, conv3x3

RESIDUAL_SCALE = 0.2


class ScaledDenseBlock(DenseBlock):
    """A dense block whose output is scaled and added to its input: (B,F,h,w) → (B,F,h,w)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.add(super().forward(x), alpha=RESIDUAL_SCALE)


class RRDB(nn.Module):
    """Three dense blocks, together a scaled residual (arXiv 1809.00219, figure 4)."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.RDB1, self.RDB2, self.RDB3 = (ScaledDenseBlock(channels, growth, channels) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """(B,F,h,w) → (B,F,h,w)."""
        return x.add(self.RDB3(self.RDB2(self.RDB1(x))), alpha=RESIDUAL_SCALE)


class RRDBNet(Encoder):
    """Residual-in-residual dense blocks; `rrdb` has 23 of them, 64 channels and growth 32.

    Args:
        blocks: number of RRDBs.
        channels: width, also of the features.
        growth: channels that each layer of a dense block adds.
        image_channels: of the images, 3 for RGB.
        checkpoint: recompute activations in the backward pass instead of keeping them, see `Encoder`.
    """

    def __init__(
        self,
        blocks: int = 23,
        channels: int = 64,
        growth: int = 32,
        *,
        image_channels: int = 3,
        checkpoint: bool = False,
    ) -> None:
        sizes = {"blocks": blocks, "channels": channels, "growth": growth}
        super().__init__(image_channels=image_channels, checkpoint=checkpoint, **sizes)
        check_sizes("RRDBNet", **sizes)
        self.conv_first = conv3x3(image_channels, channels)
        self.RRDB_trunk = nn.Sequential(*(RRDB(channels, growth) for _ in range(blocks)))
        self.trunk_conv = conv3x3(channels, channels)
        self.out_channels = channels
        self.receptive_field = 2 + 15 * blocks

    def forward(self, image: Tensor) -> Tensor:
        shallow = self.conv_first(image)
        return shallow + self.trunk_conv(self.through(self.RRDB_trunk, shallow))
