"""Metric box of the figure: means over images, exact however the images are shared out between ranks."""

import os
from abc import abstractmethod

import torch
from torch import Tensor
from torchmetrics import Metric

from linf.metrics import functional
from linf.metrics.networks import DISTSNetwork, LPIPSNetwork


class ImageMetric(Metric):
    """The mean over images of a figure of one image, of which there are one or more samples.

    Each rank may hold any number of images, even none. Without any image the mean is NaN.

    Attributes:
        rgb_only: whether images need three channels.
        peak: the value of white of the whole numbers that images are made of, 255 for 8 bits.
        figure: the figure's name, under which its sum is kept: a `torchmetrics.MetricCollection` merges two metrics
            whose states have equal names and, after the first image, equal values.
    """

    full_state_update = False
    is_differentiable = False
    rgb_only = False
    peak = 255
    figure: str
    count: Tensor

    def __init__(self, figure: str | None = None) -> None:
        super().__init__()
        self.figure = figure or self.figure
        self.add_state(self.figure, torch.zeros((), dtype=torch.double), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    @abstractmethod
    def of_image(self, sr: Tensor, hr: Tensor, lr: Tensor, border: int) -> Tensor:
        """The figure of one image, by default its mean over the samples.

        Args:
            sr: (S,C,H,W) samples of one image, in [0, 1] or beyond.
            hr: (1,C,H,W) in [0, 1].
            lr: (1,C,h,w) in [0, 1].
            border: pixels that PSNR and SSIM leave out on each side.

        Returns:
            A scalar in double precision.
        """

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

    def of_image(self, sr: Tensor, hr: Tensor, lr: Tensor, border: int) -> Tensor:
        return functional.psnr(sr, hr, border=border, luma=self.luma).double().mean()


class SSIM(ImageMetric):
    """See `linf.metrics.functional.ssim`."""

    higher_is_better = True
    figure = "ssim"

    def of_image(self, sr: Tensor, hr: Tensor, lr: Tensor, border: int) -> Tensor:
        return functional.ssim(sr, hr, border=border).double().mean()


class LRPSNR(ImageMetric):
    """See `linf.metrics.functional.lr_psnr`; of whole images."""

    higher_is_better = True
    figure = "lr_psnr"

    def of_image(self, sr: Tensor, hr: Tensor, lr: Tensor, border: int) -> Tensor:
        return functional.lr_psnr(sr, lr).double().mean()


class LPIPS(ImageMetric):
    """See `linf.metrics.networks.LPIPSNetwork`, as for backbone and weights; of whole images."""

    higher_is_better = False
    rgb_only = True

    def __init__(self, backbone: str = "alex", weights: str | os.PathLike[str] | None = None) -> None:
        super().__init__(f"lpips_{backbone}")
        self.network = LPIPSNetwork(backbone, weights)

    def of_image(self, sr: Tensor, hr: Tensor, lr: Tensor, border: int) -> Tensor:
        return self.network(sr, hr).double().mean()


class DISTS(ImageMetric):
    """See `linf.metrics.networks.DISTSNetwork`, as for weights; of whole images."""

    higher_is_better = False
    rgb_only = True

    def __init__(self, weights: str | os.PathLike[str] | None = None) -> None:
        super().__init__("dists")
        self.network = DISTSNetwork(weights)

    def of_image(self, sr: Tensor, hr: Tensor, lr: Tensor, border: int) -> Tensor:
        return self.network(sr, hr).double().mean()


class Diversity(ImageMetric):
    """See `linf.metrics.functional.diversity`."""

    higher_is_better = True
    figure = "diversity"

    def of_image(self, sr: Tensor, hr: Tensor, lr: Tensor, border: int) -> Tensor:
        """Deviation over the samples, in grey levels; NaN for fewer than two."""
        if len(sr) < 2:
            return sr.new_full((), torch.nan, dtype=torch.double)
        return functional.diversity(sr[:, None], self.peak).double()[0]


class NonFinite(ImageMetric):
    """See `linf.metrics.functional.nonfinite`."""

    higher_is_better = False
    figure = "nonfinite"

    def of_image(self, sr: Tensor, hr: Tensor, lr: Tensor, border: int) -> Tensor:
        """Sum over the samples."""
        return functional.nonfinite(sr).sum().double()
