"""The whole figure: LINF = encoder + conditioner + flow (+ prior). The residual is taken and restored here only."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from linf.coordinates import patch_grid
from linf.models.arguments import check_images, check_size
from linf.models.bilinear import BilinearBase, bilinear_patches
from linf.models.conditioner import FourierConditioner
from linf.models.decoding import Block, Region, Request, stream
from linf.models.encoders.encoder import Encoder
from linf.models.explosion import tame
from linf.models.flow import ConditionalFlow, to_columns
from linf.models.prior import UNet, lr_residual
from linf.models.super_resolver import SuperResolver
from linf.models.tiling import Tile, checked_features

log = logging.getLogger(__name__)


class LINF(SuperResolver):
    """Local implicit normalizing flow (Yao et al., CVPR 2023, arXiv 2303.05156).

    Args:
        encoder: maps an LR image to features.
        conditioner: returns the conditioner when it is called with in_channels and out_channels.
        flow: the conditional flow; its patch size is that of the model.
        prior: predicts latents for the same patch size; None for a model without a learned prior.

    Attributes:
        usual_deviation: by scale, what `linf.models.deviation` measures on the images of the training; empty if
            unknown.
    """

    encoder: Encoder
    conditioner: FourierConditioner

    def __init__(
        self,
        encoder: Encoder,
        conditioner: Callable[..., FourierConditioner],
        flow: ConditionalFlow,
        prior: UNet | None = None,
    ) -> None:
        super().__init__()
        if encoder.image_channels != flow.image_channels:
            raise ValueError(
                f"the encoder is for images of {encoder.image_channels} channels, the flow for {flow.image_channels}: "
                "give both the same image_channels"
            )
        self.encoder = encoder
        self.conditioner = conditioner(in_channels=encoder.out_channels, out_channels=flow.condition_dim)
        self.flow = flow
        self.patch_size, self.image_channels, self.dim = flow.patch_size, flow.image_channels, flow.dim
        self.usual_deviation: dict[float, float] = {}
        self.set_prior(prior)

    def set_prior(self, prior: UNet | None) -> None:
        """Give the model a prior, or take it away; raise ValueError if it is for other patches or images."""
        if prior is not None and prior.patch_size != self.patch_size:
            raise ValueError(
                f"the prior is for patches of {prior.patch_size}, the flow for patches of {self.patch_size}: "
                "give a prior of the flow's patch size"
            )
        if prior is not None and prior.image_channels != self.image_channels:
            raise ValueError(
                f"the prior is for images of {prior.image_channels} channels, the flow for {self.image_channels}: "
                "give a prior of the flow's image_channels"
            )
        self.prior = prior

    @property
    def config(self) -> dict[str, Any]:  # type: ignore[override]
        """What is needed to build this model again, except the weights: plain numbers and names."""
        parts: dict[str, Any] = {
            "encoder": self.encoder,
            "conditioner": self.conditioner,
            "flow": self.flow,
            "prior": self.prior,
            "correlation": self.correlation,
        }
        config = {
            name: {"name": type(part).__name__, **part.config}
            for name, part in parts.items()
            if part is not None
        }
        usual = {f"{scale:g}": limit for scale, limit in self.usual_deviation.items()}
        tails = {f"{scale:g}": list(each) for scale, each in self.tails.items()}
        known = {"usual_deviation": usual, "tails": tails, "value_range": self.value_range}
        return config | {name: value for name, value in known.items() if value}

    # Training

    def residual(self, lr: Tensor, hr: Tensor, coord: Tensor, cell: Tensor) -> Tensor:
        """What the flow models: lr (B,C,h,w) and HR patches (B,D,gh,gw) in [0, 1] → (B,D,gh,gw) in [-1, 1] units."""
        return 2 * (hr - bilinear_patches(lr, coord, cell, self.patch_size))

    def restore(self, lr: Tensor, residual: Tensor, coord: Tensor, cell: Tensor) -> Tensor:
        """The inverse of `residual`: (B,D,gh,gw) residuals → (B,D,gh,gw) patches in the units of [0, 1]."""
        return bilinear_patches(lr, coord, cell, self.patch_size) + residual / 2

    def condition(self, lr: Tensor, coord: Tensor, cell: Tensor) -> Tensor:
        """The flow's condition at each query: lr (B,C,h,w) in [0, 1] → (K·2·D, B·gh·gw)."""
        image = (2 * lr - 1).contiguous(memory_format=torch.channels_last)
        return self.conditioner(self.encoder(image), coord, cell)

    def log_prob(self, lr: Tensor, residual: Tensor, coord: Tensor, cell: Tensor) -> Tensor:
        """Exact log-density of residual patches.

        Args:
            lr: (B,C,h,w) in [0, 1].
            residual: (B,D,gh,gw) in [-1, 1] units, as `residual` gives them.
            coord: (B,gh,gw,2) patch centres, (y, x) in [-1, 1].
            cell: (B,2) size of one HR pixel, (2/H, 2/W).

        Returns:
            (B,gh,gw), nats per patch.
        """
        log_prob = self.flow.log_prob(to_columns(residual), self.condition(lr, coord, cell))
        return log_prob.view(coord.shape[:-1])

    def initialise(self, batches: Iterable[Any]) -> None:
        """Initialise from data: whiten the residuals of the batches, and start conditions near zero (METHOD §4).

        A flow that is already initialised, because it was trained or loaded, is left as it is.

        Args:
            batches: tuples of lr, hr, coord and cell.
        """
        if self.flow.initialised:
            return
        columns = [to_columns(self.residual(*batch)) for batch in batches]
        self.flow.whiten(torch.cat(columns, dim=1))
        self.conditioner.zero_init()

    # Whole images

    def regions(self, lr: Tensor, size: tuple[int, int], request: Request) -> Iterator[Region]:
        """Decode rectangle by rectangle; a warning at the end counts patches whose inverse exploded (METHOD §4)."""
        flow, p, base = self.flow, self.patch_size, BilinearBase(lr, size, request.peak, self.image_channels)
        mix, residual, inverses = request.mix, request.residual, flow.inverses()

        def decode(block: Block) -> Region:
            condition = block.answers
            # Transposed only on the device: copying what is transposed already has one CPU thread transpose it first.
            drawn = [z[block.image, block.rows, block.cols].to(condition.device) for z in request.latents]
            columns = [z.flatten(0, 1).T for z in drawn]
            mean, *noise = flow.mean_and_noise(columns, condition, inverses)
            scales = flow.scales_and_shifts(condition)[0].half() if request.keep else None
            exploded = tame(mean, noise, request.highest, scales)
            rows, cols = block.pixels
            region = Region(
                block.image,
                rows,
                cols,
                block.fold(mean).div_(2).add_(base(block.image, rows, cols)),
                [block.fold(n) / 2 for n in noise],
                exploded=exploded,
                patches=(block.rows, block.cols),
                kept=None if scales is None else block._replace(answers=scales),
            )
            if mix is not None:
                variance = flow.variances(flow.scales_and_shifts(condition)[0], mix, inverses)
                region = region._replace(deviation=block.fold(variance).sqrt_().div_(2))
            if residual is not None:
                x = residual[block.image, :, rows, cols]
                x = F.pixel_unshuffle(F.pad(x, (0, -x.shape[-1] % p, 0, -x.shape[-2] % p)), p)
                z, log_prob = flow.latents_and_log_prob(x.flatten(1), condition)
                region = region._replace(latents=z.view_as(x), log_prob=log_prob.view(x.shape[1:]))
            return region

        lost = seen = 0
        for region in stream(self.encoder, self.conditioner, lr, size, p, decode, request):
            lost += region.exploded
            rows, cols = region.patches
            seen += (rows.stop - rows.start) * (cols.stop - cols.start) * max(len(request.latents), 1)
            yield region
        if lost:
            message = "%d of %d patches have a deviation beyond all colours and are shown at their mean"
            log.warning(message, lost, seen)

    @torch.no_grad()
    def lr_latent(
        self, lr: Tensor, size: tuple[int, int], *, features: Sequence[Tile] | None = None
    ) -> Tensor:
        """``z_lr``: the latents of what the enlarged LR image itself lacks (METHOD §9).

        Args:
            lr: (B,C,h,w) in [0, 1].
            size: (H, W).
            features: of ``lr``, from `encode`; by default they are made here.

        Returns:
            (B,D,gh,gw) on the patch grid; beyond the edge the residual is taken as 0.
        """
        check_images(lr)
        size = check_size(size, 12 * self.image_channels * lr.shape[0], lr.device)
        lr = lr.expand(-1, self.output_channels(lr), -1, -1)
        z = lr.new_empty(len(lr), self.dim, *patch_grid(size, self.patch_size))
        request = Request(residual=lr_residual(lr, size), features=checked_features(features, lr))
        for region in self.regions(lr, size, request):
            assert region.latents is not None
            z[region.image, :, *region.patches] = region.latents
        return z

    @torch.no_grad()
    def sample_prior(
        self, lr: Tensor, size: tuple[int, int], *, features: Sequence[Tile] | None = None
    ) -> Tensor:
        """Super-resolve with the latents that the prior predicts, nothing of which is random; see `sample`."""
        if self.prior is None:
            return super().sample_prior(lr, size)
        check_images(lr)
        need = 8 * self.image_channels + -(-self.prior.bytes_per_patch // self.patch_size**2)
        size = check_size(size, lr.shape[0] * need, lr.device)
        lr = lr.expand(-1, self.output_channels(lr), -1, -1)
        features = self.encode(lr) if features is None else features
        dtype = next(self.prior.parameters()).dtype
        z_lr = self.lr_latent(lr, size, features=features).to(dtype)
        z = self.prior(z_lr, 2 * lr.to(dtype) - 1).movedim(1, -1)
        return self.sample(lr, size, temperature=1.0, z=z, features=features)
