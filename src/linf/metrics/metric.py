"""Metric box of the figure: means over images that are exact however the images are shared out between ranks."""

import os
from abc import abstractmethod

import torch
from torch import Tensor
from torchmetrics import Metric

import linf.metrics.functional as functional
import linf.metrics.networks as networks


class ImageMean(Metric):
    """Mean over images of a figure that each image has.

    A rank may hold any number of images, none included. Without any there is no mean: not a number.

    Args:
        figure: its name; the sum is kept under it. A `torchmetrics.MetricCollection` takes two metrics for one where
            their states have equal names and, after the first image, equal values.
    """

    full_state_update = False
    is_differentiable = False
    count: Tensor

    def __init__(self, figure: str) -> None:
        super().__init__()
        self.figure = figure
        self.add_state(figure, torch.zeros((), dtype=torch.double), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    @property
    def total(self) -> Tensor:
        """Sum over the images so far, in double precision."""
        return getattr(self, self.figure)

    def add(self, values: Tensor) -> None:
        """Count in images by their figures (B,)."""
        setattr(self, self.figure, self.total + values.double().sum())
        self.count = self.count + len(values)

    def compute(self) -> Tensor:
        """The mean over the images of all ranks."""
        return self.total / self.count


class ImageMetric(ImageMean):
    """Mean over images, each of which has one or more samples."""

    @abstractmethod
    def of_image(self, sr: Tensor, hr: Tensor, lr: Tensor, border: int) -> Tensor:
        """The figure of one image, its mean over the samples unless a class says otherwise.

        Args:
            sr: (S,3,H,W), samples of one image, in [0, 1] or beyond.
            hr: (1,3,H,W) in [0, 1].
            lr: (1,3,h,w) in [0, 1].
            border: pixels that PSNR and SSIM leave out on each side.

        Returns:
            A scalar in double precision.
        """

    def update(self, sr: Tensor, hr: Tensor, lr: Tensor, border: int) -> None:
        """Count in one image; see `of_image`."""
        self.add(self.of_image(sr, hr, lr, border)[None])


class PSNR(ImageMetric):
    """See `linf.metrics.functional.psnr`."""

    higher_is_better = True

    def __init__(self, luma: bool = False) -> None:
        super().__init__("psnr_y" if luma else "psnr_rgb")
        self.luma = luma

    def of_image(self, sr: Tensor, hr: Tensor, lr: Tensor, border: int) -> Tensor:
        """Mean over the samples, in dB."""
        return functional.psnr(sr, hr, border=border, luma=self.luma).double().mean()


class SSIM(ImageMetric):
    """See `linf.metrics.functional.ssim`."""

    higher_is_better = True

    def __init__(self) -> None:
        super().__init__("ssim")

    def of_image(self, sr: Tensor, hr: Tensor, lr: Tensor, border: int) -> Tensor:
        """Mean over the samples."""
        return functional.ssim(sr, hr, border=border).double().mean()


class LRPSNR(ImageMetric):
    """See `linf.metrics.functional.lr_psnr`."""

    higher_is_better = True

    def __init__(self) -> None:
        super().__init__("lr_psnr")

    def of_image(self, sr: Tensor, hr: Tensor, lr: Tensor, border: int) -> Tensor:
        """Mean over the samples, in dB, of whole images."""
        return functional.lr_psnr(sr, lr).double().mean()


class LPIPS(ImageMetric):
    """See `linf.metrics.networks.LPIPS`, as for backbone and weights."""

    higher_is_better = False

    def __init__(self, backbone: str = "alex", weights: str | os.PathLike[str] | None = None) -> None:
        super().__init__(f"lpips_{backbone}")
        self.network = networks.LPIPS(backbone, weights)

    def of_image(self, sr: Tensor, hr: Tensor, lr: Tensor, border: int) -> Tensor:
        """Mean over the samples, of whole images."""
        return self.network(sr, hr).double().mean()


class DISTS(ImageMetric):
    """See `linf.metrics.networks.DISTS`, as for weights."""

    higher_is_better = False

    def __init__(self, weights: str | os.PathLike[str] | None = None) -> None:
        super().__init__("dists")
        self.network = networks.DISTS(weights)

    def of_image(self, sr: Tensor, hr: Tensor, lr: Tensor, border: int) -> Tensor:
        """Mean over the samples, of whole images."""
        return self.network(sr, hr).double().mean()


class Diversity(ImageMetric):
    """See `linf.metrics.functional.diversity`."""

    higher_is_better = True

    def __init__(self) -> None:
        super().__init__("diversity")

    def of_image(self, sr: Tensor, hr: Tensor, lr: Tensor, border: int) -> Tensor:
        """Deviation over the samples, in grey levels; of fewer than two, not a number."""
        if len(sr) < 2:
            return sr.new_full((), torch.nan, dtype=torch.double)
        return functional.diversity(sr[:, None]).double()[0]


class NonFinite(ImageMetric):
    """See `linf.metrics.functional.nonfinite`."""

    higher_is_better = False

    def __init__(self) -> None:
        super().__init__("nonfinite")

    def of_image(self, sr: Tensor, hr: Tensor, lr: Tensor, border: int) -> Tensor:
        """Sum over the samples."""
        return functional.nonfinite(sr).sum().double()


class BitsPerDimension(ImageMean):
    """See `linf.metrics.functional.bits_per_dimension`."""

    higher_is_better = False

    def __init__(self) -> None:
        super().__init__("bits_per_dim")

    def update(self, log_prob: Tensor, dim: int) -> None:
        """Count in B images, of log-densities (B,gh,gw) in nats per patch of ``dim`` values."""
        self.add(functional.bits_per_dimension(log_prob, dim))
