"""The whole figure: LINF = encoder + conditioner + flow. The residual is taken and restored here only."""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from linf.errors import UsageError
from linf.models import decoding as inference
from linf.models.conditioner import FourierConditioner
from linf.models.flow import ConditionalFlow
from linf.models.prior import UNet, grid_patches, lr_residual

log = logging.getLogger(__name__)

WILD = 20.0
"""Ten times what a residual in [-1, 1] units can be: beyond it the inverse has exploded (METHOD §4)."""


def check_temperatures(temperature: float | Sequence[float]) -> list[float]:
    """One temperature or several as a list.

    Raises:
        UsageError: one of them is negative or not finite, or there is none.
    """
    taus = list(temperature) if isinstance(temperature, Sequence | np.ndarray) else [temperature]
    if not taus or not all(isinstance(t, int | float) and math.isfinite(t) and t >= 0 for t in taus):
        raise UsageError(f"temperature {temperature} is not a finite number from 0 up; 0 to 1 is usual")
    return taus


def _map(temperature: Tensor, size: Sequence[int]) -> list[Tensor]:
    """A map of temperatures as a list of one (1,H,W)."""
    if temperature.shape != torch.Size(size) or not bool(
        (temperature >= 0).logical_and(temperature < math.inf).all()
    ):
        raise UsageError(
            f"a map of temperatures has shape {tuple(temperature.shape)} and values from {float(temperature.min()):g} "
            f"to {float(temperature.max()):g}; output {size[0]}×{size[1]} wants its shape, and finite values from 0 up"
        )
    return [temperature[None]]


def bilinear_patches(lr: Tensor, coord: Tensor, cell: Tensor, patch_size: int) -> Tensor:
    """Patches of the bilinear image: (B,3,h,w), centres (B,gh,gw,2), cells (B,2) → (B,3P²,gh,gw), channel-major."""
    step = torch.arange(patch_size, device=coord.device, dtype=coord.dtype) - patch_size // 2
    offset = torch.cartesian_prod(step, step) if patch_size > 1 else coord.new_zeros(1, 2)
    pixel = coord.flatten(1, 2)[:, None] + offset[:, None] * cell[:, None, None]  # (B, P², gh·gw, 2)
    bilinear = F.grid_sample(lr, pixel.flip(-1), mode="bilinear", padding_mode="border", align_corners=False)
    return bilinear.reshape(len(lr), -1, *coord.shape[1:3])


class LINF(nn.Module):
    """Local implicit normalizing flow (Yao et al., CVPR 2023, arXiv 2303.05156).

    Args:
        encoder: (B,3,h,w) in [-1,1] → (B,C,h,w), with `out_channels`, `receptive_field` and `config`.
        conditioner: called with in_channels and out_channels, gives the conditioner.
        flow: the conditional flow; its patch size is the model's.
        prior: predicts latents, of the same patch size; or None.
    """

    prior: UNet | None

    def __init__(
        self,
        encoder: nn.Module,
        conditioner: Callable[..., FourierConditioner],
        flow: ConditionalFlow,
        prior: UNet | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.conditioner = conditioner(in_channels=encoder.out_channels, out_channels=flow.condition_dim)
        self.flow = flow
        self.set_prior(prior)

    def set_prior(self, prior: UNet | None) -> None:
        """Give the model a prior, or take its away.

        Raises:
            UsageError: it is for another patch size.
        """
        if prior is not None and prior.patch_size != self.patch_size:
            raise UsageError(
                f"the prior is for patches of {prior.patch_size}, the flow for patches of {self.patch_size}: "
                "give a prior of the flow's patch size"
            )
        self.prior = prior

    @property
    def patch_size(self) -> int:
        """P."""
        return self.flow.patch_size

    @property
    def config(self) -> dict[str, Any]:
        """What builds this model again, but for its weights: plain numbers and names."""
        parts = {"encoder": self.encoder, "conditioner": self.conditioner, "flow": self.flow}
        if self.prior is not None:
            parts["prior"] = self.prior
        return {name: {"name": type(part).__name__, **part.config} for name, part in parts.items()}  # type: ignore[dict-item]

    def residual(self, lr: Tensor, hr: Tensor, coord: Tensor, cell: Tensor) -> Tensor:
        """What the flow models: HR patches less the bilinear image there, in [-1, 1] units.

        Args:
            lr: (B,3,h,w) in [0, 1].
            hr: (B,D,gh,gw) HR patches in [0, 1].
            coord: (B,gh,gw,2) patch centres.
            cell: (B,2).

        Returns:
            (B,D,gh,gw).
        """
        return 2 * (hr - bilinear_patches(lr, coord, cell, self.patch_size))

    def restore(self, lr: Tensor, residual: Tensor, coord: Tensor, cell: Tensor) -> Tensor:
        """The inverse of `residual`: (B,D,gh,gw) residuals → (B,D,gh,gw) patches in the units of [0, 1]."""
        return bilinear_patches(lr, coord, cell, self.patch_size) + residual / 2

    def condition(self, lr: Tensor, coord: Tensor, cell: Tensor) -> Tensor:
        """The flow's condition at each query: lr in [0, 1] → (K·2·D, B·gh·gw)."""
        image = (2 * lr - 1).contiguous(memory_format=torch.channels_last)
        return self.conditioner(self.encoder(image), coord, cell)

    def log_prob(self, lr: Tensor, residual: Tensor, coord: Tensor, cell: Tensor) -> Tensor:
        """Exact log-density of residual patches.

        Args:
            lr: (B,3,h,w) in [0, 1].
            residual: (B,D,gh,gw) in [-1, 1] units, as `residual` gives them.
            coord: (B,gh,gw,2) patch centres, (y, x) in [-1, 1].
            cell: (B,2) size of one HR pixel, (2/H, 2/W).

        Returns:
            (B,gh,gw), nats per patch.
        """
        log_prob = self.flow.log_prob(residual.transpose(0, 1).flatten(1), self.condition(lr, coord, cell))
        return log_prob.view(coord.shape[:-1])

    def initialise(self, batches: Iterable[Any]) -> None:
        """Start from the data, once: whitening of the batches' residuals, conditions near zero (METHOD §4).

        A flow that is already initialised, trained or loaded, is left as it is.

        Args:
            batches: of lr, hr, coord, cell.
        """
        if self.flow.initialised:
            return
        columns = [self.residual(*batch).transpose(0, 1).flatten(1) for batch in batches]
        self.flow.whiten(torch.cat(columns, dim=1))
        self.conditioner.zero_init()

    @torch.no_grad()
    def sample(
        self,
        lr: Tensor,
        size: tuple[int, int],
        *,
        temperature: float | Sequence[float] | Tensor = 0.0,
        z: Tensor | None = None,
        generator: torch.Generator | None = None,
        prior: bool = False,
        tile: int = inference.TILE,
        chunk: int | None = None,
        encoded: Sequence[inference.Encoded] | None = None,
    ) -> Tensor:
        """Super-resolve.

        Since the residual is ``m + τ A z``, several temperatures share one encoding, one condition and one latent.

        Args:
            lr: (B,3,h,w) in [0, 1].
            size: (H, W) of the output.
            temperature: τ ≥ 0, one, a sequence, or a map (H, W) of one for each pixel; 0 is the mean. A patch that
                would lie beyond ±`WILD` at the highest is shown at its mean, with a warning that counts them.
            z: (B,gh,gw,D) latents on the patch grid, gh = ceil(H/P), gw = ceil(W/P), used as they are: a single
                temperature is then taken as already applied, a sequence multiplies them.
            generator: where the latents come from, if not given.
            prior: take the latents that the model's prior predicts: one image, with nothing random in it.
            tile: LR pixels a side that are encoded at once.
            chunk: queries decoded at once.
            encoded: the features of ``lr``, from `encode`; by default they are made here.

        Returns:
            (B,3,H,W), not clamped to [0, 1]; a sequence of T temperatures gives (T,B,3,H,W).

        Raises:
            UsageError: a temperature, the size or the latents' shape is not what is said above; a prior is asked for
                and there is none, or together with a temperature or latents.
        """
        single = isinstance(temperature, Tensor) or np.ndim(temperature) == 0
        taus = _map(temperature, size) if isinstance(temperature, Tensor) else check_temperatures(temperature)
        highest = max(float(torch.as_tensor(t).max()) for t in taus)
        images, latents = len(taus), prior or z is not None or highest > 0
        need = 12 * (images + 2 * latents)
        if prior:
            if not single or highest > 0 or z is not None:
                raise UsageError("the prior gives the one latent: prior=True takes no temperature and no z")
            need += self._prior_bytes_per_pixel()
        size = inference.check_size(size, lr.shape[0] * need, lr.device)
        grid = [-(-n // self.patch_size) for n in size]
        if z is not None and z.shape != (lr.shape[0], *grid, self.flow.dim):
            wanted = (lr.shape[0], *grid, self.flow.dim)
            raise UsageError(f"z has shape {tuple(z.shape)}; output {size[0]}×{size[1]} wants {wanted}")
        if z is not None and single and not isinstance(temperature, Tensor):
            taus, highest = [1.0], 1.0
        if self.prior is not None and prior:
            encoded = self.encode(lr, tile=tile) if encoded is None else encoded
            z_lr = self.lr_latent(lr, size, chunk=chunk, encoded=encoded)
            z, taus, highest = self.prior(z_lr, 2 * lr - 1).movedim(1, -1), [1.0], 1.0
        elif z is None and latents:
            z = self.draw(lr, size, generator)
        base = F.interpolate(lr, size, mode="bilinear", align_corners=False)
        out = base[None] if single else base.repeat(len(taus), 1, 1, 1, 1)
        blocks = self.blocks(lr, size, tile=tile, chunk=chunk, encoded=encoded)
        for block, mean, textures in self.decoded(blocks, () if z is None else (z,), highest):
            region = block.of(out)
            mean, *textures = (block.fold(part, region) / 2 for part in (mean, *textures))
            for tau, image in zip(taus, region, strict=True):
                image.add_(mean)
                for texture in textures:
                    if isinstance(tau, Tensor):
                        image.addcmul_(texture, block.of(tau.expand(len(lr), 3, *size)))
                    else:
                        image.add_(texture, alpha=tau)
        return out[0] if single else out

    def draw(self, lr: Tensor, size: tuple[int, int], generator: torch.Generator | None = None) -> Tensor:
        """Latents for every patch of an image of this size: (B,gh,gw,D), standard Gaussian."""
        grid = [-(-n // self.patch_size) for n in size]
        return torch.randn(
            len(lr), *grid, self.flow.dim, generator=generator, device=lr.device, dtype=lr.dtype
        )

    def decoded(
        self, blocks: Iterable[inference.Block], latents: Sequence[Tensor], highest: float
    ) -> Iterator[tuple[inference.Block, Tensor, list[Tensor]]]:
        """Mean and textures (D, n) of each block of patches, tamed where the flow's inverse explodes (METHOD §4).

        A texture that would lie beyond ±`WILD` at the ``highest`` temperature is left out, and a mean beyond it too;
        a warning counts them at the end.

        Args:
            blocks: from `blocks`.
            latents: (B,gh,gw,D) each.
            highest: temperature.
        """
        inverses, lost, seen = self.flow.inverses(), 0, 0
        for block in blocks:
            columns = [z[block.image, block.rows, block.cols].flatten(0, 1).T for z in latents]
            mean, textures = self.flow.mean_and_textures(columns, block.condition, inverses)
            for texture in textures or [torch.zeros_like(mean)]:
                wild = ~(mean.abs() + highest * texture.abs() <= WILD).all(0)
                seen += len(wild)
                if wild.any():
                    lost += int(wild.sum())
                    texture[:, wild] = 0
            mean[:, ~(mean.abs() <= WILD).all(0)] = 0
            yield block, mean, textures
        if lost:
            log.warning(
                "%d of %d patches would lie beyond ±%g and are shown at their mean: the flow's inverse explodes there",
                lost,
                seen,
                WILD,
            )

    def blocks(
        self,
        lr: Tensor,
        size: tuple[int, int],
        *,
        tile: int = inference.TILE,
        chunk: int | None = None,
        encoded: Sequence[inference.Encoded] | None = None,
    ) -> Iterator[inference.Block]:
        """The conditions of an image's patches, block by block; see `linf.models.decoding.conditions`."""
        return inference.conditions(
            self.encoder,
            self.conditioner,
            2 * lr - 1,
            size,
            self.patch_size,
            tile=tile,
            chunk=chunk,
            encoded=encoded,
        )

    def _prior_bytes_per_pixel(self) -> int:
        if self.prior is None:
            raise UsageError("the model has no prior: train one with task=prior, or sample without")
        return -(-self.prior.bytes_per_patch // self.patch_size**2)

    def encode(self, lr: Tensor, *, tile: int = inference.TILE) -> list[inference.Encoded]:
        """The features of LR images (B,3,h,w) in [0, 1], for several calls of `sample`."""
        return list(inference.encode(self.encoder, 2 * lr - 1, tile=tile))

    @torch.no_grad()
    def lr_latent(
        self,
        lr: Tensor,
        size: tuple[int, int],
        *,
        tile: int = inference.TILE,
        chunk: int | None = None,
        encoded: Sequence[inference.Encoded] | None = None,
    ) -> Tensor:
        """``z_lr``: the latents of what the enlarged LR image itself lacks (METHOD §9).

        Args:
            lr: (B,3,h,w) in [0, 1].
            size: (H, W).
            tile: see `sample`, as for chunk and encoded.
            chunk: queries decoded at once.
            encoded: the features of ``lr``.

        Returns:
            (B,D,gh,gw) on the patch grid; beyond the edge the residual is taken as 0.
        """
        size = inference.check_size(size, 36 * lr.shape[0], lr.device)
        patches = grid_patches(lr_residual(lr, size), self.patch_size)
        for block in self.blocks(lr, size, tile=tile, chunk=chunk, encoded=encoded):
            region = patches[block.image, :, block.rows, block.cols]
            region.copy_(self.flow(region.flatten(1), block.condition)[0].view_as(region))
        return patches

    @torch.no_grad()
    def moments(self, lr: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The exact mean and standard deviation of every output value at τ = 1, without sampling.

        Args:
            lr: (B,3,h,w) in [0, 1].
            size: (H, W).

        Returns:
            mean and standard deviation, (B,3,H,W) each, in the units of [0, 1] images; at τ the deviation is
            τ times this one.
        """
        size = inference.check_size(size, 24 * lr.shape[0], lr.device)
        mean = F.interpolate(lr, size, mode="bilinear", align_corners=False)
        deviation = torch.zeros_like(mean)
        inverses = self.flow.inverses()
        for block in self.blocks(lr, size):
            m, variance = self.flow.moments(block.condition, inverses)
            region = block.of(mean)
            region += block.fold(m, region) / 2
            block.of(deviation).copy_(block.fold(variance.sqrt(), region) / 2)
        return mean, deviation
