"""A LINF as a graph that runs without this package: its inputs, its module, and how far it is from the model."""

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from linf.coordinates import patch_centres
from linf.models import DEFAULT_TEMPERATURE
from linf.models.explosion import EXPLODED
from linf.models.linf import LINF

AXES = {
    "lr": {0: "batch", 2: "h", 3: "w"},
    "size": {},
    "temperature": {},
    "z": {0: "batch", 1: "gh", 2: "gw"},
}
"""The inputs of a graph in order, and their dynamic axes."""

Run = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""A function of a graph's four inputs."""


class Graph(nn.Module):
    """The module that is exported: `LINF.sample` of whole images, with latents and temperature as inputs. It does not
    work in tiles, so that memory grows with the output: about 2 kB per pixel at P = 3, and nine times that at P = 1.
    The model is copied without its prior and what it knows of its latents.
    """

    inverses: Tensor

    def __init__(self, model: LINF) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        self.model.set_prior(None)
        self.model.correlation = None
        self.register_buffer("inverses", model.flow.inverses().contiguous())
        self.eval().requires_grad_(False)

    def forward(self, lr: Tensor, size: Tensor, temperature: Tensor, z: Tensor) -> Tensor:
        """Super-resolve to (B,C,H,W), not clamped; as in `LINF.sample`, a patch beyond ±`EXPLODED` becomes its mean.

        Args:
            lr: (B,C,h,w) in [0, 1].
            size: (2,) int64, the output's H and W.
            temperature: (), τ ≥ 0, which multiplies z.
            z: (B,gh,gw,D) latents, gh = ceil(H/P), gw = ceil(W/P).
        """
        height, width = size.tolist()
        torch._check(height >= 1)
        torch._check(width >= 1)
        batch, dim, p = z.shape[0], z.shape[-1], self.model.patch_size
        rows, cols = (height + p - 1) // p, (width + p - 1) // p
        y, x = patch_centres(height, p, device=lr.device), patch_centres(width, p, device=lr.device)
        coord = torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1).expand(batch, -1, -1, -1)
        cell = (2 / size.to(lr.dtype)).expand(batch, -1)
        condition = self.model.condition(lr, coord, cell)
        latents = z.reshape(batch * rows * cols, dim).T
        flow = self.model.flow
        mean = flow.inverse(torch.zeros_like(latents), condition, self.inverses)
        noise = temperature * flow.inverse_linear(latents, condition, self.inverses)
        residual = torch.where((mean.abs() <= EXPLODED).all(0), mean, 0)
        residual = residual + torch.where((mean.abs() + noise.abs() <= EXPLODED).all(0), noise, 0)
        # Written so that torch 2.9 exports it, too: there, four dimensions and a slice would ask for numbers of pixels.
        patches = residual.view(dim, batch, rows * cols).transpose(0, 1).reshape(batch, dim, rows, cols)
        torch._check(height <= rows * p)
        torch._check(width <= cols * p)
        image = F.pixel_shuffle(patches, p).narrow(-2, 0, height).narrow(-1, 0, width)
        return F.interpolate(lr, (height, width), mode="bilinear", align_corners=False) + image / 2


def example(
    model: LINF, batch: int, h: int, w: int, height: int, width: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Make the same inputs of a `Graph` each time: a smooth image, its output size, τ = 0.8 and latents."""
    generator = torch.Generator().manual_seed(0)
    lr = F.interpolate(
        torch.rand(batch, model.image_channels, 3, 3, generator=generator), (h, w), mode="bilinear"
    )
    z = model.sample_latents((height, width), 0, batch=batch)
    return lr, torch.tensor([height, width]), torch.tensor(0.8), z


@torch.no_grad()
def difference(model: LINF, run: Run) -> float:
    """Measure the largest difference of ``run`` from `LINF.sample` over several sizes."""
    worst = 0.0
    for case in ((1, 9, 7, 30, 23), (3, 5, 8, 5, 8), (1, 1, 3, 1, 16), (1, 16, 24, 53, 36)):
        given = example(model, *case)
        expected = model.sample(given[0], case[-2:], temperature=[float(given[2])], z=given[3])[0]
        worst = max(worst, float((run(*given) - expected).abs().max().nan_to_num(math.inf)))
    return worst


def description(model: LINF) -> str:
    """Describe inputs and output for a reader who has only the file."""
    p, d, c = model.patch_size, model.flow.dim, model.image_channels
    colours = "RGB in" if c == 3 else "channels in"
    return (
        "Super-resolution at any scale by a local implicit normalizing flow (arXiv 2303.05156). "
        f"lr: float32 (batch, {c}, h, w), {colours} [0, 1]. size: int64 (2,), height H and width W of the output. "
        f"temperature: float32 scalar from 0 up; 0 is the mean, {DEFAULT_TEMPERATURE} the usual sample. "
        f"z: float32 (batch, ceil(H/{p}), ceil(W/{p}), {d}), standard Gaussian; patch size P = {p}, D = {d}. "
        f"image: float32 (batch, {c}, H, W), not clamped to [0, 1]."
    )
