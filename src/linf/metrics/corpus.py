"""Metric box of the figure: distances between all SR and all HR images, by the features of their patches.

The network is the Inception of FID's authors, as torch-fidelity has it, with its enlargement to 299×299 pixels. Its
weights are a file of torch-fidelity's or pytorch-fid's download; nothing is downloaded here.
"""

import io
import math
import os
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torchmetrics.image.kid import poly_mmd

from linf.metrics.networks import Frozen, find_weights

INCEPTION = ("weights-inception", "pt_inception")
"""The names of the network's weights, ``NAME-2015-12-05-6726825d.pth``, from torch-fidelity and from pytorch-fid."""

REMEDY = (
    "copy one to the first folder from a machine with a network (torch-fidelity and pytorch-fid download it), or name "
    "it by the metric's weights=FILE"
)

PATCHES_AT_ONCE = 8


class PatchFeatures(Frozen):
    """Features of the patches of an image: those of a grid from its corner, and those of the grid half a patch on, as
    Mentzer et al. (arXiv 2006.09965) take them; only whole patches count.

    Args:
        patch: pixels a side.
        weights: of Inception; None looks in the folder of torch's downloads.

    Attributes:
        name: of what it computes, for a file of features.

    Raises:
        ValueError: the patch is too small, or the weights are missing or those of another network.
    """

    def __init__(self, patch: int = 128, weights: str | os.PathLike[str] | None = None) -> None:
        super().__init__()
        if patch < 2:
            raise ValueError(f"patch is {patch}: give a side of at least 2 pixels; 128 or 256 is usual")
        self.patch, self.name = patch, f"inception_{patch}"
        file, state = find_weights(INCEPTION, weights, "FID and KID", REMEDY)
        # Imported only where it is used, for that takes a second.
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        # Torch-fidelity would unpickle a file with whatever code is in it; these are tensors only.
        plain = io.BytesIO()
        torch.save(state, plain)
        plain.seek(0)
        try:
            self.network = FeatureExtractorInceptionV3("inception", ["2048"], plain)
        except RuntimeError as error:
            raise ValueError(f"{file} does not hold the weights of FID's Inception") from error
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        """Features of 8 bits: (1,3,H,W), clamped to [0, 1] → (n,2048) on the host; none of a smaller image."""
        eight_bits = image.clamp(0, 1).mul(255).round().nan_to_num(0).byte()
        found = [torch.empty(0, 2048)]
        with torch.autocast(image.device.type, enabled=False):
            for part in _patches(eight_bits, self.patch).split(PATCHES_AT_ONCE):
                found.append(self.network(part)[0].cpu())
        return torch.cat(found)


def _patches(image: Tensor, side: int) -> Tensor:
    """Whole patches of an image: (1,C,H,W) → (n,C,side,side)."""
    found = [image.new_empty(0, image.shape[1], side, side)]
    for start in (0, side // 2):
        part = image[0, :, start:, start:]
        if min(part.shape[1:]) >= side:
            grid = part.unfold(1, side, side).unfold(2, side, side)
            found.append(grid.permute(1, 2, 0, 3, 4).flatten(0, 1))
    return torch.cat(found)


class CorpusMetric(nn.Module, ABC):
    """A figure of all images of a data set together, rather than a mean over them.

    Args:
        patch: see `PatchFeatures`, as for weights.
        weights: of the network.

    Attributes:
        rgb_only: whether images need three channels.
        convention: what the figure is taken on, for the record of a run.
    """

    rgb_only = True

    def __init__(self, patch: int = 128, weights: str | os.PathLike[str] | None = None) -> None:
        super().__init__()
        self.features = PatchFeatures(patch, weights)
        self.convention = (
            f"on patches of {patch}×{patch} pixels of whole images in 8 bits, of two grids half a patch apart; of the "
            "first sample of each image"
        )

    @abstractmethod
    def distance(self, sr: Tensor, hr: Tensor) -> float:
        """The distance between features (n,F) of SR and (n,F) of HR; not a number for fewer than two patches."""


class FID(CorpusMetric):
    """Fréchet inception distance, see `frechet_distance`."""

    def distance(self, sr: Tensor, hr: Tensor) -> float:
        return frechet_distance(sr, hr) if len(sr) > 1 else math.nan


class KID(CorpusMetric):
    """Kernel inception distance (Bińkowski et al., arXiv 1801.01401): the unbiased estimate of MMD² with the polynomial
    kernel of degree three, of all patches at once rather than of random subsets.
    """

    def distance(self, sr: Tensor, hr: Tensor) -> float:
        return poly_mmd(hr.double(), sr.double()).item() if len(sr) > 1 else math.nan


def frechet_distance(sr: Tensor, hr: Tensor) -> float:
    r"""Fréchet distance between two Gaussians with the moments of features (Heusel et al., arXiv 1706.08500, eq. 6).

    .. math::
        ‖m_1 − m_2‖^2 + Tr(C_1 + C_2 − 2 (C_1 C_2)^½)

    With ``C_i = A_iᵀ A_i`` of the centred features the trace of the root is the sum of the singular values of
    ``A_1 A_2ᵀ``: exact where there are fewer patches than features, and the smaller problem of the two.

    Args:
        sr: (n,F), n ≥ 2.
        hr: (m,F), m ≥ 2.
    """
    means = [features.double().mean(0) for features in (sr, hr)]
    roots = []
    for features, mean in zip((sr, hr), means, strict=True):
        root = (features.double() - mean) / math.sqrt(len(features) - 1)
        # More patches than features: R of A = QR has the same products.
        roots.append(root if len(root) <= root.shape[1] else torch.linalg.qr(root, "r").R)
    traces = sum(root.square().sum() for root in roots)
    overlap = torch.linalg.svdvals(roots[0] @ roots[1].T).sum()
    return ((means[0] - means[1]).square().sum() + traces - 2 * overlap).item()
