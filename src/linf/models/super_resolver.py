"""What every model keeps that can be evaluated: decoded regions, and whole images made of them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from linf.coordinates import patch_grid
from linf.images.reduction import Reduction
from linf.models import DEFAULT_TEMPERATURE
from linf.models.arguments import check_channels, check_distribution, check_images, check_size, check_z
from linf.models.bilinear import image_residual
from linf.models.conditioner import Conditioner
from linf.models.consistency import Projection
from linf.models.consistent_regions import consistent
from linf.models.correlation import LatentChoice, LatentCorrelation, chosen_correlation, latent_fields
from linf.models.decoding import Latents, Region, Request
from linf.models.distribution import Distribution
from linf.models.encoders.encoder import Encoder
from linf.models.noise import LatentField, sample_seeds
from linf.models.prior import UNet
from linf.models.tails import Tails
from linf.models.temperature import Temperature, each_temperature
from linf.models.tiling import Tile, checked_features, encode


class SuperResolver(nn.Module, ABC):
    """An arbitrary-scale super-resolution model.

    Attributes:
        patch_size: P, the side of the patches that the model predicts.
        image_channels: C, the number of channels of the images; 0 for a model that takes any number.
        dim: D = C·P², the size of the latent of a patch; 0 for a model whose output is not random.
        config: what is needed to build the model again, except its weights: plain numbers and names.
        encoder: maps an LR image to features; None for a model without them, which has no ``conditioner`` either.
        prior: predicts latents from the LR image; None for a model without a learned prior.
        correlation: of the latents of neighbouring patches; None until it is estimated.
        tails: tails of a patch's latents, by scale; empty until they are estimated.
        value_range: the values of black and white in the files of the training, if these were given; else None.
        name: what the model is called in tables.
    """

    patch_size: int = 1
    image_channels: int = 3
    dim: int = 0
    config: dict[str, Any]
    encoder: Encoder | None
    conditioner: Conditioner | None
    prior: UNet | None
    correlation: LatentCorrelation | None

    def __init__(self) -> None:
        super().__init__()
        self.encoder = self.conditioner = self.prior = self.correlation = None
        self.name = type(self).__name__
        self.tails: dict[float, Tails] = {}
        self.value_range: tuple[float, float] | None = None

    def output_channels(self, lr: Tensor) -> int:
        """The number of channels of the output for LR images; a model for RGB also takes grey ones.

        Raises:
            ValueError: the model is for images of another number of channels.
        """
        check_channels(lr.shape[1], self.image_channels)
        return self.image_channels or lr.shape[1]

    @abstractmethod
    def regions(self, lr: Tensor, size: tuple[int, int], request: Request) -> Iterator[Region]:
        """Decode rectangle by rectangle, without gradient and in bounded memory.

        Args:
            lr: (B,C,h,w), or (B,1,h,w) for grey, from 0 to ``request.peak``; floats or whole numbers.
            size: (H, W) of the output.
            request: what is wanted beside the mean; a model whose output is not random ignores it.
        """

    def set_prior(self, prior: UNet | None) -> None:
        """Give the model a prior, or take it away; raise ValueError if its latents are not those of the prior."""
        if prior is not None:
            raise ValueError(f"{type(self).__name__} takes no prior: it has no latents")

    def encode(self, lr: Tensor, *, tile: int | None = None) -> list[Tile]:
        """Compute the features of LR images (B,C,h,w) in [0, 1] once, for several calls; none without an encoder."""
        check_images(lr)
        self.output_channels(lr)
        return [] if self.encoder is None else list(encode(self.encoder, lr, tile=tile))

    def sample_latents(self, size: tuple[int, int], seed: int, *, batch: int = 1) -> Tensor:
        """Standard Gaussian latents for every patch, (B,gh,gw,D): those of `sample` with this seed."""
        rows, cols = patch_grid(size, self.patch_size)
        field = LatentField(seed, cols, self.dim)
        return torch.stack([field[i, slice(0, rows), slice(0, cols)] for i in range(batch)])

    @torch.no_grad()
    def sample(
        self,
        lr: Tensor,
        size: tuple[int, int],
        *,
        temperature: Temperature = DEFAULT_TEMPERATURE,
        seed: int | None = None,
        z: Tensor | None = None,
        latents: LatentChoice = "independent",
        tile: int | None = None,
        chunk: int | None = None,
        features: Sequence[Tile] | None = None,
        consistency: int = 0,
        reduction: Reduction = Reduction(),
        advance: Callable[[int], object] = lambda pixels: None,
    ) -> Tensor:
        """Super-resolve images: draw a sample at each temperature.

        Several temperatures share encoding, condition and latent. All have the same image if the output is not random.

        Args:
            lr: (B,C,h,w) in [0, 1].
            size: (H, W) of the output.
            temperature: τ ≥ 0: a number, a sequence, or a map (H, W) with one for each pixel; 0 gives the mean. A patch
                that would explode at the highest τ is shown at its mean, and a warning counts such patches.
            seed: seed of the latents; image b of the batch has ``seed + b``. It gives the same image on every device.
                By default it is drawn from torch's global generator.
            z: (B,gh,gw,D) latents at τ = 1 instead of a seed, on the patch grid: gh = ceil(H/P), gw = ceil(W/P).
            latents: whether those of neighbouring patches are ``independent`` or ``correlated``; the distribution of
                each single patch is the same.
            tile: side in LR pixels of the tiles that are encoded at once; by default chosen automatically.
            chunk: number of queries that are decoded at once; by default chosen automatically.
            features: of ``lr``, from `encode`; by default they are computed here.
            consistency: rounds of the projection onto images whose LR is ``lr``, see `linf.models.consistency`; 3 are
                enough, and 0 turns it off.
            reduction: how that LR is made from an image; by default by MATLAB's bicubic.
            advance: is called with the number of output pixels made since the last call.

        Returns:
            (B,C,H,W), not clamped to [0, 1]; a sequence of T temperatures gives (T,B,C,H,W).

        Raises:
            ValueError: an argument is not as described, or correlated latents are unknown to the model.
        """
        check_images(lr)
        taus = each_temperature(temperature, size)
        channels = self.output_channels(lr)
        size = check_size(size, 4 * channels * (len(lr) * len(taus) + 2 * bool(consistency)), lr.device)
        highest = max(float(torch.as_tensor(t).max()) for t in taus)
        correlation = chosen_correlation(self.correlation, latents) if self.dim else None
        fields = list[Latents]()
        if highest > 0 and self.dim and z is not None:
            fields = [check_z(z, (len(lr), *patch_grid(size, self.patch_size), self.dim), size)]
        elif highest > 0 and self.dim:
            fields = self._latents(lr, size, 1, seed, correlation)
        out = lr.new_empty(len(taus), len(lr), channels, *size)
        request = Request(fields, highest, tile=tile, chunk=chunk, features=checked_features(features, lr))
        regions = self.regions(lr, size, request)
        if consistency:
            # Mixed before it is projected: two consistent images that are mixed by a map are not consistent.
            regions = (region.at(taus[0]) if len(taus) == 1 else region for region in regions)
            projection = Projection((lr.shape[-2], lr.shape[-1]), size, consistency, reduction)
            regions = consistent(regions, lr, projection)
        for region in regions:
            for tau, image in zip(taus, out[:, region.image, :, region.rows, region.cols], strict=True):
                image.copy_(region.at(tau).mean)
            advance(region.mean.shape[-2] * region.mean.shape[-1])
        return out[0] if isinstance(temperature, Tensor) or np.ndim(temperature) == 0 else out

    @torch.no_grad()
    def distribution(
        self,
        lr: Tensor,
        size: tuple[int, int],
        *,
        samples: int = 1,
        seed: int | None = None,
        latents: LatentChoice = "independent",
        highest: float = 1.0,
        mix: Tensor | None = None,
        hr: Tensor | None = None,
        features: Sequence[Tile] | None = None,
        advance: Callable[[int], object] = lambda pixels: None,
    ) -> Distribution | None:
        """Compute the distribution of super-resolved images once, for any number of temperatures.

        Args:
            lr, size, seed, latents, features, advance: see `sample`.
            samples: S, the number of samples. The first is that of `sample` with the same seed; for a single image, the
                next is that of ``seed + 1``.
            highest: the highest temperature for which `Distribution.at` will be called, see `Request`.
            mix: (M,C) mixtures of channels whose deviation is wanted, as ``torch.eye(3)``; costs D more decodes.
            hr: (B,C,H,W) HR images whose latents and log-density are wanted.

        Returns:
            The distribution, or None for a model whose output is not random.

        Raises:
            ValueError: an argument is not as described, or correlated latents are unknown to the model.
        """
        check_images(lr, size, hr)
        if not self.dim:
            return None
        mixtures = 0 if mix is None else len(mix)
        # The samples at a temperature, which are asked for next, are as large as their noise.
        channels = max(self.output_channels(each) for each in (lr, hr) if each is not None)
        check_distribution(samples, highest, mix, channels)
        need = 4 * (channels * (1 + 2 * samples) + mixtures) + 12 * channels * (hr is not None)
        size = check_size(size, len(lr) * need, lr.device)
        mean = lr.new_empty(len(lr), channels, *size)
        noise = lr.new_empty(samples, *mean.shape)
        deviation = lr.new_empty(len(lr), mixtures, *size) if mixtures else None
        patches = patch_grid(size, self.patch_size)
        z = lr.new_empty(len(lr), 0 if hr is None else self.dim, *patches)
        log_prob = lr.new_empty(len(lr), *patches)
        residual = None if hr is None else image_residual(*(i.expand(-1, channels, -1, -1) for i in (lr, hr)))
        drawn = self._latents(lr, size, samples, seed, chosen_correlation(self.correlation, latents))
        request = Request(drawn, highest, mix, residual, features=checked_features(features, lr))
        for region in self.regions(lr, size, request):
            place = (region.image, slice(None), region.rows, region.cols)
            mean[place] = region.mean
            for whole, part in zip(noise, region.noise, strict=True):
                whole[place] = part
            if deviation is not None and region.deviation is not None:
                deviation[place] = region.deviation
            if region.latents is not None and region.log_prob is not None:
                z[region.image, :, *region.patches] = region.latents
                log_prob[region.image, *region.patches] = region.log_prob
            advance(region.mean.shape[-2] * region.mean.shape[-1])
        if hr is None:
            return Distribution(mean, noise, deviation)
        whole_patches = (..., slice(size[0] // self.patch_size), slice(size[1] // self.patch_size))
        return Distribution(mean, noise, deviation, z[whole_patches], log_prob[whole_patches])

    def sample_prior(
        self, lr: Tensor, size: tuple[int, int], *, features: Sequence[Tile] | None = None
    ) -> Tensor:
        """Super-resolve images with the latents that the prior predicts. Nothing is random here; see `sample`.

        Raises:
            ValueError: the model has no prior.
        """
        raise ValueError(f"{type(self).__name__} has no prior: train one with task=prior, or sample without")

    def _latents(
        self, lr: Tensor, size: tuple[int, int], samples: int, seed: int | None, of: LatentCorrelation | None
    ) -> list[Latents]:
        seeds = sample_seeds(seed, samples, len(lr))
        return latent_fields(seeds, lr, size, self.dim, self.patch_size, correlation=of)
