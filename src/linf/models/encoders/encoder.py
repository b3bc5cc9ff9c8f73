"""What every encoder is, and what all of them are built from."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


class Encoder(nn.Module, ABC):
    """An image becomes features at the same resolution.

    Args:
        image_channels: C of the images, 3 for RGB.
        checkpoint: whether the backward pass recomputes the activations of blocks instead of keeping them. That takes
            much less memory and about a third more time.
        **config: the other arguments that build the encoder again, as plain numbers and lists.

    Attributes:
        config: all arguments that build it again, but ``checkpoint``.
        out_channels: F, the number of feature channels.
        receptive_field: how many LR pixels around a tile its features depend on; None where no finite margin is
            enough, so that an image is encoded whole.
    """

    image_channels: int
    out_channels: int
    receptive_field: int | None
    config: dict[str, Any]
    checkpoint: bool

    def __init__(self, *, image_channels: int = 3, checkpoint: bool = False, **config: Any) -> None:
        super().__init__()
        self.config = config | other_than_rgb(image_channels)
        self.image_channels, self.checkpoint = image_channels, checkpoint

    @abstractmethod
    def forward(self, image: Tensor) -> Tensor:
        """Encode images (B,C,h,w) in [-1, 1] as features (B,F,h,w)."""

    def draw(self, seed: int, first: int, batch: int, device: torch.device) -> None:
        """Decide what is random in the training step to come, if anything is.

        Args:
            seed: of the run.
            first: number of the batch's first sample among all samples of the run; what is random for a sample is a
                function of the seed and its number, in any batch, on any rank and device.
            batch: samples in the batch.
            device: that of the batch.
        """

    def through(self, blocks: Iterable[nn.Module], x: Tensor, *others: Tensor) -> Tensor:
        """Pass ``x`` through blocks in turn, each called with ``others`` too, and checkpointed if ``checkpoint``."""
        for block in blocks:
            x = checkpoint(block, x, *others, use_reentrant=False) if self.checkpoint else block(x, *others)
        return x


def check_sizes(encoder: str, **sizes: int) -> None:
    """Raise ValueError unless each size is 1 or more."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{encoder}'s {name} is {size}: give a whole number of at least 1")


def other_than_rgb(image_channels: int) -> dict[str, int]:
    """The entry of a part's config that says for how many image channels it is; none for RGB, as in earlier files."""
    check_sizes("the model", image_channels=image_channels)
    return {} if image_channels == 3 else {"image_channels": image_channels}


class DenseBlock(nn.Module):
    """Five densely connected convolutions (ESRGAN's block, arXiv 1809.00219, without its residual)."""

    def __init__(self, in_channels: int, growth: int, out_channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3, self.conv4 = (
            conv3x3(in_channels + i * growth, growth) for i in range(4)
        )
        self.conv5 = conv3x3(in_channels + 4 * growth, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B,in_channels,h,w) → (B,out_channels,h,w)."""
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = torch.cat((x, F.leaky_relu(conv(x), 0.2, inplace=True)), dim=1)
        return self.conv5(x)


def conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    """3×3 convolution that keeps the image's size."""
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)
