"""Data box of the figure: the settings of a run's images, and the images that they open, for Lightning."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import pytorch_lightning as pl

from linf.coordinates import read_scale
from linf.data.crops import RandomScaleCrops
from linf.data.degradation import Degradation
from linf.data.layouts import ImageSet
from linf.data.opening import CropSettings, Storage, check_least, open_crops, open_pairs
from linf.data.paired import PairedCrops
from linf.data.pairs import ScaledImages
from linf.data.shards import ShardSet
from linf.errors import UsageError, check_distinct
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
        ):
            check_least(name, value, least)
        self.val_scales, self.test_scales = ([read_scale(s) for s in of] for of in (val_scales, test_scales))
        if cache_limit is not None and not cache_limit > 0:
            raise UsageError(f"cache_limit is {cache_limit}: give GB above 0, or null")
        for name, values in (("val_scales", self.val_scales), ("test_scales", self.test_scales)):
            check_distinct(name, values)
        self.root = root
        # One of several test sets may have fewer images than there are ranks.
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self.train, self.val = train, val
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
        self.crops = CropSettings(
            pairs=pairs,
            crop=crop,
            scale=scale,
            scale_y=scale_y,
            patch_size=patch_size,
            queries=queries,
            window=window,
            repeat=repeat,
            seed=seed,
            degradation=self.degradation,
            shuffle_block=shuffle_block,
        )
        self.window, self.batches_per_epoch = window, batches_per_epoch
        self.val_crop, self.val_limit = val_crop, val_limit
        self.test_limit, self.test_resize = test_limit, test_resize
        self._check_degradations()
        self.train_crops: RandomScaleCrops | PairedCrops | None = None
        self.val_pairs: ScaledImages | None = None
        self.test_pairs: list[ScaledImages] = []

    def _check_degradations(self) -> None:
        for each in (self.degradation, self.val_degradation, self.test_degradation):
            if each is not None:
                each.check(self.pixels.channels, self.pixels.peak)

    def _match_model(self, stage: str | None) -> None:
        """Take the model's number of channels and its black and white where the data do not say them, and tell a model
        that is trained what is black and white here; UsageError where both say the channels and differ.
        """
        model = getattr(getattr(self.trainer, "lightning_module", None), "model", None)
        channels = getattr(model, "image_channels", 0)
        if channels and self.own_channels not in (None, channels):
            raise UsageError(
                f"data.channels is {self.own_channels}, and the model is for images of {channels}: "
                "give the same to both"
            )
        if channels and self.own_channels is None:
            self.pixels = replace(self.pixels, channels=channels)
            self._check_degradations()
        known = getattr(model, "value_range", None)
        if model is not None and stage == "fit":
            model.value_range = self.pixels.value_range
        elif known and self.pixels.value_range is None:
            self.pixels = replace(self.pixels, value_range=known)
            log.info("values: %g is black and %g white, as in the model's training", *known)

    def setup(self, stage: str | None = None) -> None:
        """Open the images of a stage: ``fit``, ``validate``, ``test`` or None for all.

        Raises:
            UsageError: the images are not those of the model.
        """
        self._match_model(stage)
        storage = Storage(self.pixels, self.cache_dir, self.cache_limit)
        if stage in (None, "fit") and self.train is not None and self.train_crops is None:
            batch = self.batch_size * self._ranks()[1]
            nodes = self.trainer.num_nodes if self.trainer else 1
            samples = (self.batches_per_epoch or 0) * batch
            self.train_crops = open_crops(self.train, storage, self.crops, samples, batch // nodes)
        if stage in (None, "fit", "validate") and self.val is not None and self.val_pairs is None:
            self.val_pairs = open_pairs(
                *(self.val, storage, self.val_scales),
                seed=self.seed,
                limit=self.val_limit,
                crop=self.val_crop,
                degradation=self.val_degradation,
            )
        if stage in (None, "test") and not self.test_pairs:
            self.test_pairs = [
                open_pairs(
                    *(images, storage, self.test_scales),
                    seed=self.seed,
                    limit=self.test_limit,
                    resize=self.test_resize,
                    degradation=self.test_degradation,
                )
                for images in self.test
            ]

    def describe_test(self) -> dict[str, Any]:
        """Where the LR images of the test images come from, and what the numbers in the files mean, for the record."""
        return {
            "resize": self.test_resize,
            "severity": self.test_degradation.severity() if self.test_degradation else {},
            "pixels": self.pixels.settings or None,
            "lr": {pairs.name: pairs.describe_lr() for pairs in self.test_pairs},
        }

    def _ranks(self) -> tuple[int, int]:
        """This rank and the number of ranks."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
