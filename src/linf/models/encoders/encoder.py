"""What all encoders use: the 3×3 convolution, and blocks that keep no activations."""

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    """3×3 convolution that keeps the image's size."""
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)


def call(block: nn.Module, *given: Tensor, checkpointed: bool) -> Tensor:
    """``block(*given)``; checkpointed, its activations are made again in the backward pass instead of kept.

    That takes much less memory and a third more time.
    """
    return checkpoint(block, *given, use_reentrant=False) if checkpointed else block(*given)
