"""Data box of the figure: the datasets and loaders of a run, for Lightning."""

import itertools
import logging
from collections.abc import Container, Sequence, Sized
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, default_collate

from linf.coordinates import Scale, read_scale
from linf.data.cache import ImageCache
from linf.data.crops import RandomScaleCrops, SRBatch, UndegradedBatch, smallest_crop
from linf.data.degradation import Degradation
from linf.data.given import given_pairs
from linf.data.layouts import ImageSet
from linf.data.paired import PairedCrops, training_pairs
from linf.data.pairs import ImagePair, ScaledImages, collate_pair
from linf.data.samplers import INITIAL_EPOCH, EpochSampler, ResumableLoader, batches_trained
from linf.data.shards import Shards, ShardSet
from linf.errors import UsageError, check_distinct
from linf.images.pixels import PixelFormat

log = logging.getLogger(__name__)


class SRDataModule(pl.LightningDataModule):
    """Random-scale crops for training, whole images at several scales for validation and test. The trainer must be made
    with ``use_distributed_sampler=False``, since the samplers here know the ranks.

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
        test_degradation: the same of the test images whose LR is made.
        shuffle_block: the number of images in a row that stay near each other in the order of samples, as those of a
            shard should, see `order_by_shards`; None for a full permutation.
        channels: C of the images; None for as many as the model has that is trained or tested.
        depth: see `PixelFormat`, as for value_range.
        cache_dir: see `ImageCache`, as for ``cache_limit``, its limit.

    Attributes:
        tested: keys of the test pairs to leave out, see `ScaledImages.key`.

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
            ("crop", crop, 1),
            ("patch_size", patch_size, 1),
            ("queries", queries, 1),
            ("repeat", repeat, 1),
            ("shuffle_block", shuffle_block, 1),
            ("val_crop", val_crop, 1),
            ("num_workers", num_workers, 0),
            ("batches_per_epoch", batches_per_epoch, 1),
            ("val_limit", val_limit, 1),
            ("test_limit", test_limit, 1),
        ):
            if value is not None and value < least:
                raise UsageError(f"{name} is {value}: give a whole number of at least {least}")
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
        self.shuffle_block = shuffle_block
        self.room: dict[str, Any] = {"cache_dir": cache_dir, "limit": cache_limit}
        self.degradation, self.test_degradation = (
            each if each and each.clean < 1 else None for each in (degradation, test_degradation)
        )
        if pairs and self.degradation is not None:
            raise UsageError(
                "data.pairs takes LR as it is given, and a degradation makes it: leave out one of them"
            )
        self.pairs = pairs
        self.crop, self.scale, self.scale_y, self.patch_size = crop, scale, scale_y, patch_size
        self.queries, self.window = queries, window
        self.repeat, self.batches_per_epoch = repeat, batches_per_epoch
        self.val_crop, self.val_limit = val_crop, val_limit
        self.test_limit, self.test_resize = test_limit, test_resize
        self._check_degradations()
        self.train_crops: RandomScaleCrops | PairedCrops | None = None
        self.val_pairs: ScaledImages | None = None
        self.test_pairs: list[ScaledImages] = []
        self.tested: Container[tuple[str, str, Scale]] = ()

    def _check_degradations(self) -> None:
        for each in (self.degradation, self.test_degradation):
            if each is not None:
                each.check(self.pixels.channels, self.pixels.peak)

    def _match_model(self) -> None:
        """Take as many channels as the model has, or refuse to; UsageError where both are given and differ."""
        task = getattr(self.trainer, "lightning_module", None)
        model = getattr(getattr(task, "model", None), "image_channels", 0)
        if model and self.own_channels not in (None, model):
            raise UsageError(
                f"data.channels is {self.own_channels}, and the model is for images of {model}: give the same to both"
            )
        if model and self.own_channels is None:
            self.pixels = replace(self.pixels, channels=model)
            self._check_degradations()

    def setup(self, stage: str | None = None) -> None:
        """Open the images of a stage: ``fit``, ``validate``, ``test`` or None for all.

        Raises:
            UsageError: the images are not those of the model.
        """
        self._match_model()
        if stage in (None, "fit") and self.train is not None and self.train_crops is None:
            self.train_crops = self._crops(self.train)
        if stage in (None, "fit", "validate") and self.val is not None and self.val_pairs is None:
            self.val_pairs = self._pairs(self.val, self.val_scales, self.val_limit, self.val_crop)
        if stage in (None, "test") and not self.test_pairs:
            self.test_pairs = [
                self._pairs(
                    *(p, self.test_scales, self.test_limit),
                    resize=self.test_resize,
                    degradation=self.test_degradation,
                )
                for p in self.test
            ]

    def _cached(self, paths: Sequence[Path], **given: Any) -> ImageCache:
        return ImageCache(paths, pixels=self.pixels, **self.room, **given)

    def _crops(self, images: ImageSet | ShardSet) -> RandomScaleCrops | PairedCrops:
        samples = (self.batches_per_epoch or 0) * self.batch_size * self._ranks()[1]

        def repeat(of: Sized) -> int:
            return max(self.repeat, -(-samples // len(of)))

        given: dict[str, Any] = {
            "crop": self.crop,
            "patch_size": self.patch_size,
            "queries": self.queries,
            "window": self.window,
            "seed": self.seed,
        }
        if self.pairs:
            if isinstance(images, ShardSet):
                raise UsageError(
                    "data.pairs takes given LR images, and shards hold none: leave out one of them"
                )
            cached = partial(self._cached, on_error="raise")
            pairs = training_pairs(images, cached, crop=self.crop, scale=self.scale, scale_y=self.scale_y)
            return PairedCrops(pairs, repeat=repeat(pairs), **given)
        smallest = smallest_crop(self.crop, self.scale, self.scale_y)
        cache: Shards | ImageCache
        if isinstance(images, ShardSet):
            whole = self.shuffle_block is not None
            cache = Shards(images.root, min_side=smallest, whole=whole, pixels=self.pixels, **self.room)
            nodes = self.trainer.num_nodes if self.trainer else 1
            cache.warn_if_short(self.batch_size * self._ranks()[1] // nodes)
        else:
            cache = self._cached(images.hr, min_side=smallest)
        return RandomScaleCrops(
            cache,
            scale=self.scale,
            scale_y=self.scale_y,
            repeat=repeat(cache),
            degradation=self.degradation,
            **given,
        )

    def _pairs(
        self,
        images: ImageSet,
        scales: Sequence[Scale],
        limit: int | None,
        crop: int | None = None,
        resize: Literal["pil", "matlab"] = "pil",
        degradation: Degradation | None = None,
    ) -> ScaledImages:
        def cached(paths: Sequence[Any]) -> ImageCache:
            return self._cached(paths[:limit], on_error="raise")

        pairs = {} if crop else given_pairs(images, scales, cached)
        lr, hr_at = ({s: pair[n] for s, pair in pairs.items()} for n in (1, 0))
        return ScaledImages(
            cached(images.hr), scales, lr, crop, images.name, resize, hr_at, degradation, self.seed
        )

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

    def _on_gpu(self) -> bool:
        """Whether batches go to a GPU; to pin the memory of others would open a CUDA context in a run on the CPU."""
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"

    def _sampler(self) -> EpochSampler:
        assert self.train_crops is not None
        rank, world_size = self._ranks()
        return EpochSampler(
            len(self.train_crops),
            seed=self.seed,
            batch_size=self.batch_size,
            rank=rank,
            world_size=world_size,
            batches=self.batches_per_epoch,
            position=partial(batches_trained, self.trainer),
            images=len(self.train_crops.cache),
            block=self.shuffle_block,
        )

    def train_dataloader(self) -> DataLoader[SRBatch | UndegradedBatch]:
        """This rank's share of each global batch: ``batch_size`` samples, whose LR may still be to be degraded.

        Raises:
            UsageError: there are no training images, or fewer samples than one global batch takes.
        """
        if self.train_crops is None:
            raise UsageError("no training images: set data.train")
        return ResumableLoader(
            self.train_crops,
            batch_size=self.batch_size,
            sampler=self._sampler(),
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=self._on_gpu(),
        )

    def val_dataloader(self) -> list[DataLoader[ImagePair]]:
        """This rank's validation images, one at a time, in one loader; none without a validation set.

        Raises:
            UsageError: there are fewer images than ranks.
        """
        if self.val_pairs is None:
            return []
        n, ranks = len(self.val_pairs), self._ranks()[1]
        if n < ranks:
            # Lightning skips evaluation on a rank without batches, for which the others would wait forever.
            raise UsageError(
                f"{n} validation images, counting each scale, cannot be shared among {ranks} ranks: use fewer "
                "devices, or validate on more images or scales"
            )
        return [self._image_loader(self.val_pairs, range(n))]

    def test_dataloader(self) -> DataLoader[ImagePair]:
        """This rank's test images of all datasets, one at a time, except those in ``self.tested``.

        Raises:
            UsageError: there are no test images.
        """
        if not self.test_pairs:
            raise UsageError("no test images: set data.test")
        keys = [pairs.key(i) for pairs in self.test_pairs for i in range(len(pairs))]
        left = [i for i, key in enumerate(keys) if key not in self.tested]
        return self._image_loader(ConcatDataset(self.test_pairs), left)

    def _image_loader(self, pairs: Dataset[ImagePair], indices: Sequence[int]) -> DataLoader[ImagePair]:
        """Deal the pairs out to the ranks in turn, unpadded: every image is scored exactly once."""
        rank, world_size = self._ranks()
        return DataLoader(
            Subset(pairs, indices[rank::world_size]),
            batch_size=1,
            collate_fn=collate_pair,
            num_workers=self.num_workers,
            pin_memory=self._on_gpu(),
        )

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move a batch, but not the settings of a degradation, by which the host decides."""
        moved = super().transfer_batch_to_device(batch, device, dataloader_idx)
        if isinstance(batch, UndegradedBatch):
            return moved._replace(draw=moved.draw._replace(settings=batch.draw.settings))
        return moved

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Degrade the LR crops of a training batch, on its device."""
        if self.degradation is None or not isinstance(batch, UndegradedBatch):
            return batch
        return batch.degraded(self.degradation, self.pixels.peak)

    def initial_batches(self, n: int) -> list[SRBatch]:
        """``n`` global batches that training does not see, the same on every rank, to initialise weights from.

        Raises:
            UsageError: there are no training images.
        """
        self.setup("fit")
        if self.train_crops is None:
            raise UsageError("no training images to initialise weights from: set data.train")
        crops, ranks = self.train_crops, self._ranks()[1]
        start = INITIAL_EPOCH * len(crops)
        order = np.random.default_rng((self.seed, INITIAL_EPOCH)).permutation(len(crops))
        chosen = iter(itertools.cycle(order.tolist()))
        return [
            self.on_after_batch_transfer(
                default_collate(
                    [crops[start + i] for i in itertools.islice(chosen, self.batch_size * ranks)]
                ),
                0,
            )
            for _ in range(n)
        ]

    def state_dict(self) -> dict[str, int]:
        """What the order of samples depends on beside the trainer's own progress, for the checkpoint."""
        if self.train_crops is None:
            return {}
        sampler = self._sampler()
        order = {"samples": sampler.length, "global_batch": sampler.global_batch, "seed": self.seed}
        return order | {"shuffle_block": self.shuffle_block or 0}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Warn if the resumed run sees its samples in another order than the interrupted one did."""
        here = self.state_dict()
        changed = [f"{k} {v} → {here[k]}" for k, v in state_dict.items() if k in here and here[k] != v]
        if changed:
            log.warning(
                "the resumed run has another order of samples than the interrupted one: %s",
                ", ".join(changed),
            )
