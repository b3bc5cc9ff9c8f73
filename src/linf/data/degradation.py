"""Data box of the figure: how LR images differ from clean bicubic ones, drawn at random for each sample."""

import hashlib
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from linf.data.rounds import Round, Settings, bounds_of, check_bounds
from linf.errors import UsageError
from linf.images.degrade import blur, jpeg, pillow_jpeg, resample, shot_noise, webp
from linf.images.reduction import Reduction
from linf.images.resize import KERNELS, pil_bicubic


class Draw(NamedTuple):
    """What was drawn for a sample; with (B,) in front for a batch.

    Attributes:
        clean: whether the sample stays clean.
        settings: (R,11), of each of the R rounds the numbers of `Settings`.
        noise: (2,C,h,w) standard Gaussian numbers of each round, as float32.
    """

    clean: Tensor
    settings: Tensor
    noise: tuple[Tensor, ...]


class Degradation:
    """One or two rounds of degradation, of which a share of the samples has none.

    Args:
        first: the first round.
        second: the second one, if there is one.
        clean: the share of samples whose LR stays the clean bicubic, to the bit.

    Raises:
        UsageError: clean is out of range, or the last round does not end at the size of the LR image.
    """

    def __init__(self, first: Round, second: Round | None = None, clean: float = 0.0) -> None:
        self.rounds = [first] if second is None else [first, second]
        (self.clean, _) = check_bounds("clean", clean, 0, 1)
        if self.rounds[-1].size != (1, 1):
            raise UsageError(
                f"size of the last round is {self.rounds[-1].size}: it ends at the LR image's, 1"
            )

    def severity(self) -> dict[str, float]:
        """What is done to every image alike, by name, for tables and figures; empty where something is random."""
        parts = [part for each in self.rounds for part in each.describe()]
        alike = all(chance == 1 and low == high for _, chance, low, high in parts)
        if self.clean or len(self.rounds) > 1 or not alike:
            return {}
        return {name: low for name, _, low, _ in parts}

    @property
    def linear(self) -> bool:
        """Whether LR is a linear map of HR, but for rounding: by one round that only blurs and reduces."""
        first = self.rounds[0]
        noisy = first.noise.probability and bounds_of(first.noise.sigma)[1]
        others = first.shot_noise.probability or first.jpeg.probability or first.webp.probability
        return self.clean == 1 or not (noisy or others or self.rounds[1:])

    def reduction(
        self, n_in: Sequence[int], size: Sequence[int], rng: np.random.Generator
    ) -> Reduction | None:
        """The linear map by which `degrade` makes an LR image; None where there is more to it.

        Args:
            n_in: (H, W).
            size: (h, w).
            rng: as it is given to `degrade`.
        """
        draw, first = self.draw(rng, (1, 1)), self.rounds[0]
        if draw.clean:
            return Reduction("bicubic")
        if not self.linear:
            return None
        settings = Settings(*draw.settings[0])
        ratio = sum(a / b for a, b in zip(n_in, size, strict=True)) / 2
        long, short = (float(sigma) for sigma in _axes(settings, ratio))
        kernel = KERNELS[int(settings.kernel)]
        return Reduction(kernel, (long, short), float(settings.angle), _side(first, n_in, size))

    def __str__(self) -> str:
        rounds = []
        for each in self.rounds:
            kernels = [name for name, share in zip(KERNELS, each.kernel.shares, strict=True) if share]
            parts = ["/".join(kernels)]
            for name, chance, low, high in each.describe():
                numbers = f"{low:g}" if low == high else f"{low:g}–{high:g}"
                parts += [f"{name} {numbers}" + f" of {chance:.0%}" * (chance < 1)] * (high > 0)
            rounds.append(", ".join(parts))
        return ", then ".join(rounds) + f", {self.clean:.0%} clean" * (self.clean > 0)

    def digest(self, seed: int) -> str:
        """A digest of all settings, of which ``str`` has the main ones, and of the seed that decides by them."""
        settings = repr((seed, self.clean, [vars(each) for each in self.rounds]))
        return hashlib.sha256(settings.encode()).hexdigest()[:16]

    def draw(self, rng: np.random.Generator, size: tuple[int, int], channels: int = 3) -> Draw:
        """Decide how one sample is degraded.

        Args:
            rng: of the sample.
            size: (h, w) of its LR image.
            channels: C.
        """
        clean, settings = rng.random() < self.clean, [each.draw(rng) for each in self.rounds]
        noise = tuple(
            torch.from_numpy(rng.standard_normal((2, channels, *_larger(each, size)), np.float32))
            for each in self.rounds
        )
        return Draw(torch.tensor(clean), torch.tensor(settings), noise)

    def __call__(
        self,
        hr: Tensor,
        n_in: Tensor,
        size: tuple[int, int],
        draw: Draw,
        *,
        exact: bool = False,
        peak: int = 255,
    ) -> Tensor:
        """Reduce and degrade a batch of images.

        Args:
            hr: (B,C,H,W) in [0, 1], of which (n_in[b,0], n_in[b,1]) pixels at the top left are image b.
            n_in: (B,2) heights and widths.
            size: (h, w) of the LR images.
            draw: what was drawn for each sample, collated; its settings best on the host, which decides by them.
            exact: True for the JPEG that a file holds, on the host; False for kornia's, on the images' device.
            peak: the value of white of the whole numbers that images are rounded to, 255 for 8 bits.

        Returns:
            (B,C,h,w) in [0, 1], rounded.

        Raises:
            UsageError: see `check`.
        """
        self.check(hr.shape[1], peak)
        # Filled on the device: a copy of what the host holds would wait for it.
        images, wanted = hr, torch.stack([torch.full_like(n_in[:, 0], n) for n in size], 1)
        for each, numbers, noise in zip(self.rounds, draw.settings.unbind(1), draw.noise, strict=True):
            settings = Settings(*numbers.to(hr.device, non_blocking=True).unbind(1))
            qualities = Settings(*numbers.unbind(1))
            if each.blur.probability:
                sigma = torch.stack(_axes(settings, (n_in / wanted).mean(1)), 1)
                images = blur(images, sigma, settings.angle, _side(each, images.shape[-2:], size))
            n_out = (wanted * settings.size[:, None]).round().clamp(min=1).to(n_in.dtype)
            images = resample(images, n_in, n_out, _larger(each, size), settings.kernel)
            images, n_in = _add_noise(each, images, noise, settings, peak), n_out
            if each.jpeg.probability:
                images = round_to_peak((pillow_jpeg if exact else jpeg)(images, qualities.jpeg), peak)
            if each.webp.probability:
                images = round_to_peak(webp(images, qualities.webp), peak)
        return images

    def check(self, channels: int, peak: int) -> None:
        """Raise UsageError where images of so many channels, or of more than 8 bits, are to be compressed."""
        if any(each.jpeg.probability or each.webp.probability for each in self.rounds):
            if channels not in (1, 3):
                raise UsageError(
                    f"JPEG and WebP hold 1 or 3 channels, not {channels}: set their probability to 0"
                )
            if peak != 255:
                raise UsageError(
                    f"JPEG and WebP hold 8 bits, and white is {peak}: set their probability to 0, or data.depth=8"
                )

    def degrade(
        self, hr: np.ndarray, size: tuple[int, int], rng: np.random.Generator, peak: int = 255
    ) -> np.ndarray:
        """Reduce and degrade one image, to what a file would hold.

        Args:
            hr: (H,W,C) uint8 or uint16.
            size: (h, w) of the LR image.
            rng: decides what is drawn.
            peak: the value of white.

        Returns:
            (h,w,C) of the same type.
        """
        draw = self.draw(rng, size, hr.shape[2])
        if draw.clean:
            return pil_bicubic(hr, size, peak)
        batch = torch.from_numpy(hr.astype(np.float32)).permute(2, 0, 1)[None] / peak
        draw = Draw(draw.clean[None], draw.settings[None], tuple(noise[None] for noise in draw.noise))
        lr = self(batch, torch.tensor([hr.shape[:2]]), size, draw, exact=True, peak=peak)
        return lr[0].mul(peak).round().permute(1, 2, 0).numpy().astype(hr.dtype)


def _add_noise(each: Round, images: Tensor, noise: Tensor, settings: Settings, peak: int) -> Tensor:
    def field(n: int, grey: Tensor) -> Tensor:
        return torch.where(grey[:, None, None, None] > 0, noise[:, n, :1], noise[:, n])

    if each.shot_noise.probability:
        images = shot_noise(images, field(1, settings.grey_photons), settings.photons)
    if each.noise.probability:
        images = images + settings.noise[:, None, None, None] * field(0, settings.grey_noise)
    return round_to_peak(images, peak)


def _axes(settings: Settings, ratio: Tensor | float) -> tuple[Tensor, Tensor]:
    """The blur's standard deviations along its two axes in HR pixels, of which ``ratio`` make an LR pixel."""
    long = settings.sigma * settings.elongation.sqrt()
    return long * ratio, settings.sigma**2 / long.clamp(min=1e-6) * ratio


def round_to_peak(images: Tensor, peak: int) -> Tensor:
    """Images as the whole numbers of files hold them, of which ``peak`` is white."""
    return images.clamp(0, 1).mul(peak).round().div(peak)


def _larger(each: Round, size: Sequence[int]) -> tuple[int, int]:
    """The largest size that a round reduces an image to."""
    height, width = (max(math.ceil(n * each.size[1]), 1) for n in size)
    return height, width


def _side(each: Round, n_in: Sequence[int], size: Sequence[int]) -> int:
    """A side of the blur's kernels that holds three standard deviations of the widest."""
    sigma = bounds_of(each.blur.sigma)[1] * math.sqrt(bounds_of(each.blur.elongation)[1])
    return 2 * math.ceil(3 * sigma * max(a / b for a, b in zip(n_in, size, strict=True))) + 1
