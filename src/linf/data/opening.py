"""Data box of the figure: opening images, as crops to train on and as pairs to validate and test on."""

from collections.abc import Sequence, Sized
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from linf.coordinates import Scale
from linf.data.cache import ImageCache
from linf.data.crops import RandomScaleCrops, smallest_crop
from linf.data.degradation import Degradation
from linf.data.given import given_pairs
from linf.data.layouts import ImageSet
from linf.data.paired import PairedCrops, training_pairs
from linf.data.pairs import ScaledImages
from linf.data.shards import Shards, ShardSet
from linf.errors import UsageError
from linf.images.pixels import PixelFormat


@dataclass(frozen=True)
class Storage:
    """How images are opened.

    Attributes:
        pixels: what images are.
        cache_dir: see `ImageCache`, as for limit.
        limit: of the cache in GB.
    """

    pixels: PixelFormat
    cache_dir: str | None = None
    limit: float | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of `ImageCache` and `Shards`."""
        return {"pixels": self.pixels, "cache_dir": self.cache_dir, "limit": self.limit}

    def cache(self, paths: Sequence[Path], **given: Any) -> ImageCache:
        """Decode images; see `ImageCache`."""
        return ImageCache(paths, **self.settings, **given)


@dataclass(frozen=True)
class CropSettings:
    """What training crops; see `linf.data.datamodule.SRDataModule` for each setting."""

    pairs: bool
    crop: int
    scale: Sequence[float]
    scale_y: Sequence[float] | None
    patch_size: int
    queries: int | None
    window: bool
    repeat: int
    seed: int
    degradation: Degradation | None
    shuffle_block: int | None

    def __post_init__(self) -> None:
        for name in ("crop", "patch_size", "queries", "repeat", "shuffle_block"):
            check_least(name, getattr(self, name), 1)
        if self.pairs and self.degradation is not None:
            raise UsageError(
                "data.pairs takes LR as it is given, and a degradation makes it: set "
                "data/degradation=bicubic, or data.pairs=false"
            )

    @property
    def foreign_lr(self) -> bool:
        """Whether some LR is not the bicubic reduction of its HR."""
        return self.pairs or self.degradation is not None


def check_least(name: str, value: int | None, least: int) -> None:
    """Refuse a setting below its least value; UsageError says which."""
    if value is not None and value < least:
        raise UsageError(f"{name} is {value}: give a whole number of at least {least}")


def open_crops(
    images: ImageSet | ShardSet, storage: Storage, settings: CropSettings, samples: int, batch: int
) -> RandomScaleCrops | PairedCrops:
    """Open images or shards to train on.

    Args:
        images: those to crop from.
        storage: how they are opened.
        settings: what is cropped.
        samples: that there are to be at least, for which images are repeated.
        batch: samples of a batch on one machine, for a warning.

    Raises:
        UsageError: the images cannot be trained on with these settings.
    """

    def repeat(of: Sized) -> int:
        return max(settings.repeat, -(-samples // len(of)))

    names = ("crop", "patch_size", "queries", "window", "seed")
    given: dict[str, Any] = {name: getattr(settings, name) for name in names}
    scales: dict[str, Any] = {"scale": settings.scale, "scale_y": settings.scale_y}
    if settings.pairs:
        if isinstance(images, ShardSet):
            raise UsageError("data.pairs takes given LR images, and shards hold none: leave out one of them")
        cached = partial(storage.cache, on_error="raise")
        pairs = training_pairs(images, cached, crop=settings.crop, **scales)
        return PairedCrops(pairs, repeat=repeat(pairs), **given)
    smallest = smallest_crop(settings.crop, settings.scale, settings.scale_y)
    cache: Shards | ImageCache
    if isinstance(images, ShardSet):
        whole = settings.shuffle_block is not None
        cache = Shards(images.root, min_side=smallest, whole=whole, **storage.settings)
        cache.warn_if_short(batch)
    else:
        cache = storage.cache(images.hr, min_side=smallest)
    return RandomScaleCrops(cache, repeat=repeat(cache), degradation=settings.degradation, **scales, **given)


def open_pairs(
    images: ImageSet,
    storage: Storage,
    scales: Sequence[Scale],
    *,
    seed: int,
    limit: int | None = None,
    crop: int | None = None,
    resize: Literal["pil", "matlab"] = "pil",
    degradation: Degradation | None = None,
) -> ScaledImages:
    """Open images to validate or test on; ``limit`` takes only the first so many, and `ScaledImages` has the rest."""

    def cached(paths: Sequence[Any]) -> ImageCache:
        return storage.cache(paths[:limit], on_error="skip" if images.skips else "raise")

    pairs = {} if crop else given_pairs(images, scales, cached)
    lr, hr_at = ({s: pair[n] for s, pair in pairs.items()} for n in (1, 0))
    return ScaledImages(cached(images.hr), scales, lr, crop, images.name, resize, hr_at, degradation, seed)
