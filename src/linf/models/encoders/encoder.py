"""What every encoder is, and what all of them are built from."""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Encoder(nn.Module, ABC):
    """An image becomes features at the same resolution.

    Attributes:
        out_channels: C, the number of feature channels.
        receptive_field: how many LR pixels around a tile its features depend on; None where no finite margin is
            enough, so that an image is encoded whole.
        config: the arguments that build this encoder again, as plain numbers and lists.
    """

    out_channels: int
    receptive_field: int | None
    config: dict[str, Any]

    @abstractmethod
    def forward(self, image: Tensor) -> Tensor:
        """Encode images (B,3,h,w) in [-1, 1] as features (B,C,h,w)."""


def conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    """3×3 convolution that keeps the image's size."""
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)


def call(block: nn.Module, *inputs: Tensor, checkpointed: bool) -> Tensor:
    """``block(*inputs)``; where ``checkpointed``, the backward pass recomputes its activations.

    That takes much less memory and about a third more time.
    """
    return checkpoint(block, *inputs, use_reentrant=False) if checkpointed else block(*inputs)
