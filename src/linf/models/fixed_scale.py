"""A network of one scale behind the interface of arbitrary scales: what LINF's peers are, each at its own ratio."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from linf.images.resize import matlab_bicubic
from linf.models.decoding import Region, Request
from linf.models.super_resolver import SuperResolver


class FixedScale(SuperResolver):
    """A network that enlarges by one whole number, and MATLAB's bicubic from there to every other size.

    At its own scale the image is the network's, to the bit. At others that image is resized as floats, without
    rounding to 8 bits between: antialiased where it shrinks.

    Args:
        network: the module whose weights these are.
        scale: the ratio of its output to its input; 1 for a network that only restores.
        title: what the network is called in tables.
        image_channels: C, of the images that it takes and gives.
        call: (1,C,h,w) in [0, 1] → (1,C,h·scale,w·scale) in [0, 1], by the network, with whatever padding it needs; by
            default the network itself.
        config: plain numbers and names for the record.
    """

    def __init__(
        self,
        network: nn.Module,
        scale: int,
        *,
        title: str,
        image_channels: int = 3,
        call: Callable[[Tensor], Tensor] | None = None,
        config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if scale < 1:
            raise ValueError(f"the network's scale is {scale}: it must be a whole number of at least 1")
        self.network, self.scale, self.name = network, scale, title
        self.image_channels, self.config = image_channels, config or {}
        self._call = call or network

    @torch.no_grad()
    def regions(self, lr: Tensor, size: tuple[int, int], request: Request) -> Iterator[Region]:
        """Each image as one region: what a network sees of its surroundings is not known, so it is given the whole."""
        channels = self.output_channels(lr)
        for index, image in enumerate(lr):
            values = image[None].float().div(request.peak).expand(-1, channels, -1, -1)
            made = self._call(values).float()  # Under autocast it is of less precision.
            wanted = tuple(self.scale * n for n in lr.shape[-2:])
            if made.shape[-2:] != wanted:
                raise ValueError(
                    f"{self.name} made {made.shape[-2]}×{made.shape[-1]} of {lr.shape[-2]}×{lr.shape[-1]}, and "
                    f"×{self.scale} would be {wanted[0]}×{wanted[1]}: its scale is another one"
                )
            made = made[0] if wanted == tuple(size) else matlab_bicubic(made[0], size)
            yield Region(index, slice(0, size[0]), slice(0, size[1]), made)
