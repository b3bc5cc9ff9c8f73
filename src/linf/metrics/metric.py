"""Metric box of the figure: means over images, exact however the images are shared out between ranks."""

import os
from abc import abstractmethod

import torch
from torch import Tensor
from torchmetrics import Metric

from linf.images.resize import matlab_bicubic
from linf.metrics import functional
from linf.metrics.dists import DISTSNetwork
from linf.metrics.networks import LPIPSNetwork


class ImageMetric(Metric):
    """The mean over images of a figure of one image, of which there are one or more samples.

    Each rank may hold any number of images, even none. Without any image the mean is NaN.

    Attributes:
        rgb_only: whether images need three channels.
        compares_samples: whether the figure is one of several samples, how they differ.
        convention: what the figure is taken on, for the record of a run.
        peak: the value of white of the whole numbers that images are made of, 255 for 8 bits.
        figure: the figure's name, under which its sum is kept: a `torchmetrics.MetricCollection` merges two metrics
            whose states have equal names and, after the first image, equal values.
    """

    full_state_update = False
    is_differentiable = False
    rgb_only = False
    compares_samples = False
    convention = "on whole images"
    peak = 255
    figure: str
    count: Tensor

    def __init__(self, figure: str | None = None) -> None:
        super().__init__()
        self.figure = figure or self.figure
        self.add_state(self.figure, torch.zeros((), dtype=torch.double), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    @abstractmethod
    def of_samples(self, sr: Tensor, hr: Tensor, lr: Tensor, border: int) -> Tensor:
        """The figure of each sample of one image, or the one figure of all of them.

        Args:
            sr: (S,C,H,W) samples of one image, in [0, 1] or beyond.
            hr: (1,C,H,W) in [0, 1].
            lr: (1,C,h,w) in [0, 1].
            border: pixels that PSNR, SSIM and NIQE leave out on each side.

        Returns:
            (S,), or a scalar for one figure of all of them.
        """

    def of_image(self, sr: Tensor, hr: Tensor, lr: Tensor, border: int) -> Tensor:
        """The mean of `of_samples`, a scalar in double precision."""
        return self.of_samples(sr, hr, lr, border).double().mean()

    @property
    def total(self) -> Tensor:
        """The sum over the images so far, in double precision."""
        return getattr(self, self.figure)

    def update(self, sr: Tensor, hr: Tensor, lr: Tensor, border: int) -> None:
        """Add one image; see `of_image`."""
        setattr(self, self.figure, self.total + self.of_image(sr, hr, lr, border))
        self.count = self.count + 1

    def compute(self) -> Tensor:
        """The mean over the images of all ranks."""
        return self.total / self.count


class PSNR(ImageMetric):
    """See `linf.metrics.functional.psnr`."""

    higher_is_better = True

    def __init__(self, luma: bool = False) -> None:
        super().__init__("psnr_y" if luma else "psnr_rgb")
        self.luma = luma
        self.fit(3)

    def fit(self, channels: int) -> None:
        """Say what it is taken on for images of so many channels, of which only RGB and grey have Y."""
        on = "Y" if self.luma and channels in (1, 3) else "all channels"
        self.convention = f"on {on}, without the protocol's border"

    def of_samples(self, sr: Tensor, hr: Tensor, lr: Tensor, border: int) -> Tensor:
        return functional.psnr(sr, hr, border=border, luma=self.luma)


class SSIM(ImageMetric):
    """See `linf.metrics.functional.ssim`."""

    higher_is_better = True
    figure = "ssim"
    convention = "mean over channels, without the protocol's border; 11×11 Gaussian windows"

    def of_samples(self, sr: Tensor, hr: Tensor, lr: Tensor, border: int) -> Tensor:
        return functional.ssim(sr, hr, border=border)


class LRPSNR(ImageMetric):
    """See `linf.metrics.functional.lr_psnr`; of whole images."""

    higher_is_better = True
    figure = "lr_psnr"
    convention = "on all channels of SR reduced by MATLAB's bicubic, against LR"

    def of_samples(self, sr: Tensor, hr: Tensor, lr: Tensor, border: int) -> Tensor:
        return functional.lr_psnr(sr, lr)


class DetailEnergy(ImageMetric):
    """See `linf.metrics.functional.detail_energy`; of whole images."""

    higher_is_better = None  # HR's own is best.
    figure = "detail"
    convention = "energy that SR reduced to LR's size and enlarged again loses, by MATLAB's bicubic, to HR's"

    def of_samples(self, sr: Tensor, hr: Tensor, lr: Tensor, border: int) -> Tensor:
        return functional.detail_energy(sr, hr, lr)


class LPIPS(ImageMetric):
    """See `linf.metrics.networks.LPIPSNetwork`, as for backbone and weights; of whole images."""

    higher_is_better = False
    rgb_only = True

    def __init__(self, backbone: str = "alex", weights: str | os.PathLike[str] | None = None) -> None:
        super().__init__(f"lpips_{backbone}")
        self.convention = f"v0.1, {backbone}, on whole images of RGB"
        self.network = LPIPSNetwork(backbone, weights)

    def of_samples(self, sr: Tensor, hr: Tensor, lr: Tensor, border: int) -> Tensor:
        return self.network(sr, hr)


class DISTS(ImageMetric):
    """See `linf.metrics.dists.DISTSNetwork`, as for weights; of whole images."""

    higher_is_better = False
    rgb_only = True
    convention = "on whole images of RGB, not resized"

    def __init__(self, weights: str | os.PathLike[str] | None = None) -> None:
        super().__init__("dists")
        self.network = DISTSNetwork(weights)

    def of_samples(self, sr: Tensor, hr: Tensor, lr: Tensor, border: int) -> Tensor:
        return self.network(sr, hr)


class Diversity(ImageMetric):
    """See `linf.metrics.functional.diversity`."""

    higher_is_better = True
    figure = "diversity"
    compares_samples = True
    convention = "deviation over the samples in whole grey levels, mean over pixels and channels"

    def of_samples(self, sr: Tensor, hr: Tensor, lr: Tensor, border: int) -> Tensor:
        """Deviation over the samples, in grey levels; NaN for fewer than two."""
        if len(sr) < 2:
            return sr.new_full((), torch.nan, dtype=torch.double)
        return functional.diversity(sr[:, None], self.peak)[0]


class NonFinite(ImageMetric):
    """See `linf.metrics.functional.nonfinite`."""

    higher_is_better = False
    figure = "nonfinite"
    convention = "sum over the samples, of whole images"

    def of_samples(self, sr: Tensor, hr: Tensor, lr: Tensor, border: int) -> Tensor:
        """Sum over the samples."""
        return functional.nonfinite(sr).sum()


class NTIREDiversity(ImageMetric):
    r"""The diversity score of NTIRE's challenge on the super-resolution space (Lugmayr et al., CVPRW 2021), in percent.

    .. math::
        100 \, (\min_s mean_{hw} d_s − mean_{hw} \min_s d_s) / \min_s mean_{hw} d_s

    where d are maps (H,W) of LPIPS-Alex against HR: by how much the best sample at each pixel beats the best sample.
    The challenge takes ten samples; more of them score higher.

    Args:
        weights: see `linf.metrics.networks.LPIPSNetwork`.
    """

    higher_is_better = True
    rgb_only = True
    compares_samples = True
    figure = "ntire_diversity"
    convention = "LPIPS v0.1, alex, on whole images of RGB; over all samples"

    def __init__(self, weights: str | os.PathLike[str] | None = None) -> None:
        super().__init__()
        self.network = LPIPSNetwork("alex", weights)

    def of_samples(self, sr: Tensor, hr: Tensor, lr: Tensor, border: int) -> Tensor:
        """Score in percent; NaN for fewer than two samples."""
        if len(sr) < 2:
            return sr.new_full((), torch.nan)
        maps = self.network.spatial(sr, hr).double()
        best, local = maps.mean((1, 2)).min(), maps.amin(0).mean()
        return torch.where(best > 0, 100 * (best - local) / best, best)  # No place beats a perfect sample.


class SelfSSIM(ImageMetric):
    """How well images of one LR image and one seed agree at two scales (Ntavelis et al., arXiv 2204.02273): SSIM of SR,
    reduced by MATLAB's bicubic, against the same system's SR of that lower scale.
    """

    higher_is_better = True
    figure = "self_ssim"
    convention = "SSIM of whole images against SR of half the size, at least LR's, by MATLAB's bicubic"

    def of_samples(self, sr: Tensor, hr: Tensor, lr: Tensor, border: int) -> Tensor:
        """SSIM of each sample (S,C,H,W) against the one of the lower scale, ``hr`` (S,C,H',W'), in place of HR."""
        reduced = matlab_bicubic(sr.float().clamp(0, 1), (hr.shape[-2], hr.shape[-1]))
        return functional.ssim(reduced, hr.clamp(0, 1))
