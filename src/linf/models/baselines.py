"""What LINF is held against, behind its interface: bicubic, and regression by LIIF and LTE (METHOD §8)."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from linf.coordinates import Neighbourhood
from linf.errors import UsageError
from linf.images.resize import bicubic
from linf.models import decoding as inference
from linf.models.conditioner import Decode, FourierConditioner, batch_neighbourhood
from linf.models.distribution import Law, law
from linf.models.linf import LINF, bilinear_patches, check_temperatures


class Bicubic(nn.Module):
    """Bicubic enlargement, a model without parameters."""

    patch_size = 1

    def sample(
        self, lr: Tensor, size: tuple[int, int], *, temperature: float | Sequence[float] = 0.0, **_: object
    ) -> Tensor:
        """(B,3,h,w) in [0, 1] → (B,3,H,W), not clamped; once for each temperature of a sequence, all the same."""
        check_temperatures(temperature)
        size = inference.check_size(size, 24 * lr.shape[0], lr.device)
        return _for_each(temperature, bicubic(lr, size))


class LIIFConditioner(nn.Module):
    """LIIF's decoder: each neighbour's 3×3 features, way and cell through one MLP, averaged by area.

    Chen et al., *Learning Continuous Image Representation with Local Implicit Image Function*, CVPR 2021,
    arXiv 2012.09161, with feature unfolding, local ensemble and cell decoding.

    Args:
        in_channels: C, the encoder's `out_channels`.
        out_channels: numbers per query.
        width: of the MLP's hidden layers.
        depth: how many of them.
    """

    def __init__(self, in_channels: int, out_channels: int, *, width: int = 256, depth: int = 4) -> None:
        super().__init__()
        if width < 1 or depth < 1:
            raise UsageError(f"LIIF width {width} and depth {depth} must be 1 or more")
        self.config = {"width": width, "depth": depth}
        self.mlp = nn.Sequential()
        for fan_in, fan_out in pairwise([9 * in_channels + 4] + [width] * depth):
            self.mlp.extend([nn.Linear(fan_in, fan_out), nn.ReLU(inplace=True)])
        self.mlp.append(nn.Linear(width, out_channels))

    def maps(self, features: Tensor) -> Tensor:
        """(B,C,h,w) → (B·h·w, 9C): the 3×3 neighbourhood of each LR pixel."""
        return F.unfold(features.contiguous(), 3, padding=1).transpose(1, 2).flatten(0, 1)

    def of_cell(self, cell: Tensor, size: tuple[int, int]) -> Tensor:
        """(B,2) cells, LR size (h, w) → relative cells (B,2)."""
        return cell * cell.new_tensor(size)

    def answers(self, maps: Tensor, of_cell: Tensor, near: Neighbourhood) -> Tensor:
        """Maps (M,9C), relative cells (N,2), N neighbourhoods → (out_channels, N)."""
        total = 0
        for pixel, rel_y, rel_x, weight in zip(*near, strict=True):
            given = torch.cat((maps[pixel], rel_y[:, None], rel_x[:, None], of_cell), dim=1)
            total = total + weight[:, None] * self.mlp(given)
        assert isinstance(total, Tensor)
        return total.T

    def forward(self, features: Tensor, coord: Tensor, cell: Tensor) -> Tensor:
        """(B,C,h,w), (B,...,2), (B,2) → (out_channels, N), as `FourierConditioner` gives them."""
        size = (features.shape[-2], features.shape[-1])
        near = batch_neighbourhood(coord, size)
        of_cell = self.of_cell(cell, size).repeat_interleave(near.pixel.shape[1] // len(features), dim=0)
        return self.answers(self.maps(features), of_cell, near)

    def decoder(self, maps: Tensor, chunk: int) -> Decode:
        """`answers` for up to ``chunk`` queries at a time."""
        return lambda maps, of_cell, near: self.answers(maps, of_cell.expand(near.pixel.shape[1], -1), near)


class Regression(nn.Module):
    """An encoder and a conditioner that answers with the colour itself.

    Args:
        encoder: (B,3,h,w) in [-1,1] → (B,C,h,w), with `out_channels`, `receptive_field` and `config`.
        conditioner: called with in_channels and out_channels = 3, gives the conditioner.
    """

    patch_size = 1
    residual: bool
    """Whether answers are added to the bilinear image."""

    def __init__(
        self, encoder: nn.Module, conditioner: Callable[..., FourierConditioner | LIIFConditioner]
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.conditioner = conditioner(in_channels=encoder.out_channels, out_channels=3)

    @property
    def config(self) -> dict[str, Any]:
        """What builds this model again, but for its weights: plain numbers and names."""
        parts = {"encoder": self.encoder, "conditioner": self.conditioner}
        named = {name: {"name": type(part).__name__, **part.config} for name, part in parts.items()}  # type: ignore[dict-item]
        return {"model": {"name": type(self).__name__}, **named}

    def predict(self, lr: Tensor, coord: Tensor, cell: Tensor) -> Tensor:
        """Colours: lr (B,3,h,w) in [0, 1], coord (B,gh,gw,2), cell (B,2) → (B,3,gh,gw) in the units of [0, 1]."""
        image = (2 * lr - 1).contiguous(memory_format=torch.channels_last)
        answers = (
            self.conditioner(self.encoder(image), coord, cell).view(3, *coord.shape[:-1]).transpose(0, 1)
        )
        return answers / 2 + (bilinear_patches(lr, coord, cell, 1) if self.residual else 0.5)

    @torch.no_grad()
    def sample(
        self,
        lr: Tensor,
        size: tuple[int, int],
        *,
        temperature: float | Sequence[float] = 0.0,
        tile: int = inference.TILE,
        chunk: int | None = None,
        **_: object,
    ) -> Tensor:
        """Super-resolve; there is nothing to sample, so every temperature gives the same.

        Args:
            lr: (B,3,h,w) in [0, 1].
            size: (H, W) of the output.
            temperature: a sequence of T repeats the image T times.
            tile: LR pixels a side that are encoded at once.
            chunk: queries decoded at once.

        Returns:
            (B,3,H,W), not clamped to [0, 1]; a sequence of T temperatures gives (T,B,3,H,W).
        """
        check_temperatures(temperature)
        size = inference.check_size(size, 24 * lr.shape[0], lr.device)
        out = lr.new_full((len(lr), 3, *size), 0.5)
        if self.residual:
            out = F.interpolate(lr, size, mode="bilinear", align_corners=False)
        for block in inference.conditions(
            self.encoder, self.conditioner, 2 * lr - 1, size, 1, tile=tile, chunk=chunk
        ):
            region = block.of(out)
            region += block.fold(block.condition, region) / 2
        return _for_each(temperature, out)


class LIIF(Regression):
    """Local implicit image function (arXiv 2012.09161): the colour itself, with a `LIIFConditioner`."""

    residual = False


class LTE(Regression):
    """Local texture estimator (Lee and Jin, CVPR 2022, arXiv 2111.08918): the bilinear image's residual.

    Its conditioner is a `FourierConditioner` with the local ensemble.
    """

    residual = True


def _for_each(temperature: float | Sequence[float], image: Tensor) -> Tensor:
    return image if np.ndim(temperature) == 0 else image.expand(len(np.atleast_1d(temperature)), *image.shape)


class System(NamedTuple):
    """What a table shows of an image in one line."""

    name: str
    temperature: float | None
    """Of LINF's samples."""
    images: Tensor
    """(S,B,3,H,W), not clamped; S is 1 where nothing is random."""


def systems(
    model: LINF | Regression | Bicubic,
    lr: Tensor,
    size: tuple[int, int],
    temperatures: Sequence[float],
    generator: torch.Generator | None = None,
    known: Law | None = None,
    encoded: Sequence[inference.Encoded] | None = None,
) -> Iterator[System]:
    """Bicubic, then the model, for LINF at each temperature and by its prior; made one by one, as they are asked for.

    Args:
        model: any.
        lr: (B,3,h,w) in [0, 1].
        size: (H, W).
        temperatures: of LINF's samples, which share their latents.
        generator: of those latents.
        known: LINF's law of these images, where it has been worked out already.
        encoded: their features, from `LINF.encode`, likewise.
    """
    yield System("bicubic", None, bicubic(lr, size)[None])
    if isinstance(model, LINF):
        if encoded is None and model.prior is not None:
            encoded = model.encode(lr)
        if known is None:
            known = law(model, lr, size, highest=max(temperatures), generator=generator, encoded=encoded)
        for tau in temperatures:
            yield System(f"τ={tau:g}", tau, known.at(tau))
        if model.prior is not None:
            yield System("prior", None, model.sample(lr, size, prior=True, encoded=encoded)[None])
    elif isinstance(model, Regression):
        yield System(type(model).__name__, None, model.sample(lr, size)[None])
