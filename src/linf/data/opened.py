"""Data box of the figure: the settings of a run's images, and the images that they open, for Lightning."""

import logging
from collections.abc import Sequence, Sized
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl

from linf.coordinates import Scale, read_scale
from linf.data.cache import ImageCache
from linf.data.compressed import warn_if_compressed
from linf.data.crops import RandomScaleCrops, smallest_crop
from linf.data.degradation import Degradation
from linf.data.given import given_pairs
from linf.data.layouts import ImageSet
from linf.data.paired import PairedCrops, training_pairs
from linf.data.pairs import ScaledImages
from linf.data.shards import Shards, ShardSet
from linf.errors import UsageError, check_distinct, check_least
from linf.images.pixels import PixelFormat

log = logging.getLogger(__name__)


class OpenedImages(pl.LightningDataModule):
    """The images of a run, opened as `setup` is told.

    Args:
        train: images or shards to crop from, or None. Unreadable and too small images are dropped with a warning each.
        val: images to validate on, or None. Here and in ``test`` an unreadable image is an error.
        test: images to test on: one dataset, several, or None.
        root: the folder or folders that the images above came from, for the run's record; nothing is read from it.
        batch_size: the number of samples per rank and batch.
        num_workers: the number of loading processes per rank and loader, which does not change the samples.
        pairs: whether training takes LR crops from the given LR images of ``train``, rather than making them from HR.
        seed: decides order, crops, scales and queries.
        crop: see `RandomScaleCrops`, as for scale, scale_y, patch_size, queries, window and repeat.
        batches_per_epoch: the number of global batches in an epoch, for which ``repeat`` is raised as needed; None
            for as many as ``repeat`` gives.
        val_scales: see `ScaledImages`, as for a scale for each axis.
        val_crop: HR pixels a side of a central crop, None for whole images.
        val_limit: validate on only the first so many images.
        test_scales: see `ScaledImages`.
        test_limit: test on only the first so many images of each dataset.
        test_resize: see `ScaledImages`; used where no LR image is given.
        degradation: how LR crops of training differ from clean ones, on the training's device; None for not at all.
        val_degradation: the same of the validation images whose LR is made; likewise ``test_degradation``.
        shuffle_block: the number of images in a row that stay near each other in the order of samples, as those of a
            shard should, see `order_by_shards`; None for a full permutation.
        channels: C of the images; None for as many as the model has that is trained or tested.
        depth: see `PixelFormat`, as for value_range.
        cache_dir: see `ImageCache`, as for ``cache_limit``, its limit.

    Attributes:
        train_crops: what there is to train on, once it is opened.
        val_pairs: what there is to validate on, likewise.
        test_pairs: what there is to test on, a member for each dataset, likewise.

    Raises:
        UsageError: a number is out of range, or two scales print alike. `setup` raises those of the datasets.
    """

    def __init__(
        self,
        train: ImageSet | ShardSet | None = None,
        val: ImageSet | None = None,
        test: ImageSet | Sequence[ImageSet] | None = None,
        *,
        root: str | Sequence[str] | None = None,
        batch_size: int = 16,
        num_workers: int = 0,
        pairs: bool = False,
        seed: int = 0,
        crop: int = 48,
        scale: Sequence[float] = (1.0, 4.0),
        scale_y: Sequence[float] | None = None,
        patch_size: int = 1,
        queries: int | None = 2304,
        window: bool = False,
        repeat: int = 1,
        batches_per_epoch: int | None = None,
        val_scales: Sequence[float | Sequence[float]] = (2, 3, 4),
        val_crop: int | None = None,
        val_limit: int | None = None,
        test_scales: Sequence[float | Sequence[float]] = (2, 3, 4),
        test_limit: int | None = None,
        test_resize: Literal["pil", "matlab"] = "pil",
        degradation: Degradation | None = None,
        val_degradation: Degradation | None = None,
        test_degradation: Degradation | None = None,
        shuffle_block: int | None = None,
        channels: int | None = 3,
        depth: int = 8,
        value_range: Sequence[float] | None = None,
        cache_dir: str | None = None,
        cache_limit: float | None = None,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("val_crop", val_crop, 1),
            ("num_workers", num_workers, 0),
            ("batches_per_epoch", batches_per_epoch, 1),
            ("val_limit", val_limit, 1),
            ("test_limit", test_limit, 1),
            ("crop", crop, 1),
            ("patch_size", patch_size, 1),
            ("queries", queries, 1),
            ("repeat", repeat, 1),
            ("shuffle_block", shuffle_block, 1),
        ):
            check_least(name, value, least)
        self.val_scales, self.test_scales = ([read_scale(s) for s in of] for of in (val_scales, test_scales))
        if cache_limit is not None and not cache_limit > 0:
            raise UsageError(f"cache_limit is {cache_limit}: give GB above 0, or null")
        for name, values in (("val_scales", self.val_scales), ("test_scales", self.test_scales)):
            check_distinct(name, values)
        self.root, self.train, self.val = root, train, val
        # One of several test sets may have fewer images than there are ranks.
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self.test = (test,) if isinstance(test, ImageSet) else tuple(test or ())
        self.batch_size, self.num_workers, self.seed = batch_size, num_workers, seed
        self.own_channels = channels
        limits: Any = None if value_range is None else tuple(value_range)
        self.pixels = PixelFormat(3 if channels is None else channels, depth, limits)
        self.cache_dir, self.cache_limit = cache_dir, cache_limit
        self.degradation, self.val_degradation, self.test_degradation = (
            each if each and each.clean < 1 else None
            for each in (degradation, val_degradation, test_degradation)
        )
        if pairs and self.degradation is not None:
            raise UsageError(
                "data.pairs takes LR as it is given, and a degradation makes it: set "
                "data/degradation=bicubic, or data.pairs=false"
            )
        self.pairs, self.crop, self.scale, self.scale_y = pairs, crop, scale, scale_y
        self.patch_size, self.queries, self.window = patch_size, queries, window
        self.repeat, self.batches_per_epoch, self.shuffle_block = repeat, batches_per_epoch, shuffle_block
        self.val_crop, self.val_limit = val_crop, val_limit
        self.test_limit, self.test_resize = test_limit, test_resize
        self._check_degradations()
        self.train_crops: RandomScaleCrops | PairedCrops | None = None
        self.val_pairs: ScaledImages | None = None
        self.test_pairs: list[ScaledImages] = []

    def _check_degradations(self) -> None:
        for each in filter(None, (self.degradation, self.val_degradation, self.test_degradation)):
            each.check(self.pixels.channels, self.pixels.peak)

    def _match_model(self, stage: str | None) -> None:
        """Take the model's number of channels and its black and white where the data do not say them, and tell a model
        that is trained what is black and white here; UsageError where the channels or the patches of both differ.
        """
        model = getattr(getattr(self.trainer, "lightning_module", None), "model", None)
        channels = getattr(model, "image_channels", 0)
        if channels and self.own_channels not in (None, channels):
            raise UsageError(
                f"data.channels is {self.own_channels}, and the model is for images of {channels}: give both the same"
            )
        if channels and self.own_channels is None:
            self.pixels = replace(self.pixels, channels=channels)
            self._check_degradations()
        if model is not None and stage == "fit":
            model.value_range = self.pixels.value_range
            if self.patch_size != (side := getattr(model, "patch_size", 1)):  # LIIF and LTE have none.
                raise UsageError(
                    f"data.patch_size is {self.patch_size}, and the model is for patches of {side}×{side}: leave it out"
                )
        elif self.pixels.value_range is None and (known := getattr(model, "value_range", None)):
            self.pixels = replace(self.pixels, value_range=known)
            log.info("values: %g is black and %g white, as in the model's training", *known)

    def setup(self, stage: str | None = None) -> None:
        """Open the images of a stage: ``fit``, ``validate``, ``test`` or None for all.

        Raises:
            UsageError: the images are not those of the model.
        """
        self._match_model(stage)
        if stage in (None, "fit") and self.train is not None and self.train_crops is None:
            self.train_crops = self._open_crops(self.train)
        if stage in (None, "fit", "validate") and self.val is not None and self.val_pairs is None:
            self.val_pairs = self._open_pairs(
                *(self.val, self.val_scales, self.val_limit, self.val_degradation), crop=self.val_crop
            )
        if stage in (None, "test") and not self.test_pairs:
            settings = self.test_scales, self.test_limit, self.test_degradation
            self.test_pairs = [
                self._open_pairs(images, *settings, resize=self.test_resize) for images in self.test
            ]

    @property
    def _storage(self) -> dict[str, Any]:
        """What `ImageCache` and `Shards` are told of all images alike."""
        return {"pixels": self.pixels, "cache_dir": self.cache_dir, "limit": self.cache_limit}

    def _open_crops(self, images: ImageSet | ShardSet) -> RandomScaleCrops | PairedCrops:
        """Crops to train on, with images repeated until there are enough for `batches_per_epoch`."""
        batch = self.batch_size * self._ranks()[1]

        def repeat(of: Sized) -> int:
            return max(self.repeat, -(-(self.batches_per_epoch or 0) * batch // len(of)))

        scales: dict[str, Any] = {"scale": self.scale, "scale_y": self.scale_y}
        given: dict[str, Any] = {"crop": self.crop, "patch_size": self.patch_size, "queries": self.queries}
        given |= {"window": self.window, "seed": self.seed}
        if self.pairs:
            if isinstance(images, ShardSet):
                raise UsageError(
                    "data.pairs takes given LR images, and shards hold none: leave out one of them"
                )
            cached = partial(ImageCache, **self._storage, on_error="raise")
            pairs = training_pairs(images, cached, crop=self.crop, **scales)
            return PairedCrops(pairs, repeat=repeat(pairs), **given)
        smallest = smallest_crop(self.crop, **scales)
        cache: Shards | ImageCache
        if isinstance(images, ShardSet):
            whole = self.shuffle_block is not None
            cache = Shards(images.root, min_side=smallest, whole=whole, **self._storage)
            cache.warn_if_short(batch // (self.trainer.num_nodes if self.trainer else 1))
        else:
            warn_if_compressed(images.hr)
            cache = ImageCache(images.hr, min_side=smallest, **self._storage)
        return RandomScaleCrops(cache, repeat=repeat(cache), degradation=self.degradation, **scales, **given)

    def _open_pairs(
        self,
        images: ImageSet,
        scales: Sequence[Scale],
        limit: int | None,
        degradation: Degradation | None,
        crop: int | None = None,
        resize: Literal["pil", "matlab"] = "pil",
    ) -> ScaledImages:
        """Images to validate or test on; ``limit`` takes only the first so many, and `ScaledImages` has the rest."""

        def cached(paths: Sequence[Path]) -> ImageCache:
            return ImageCache(paths[:limit], on_error="skip" if images.skips else "raise", **self._storage)

        pairs = {} if crop else given_pairs(images, scales, cached)
        lr, hr_at = ({s: pair[n] for s, pair in pairs.items()} for n in (1, 0))
        hr = cached(images.hr)
        return ScaledImages(hr, scales, lr, crop, images.name, resize, hr_at, degradation, self.seed)

    def _ranks(self) -> tuple[int, int]:
        """This rank and the number of ranks."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
