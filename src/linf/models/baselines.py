"""What LINF is held against, behind its interface: bicubic, and regression by LIIF and LTE (METHOD §8)."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from linf.coordinates import Neighbourhood
from linf.images.resize import matlab_bicubic, whole_numbers
from linf.models.bilinear import BilinearBase, bilinear_patches
from linf.models.conditioner import Conditioner, Decode, batch_neighbourhood
from linf.models.decoding import Block, Region, Request, stream
from linf.models.encoders.encoder import Encoder
from linf.models.super_resolver import SuperResolver

STRIP = 256
"""Rows or columns of bicubic that are made at once."""


class Bicubic(SuperResolver):
    """Bicubic enlargement of the 8-bit image, a model without parameters.

    Args:
        depth: bits that images of floats are rounded to; whole numbers keep theirs.

    Raises:
        ValueError: depth is not a whole number from 1 to 16.
    """

    image_channels = 0

    def __init__(self, depth: int = 8) -> None:
        super().__init__()
        if depth not in range(1, 17):
            raise ValueError(f"depth is {depth}: give a whole number of bits from 1 to 16")
        self.config = {} if depth == 8 else {"depth": depth}
        self.peak = 2**depth - 1

    def regions(self, lr: Tensor, size: tuple[int, int], request: Request) -> Iterator[Region]:
        """MATLAB's bicubic in strips: one axis, then the other, in the order of `matlab_bicubic`."""
        white = self.peak if lr.is_floating_point() else int(request.peak)
        pixels = whole_numbers(lr / request.peak, white) if lr.is_floating_point() else lr
        first, last = (-2, -1) if size[0] / lr.shape[-2] <= size[1] / lr.shape[-1] else (-1, -2)
        between = [*pixels.shape]
        between[first] = size[first]
        halfway = pixels.new_empty(between)
        for start in range(0, between[last], STRIP):
            part = pixels.narrow(last, start, min(STRIP, between[last] - start))
            halfway.narrow(last, start, part.shape[last]).copy_(_along(part, first, size[first], white))
        for image in range(len(lr)):
            for start in range(0, size[first], STRIP):
                part = halfway[image].narrow(first, start, min(STRIP, size[first] - start))
                values = _along(part, last, size[last], white).float().div_(white)
                strip = slice(start, start + part.shape[first])
                rows, cols = (strip, slice(0, size[1])) if first == -2 else (slice(0, size[0]), strip)
                yield Region(image, rows, cols, values)


def _along(image: Tensor, dim: int, length: int, peak: int) -> Tensor:
    """An image resized along one axis only."""
    size = [*image.shape[-2:]]
    size[dim] = length
    return matlab_bicubic(image, (size[0], size[1]), peak=peak)


class LIIFConditioner(Conditioner):
    """LIIF's decoder: each neighbour's 3×3 features, offset and cell through one MLP, averaged by area.

    Chen et al., *Learning Continuous Image Representation with Local Implicit Image Function*, CVPR 2021,
    arXiv 2012.09161, with feature unfolding, local ensemble and cell decoding.

    Args:
        in_channels: F, the encoder's `out_channels`.
        out_channels: numbers per query.
        width: of the MLP's hidden layers.
        depth: how many of them.
    """

    def __init__(self, in_channels: int, out_channels: int, *, width: int = 256, depth: int = 4) -> None:
        super().__init__()
        if width < 1 or depth < 1:
            raise ValueError(f"LIIF width {width} and depth {depth} must be 1 or more")
        self.config = {"width": width, "depth": depth}
        self.mlp = nn.Sequential()
        for fan_in, fan_out in pairwise([9 * in_channels + 4] + [width] * depth):
            self.mlp.extend([nn.Linear(fan_in, fan_out), nn.ReLU(inplace=True)])
        self.mlp.append(nn.Linear(width, out_channels))

    def maps(self, features: Tensor) -> Tensor:
        """(B,F,h,w) → (B·h·w, width): what the 3×3 neighbourhood of each LR pixel adds to the first hidden layer.

        This part of the layer is the same for all queries of a pixel, and here a convolution.
        """
        first = cast(nn.Linear, self.mlp[0])
        weight = first.weight[:, : 9 * features.shape[1]].view(-1, features.shape[1], 3, 3)
        return F.conv2d(features, weight, first.bias, padding=1).flatten(2).transpose(1, 2).flatten(0, 1)

    def of_cell(self, cell: Tensor, size: tuple[int, int]) -> Tensor:
        """(B,2) cells, LR size (h, w) → relative cells (B,2)."""
        return torch.stack((cell[:, 0] * size[0], cell[:, 1] * size[1]), dim=1)

    def answers(self, maps: Tensor, of_cell: Tensor, near: Neighbourhood) -> Tensor:
        """Maps (M, width), relative cells (N,2), N neighbourhoods → (out_channels, N)."""
        total, rest = 0, cast(nn.Linear, self.mlp[0]).weight[:, -4:].T
        for pixel, rel_y, rel_x, weight in zip(*near, strict=True):
            place = torch.cat((rel_y[:, None], rel_x[:, None], of_cell), dim=1).to(rest)
            total = total + weight[:, None] * self.mlp[1:](maps[pixel] + place @ rest)
        assert isinstance(total, Tensor)
        return total.T

    def forward(self, features: Tensor, coord: Tensor, cell: Tensor) -> Tensor:
        """(B,F,h,w), (B,...,2), (B,2) → (out_channels, N), as `FourierConditioner` gives them."""
        size = (features.shape[-2], features.shape[-1])
        near = batch_neighbourhood(coord, size)
        of_cell = self.of_cell(cell, size).repeat_interleave(near.pixel.shape[1] // len(features), dim=0)
        return self.answers(self.maps(features), of_cell, near)

    def decoder(self, chunk: int) -> Decode:
        """`answers` for up to ``chunk`` queries at a time."""
        return lambda maps, of_cell, near: self.answers(maps, of_cell.expand(near.pixel.shape[1], -1), near)


class Regression(SuperResolver):
    """An encoder and a conditioner that answers with the colour itself.

    Args:
        encoder: LR image → features.
        conditioner: called with in_channels and out_channels = C, gives the conditioner.
    """

    encoder: Encoder
    conditioner: Conditioner
    residual: bool
    """Whether answers are added to the bilinear image."""

    def __init__(self, encoder: Encoder, conditioner: Callable[..., Conditioner]) -> None:
        super().__init__()
        self.encoder = encoder
        self.image_channels = encoder.image_channels
        self.conditioner = conditioner(in_channels=encoder.out_channels, out_channels=self.image_channels)

    @property
    def config(self) -> dict[str, Any]:  # type: ignore[override]
        """What builds this model again, but for its weights: plain numbers and names."""
        parts: dict[str, Any] = {"encoder": self.encoder, "conditioner": self.conditioner}
        named = {name: {"name": type(part).__name__, **part.config} for name, part in parts.items()}
        stated = {"value_range": self.value_range} if self.value_range else {}
        return {"model": {"name": type(self).__name__}, **named, **stated}

    def predict(self, lr: Tensor, coord: Tensor, cell: Tensor) -> Tensor:
        """Colours: lr (B,C,h,w) in [0, 1], coord (B,gh,gw,2), cell (B,2) → (B,C,gh,gw) in the units of [0, 1]."""
        image = (2 * lr - 1).contiguous(memory_format=torch.channels_last)
        answers = self.conditioner(self.encoder(image), coord, cell).view(-1, *coord.shape[:-1])
        return answers.transpose(0, 1) / 2 + (bilinear_patches(lr, coord, cell, 1) if self.residual else 0.5)

    def regions(self, lr: Tensor, size: tuple[int, int], request: Request) -> Iterator[Region]:
        """Decode rectangle by rectangle; there is nothing random."""
        base = BilinearBase(lr, size, request.peak, self.image_channels) if self.residual else None

        def decode(block: Block) -> Region:
            rows, cols = block.pixels
            colours = block.fold(block.answers) / 2
            return Region(block.image, rows, cols, colours + (base(block.image, rows, cols) if base else 0.5))

        yield from stream(self.encoder, self.conditioner, lr, size, 1, decode, request)


class LIIF(Regression):
    """Local implicit image function (arXiv 2012.09161): the colour itself, with a `LIIFConditioner`."""

    residual = False


class LTE(Regression):
    """Local texture estimator (Lee and Jin, CVPR 2022, arXiv 2111.08918): the bilinear image's residual.

    Its conditioner is a `FourierConditioner` with the local ensemble.
    """

    residual = True
