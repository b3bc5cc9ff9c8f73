"""The data side of a run: datasets and loaders for Lightning, and the order in which samples are seen."""

import itertools
import logging
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from linf.data.cache import ImageCache
from linf.data.pairs import (
    ImagePair,
    RandomScaleCrops,
    ScaledImages,
    SRBatch,
    collate_pair,
    smallest_crop,
)
from linf.data.sources import ImageSet
from linf.errors import UsageError

log = logging.getLogger(__name__)

INITIAL_EPOCH = 2**32
"""The epoch whose samples initialise weights; training never gets there."""


class EpochSampler(Sampler[int]):
    """One endless sequence of global batches, of which each rank takes its slice.

    Batch ``t`` of a training run, with ``e, b = divmod(t, batches)``, is the ``b``-th piece of a permutation
    of ``range(length)`` that ``(seed, e)`` decides; what is left over at its end is dropped. Every iteration
    starts at the batch that ``position()`` names, so a resumed run goes on with the very next one; and the
    ranks together see the same samples at a step whatever their number, if the global batch is equal.

    Args:
        length: samples in an epoch.
        batches: global batches in an epoch; default as many as ``length`` gives.
        seed: of the permutations.
        batch_size: samples per rank and batch.
        rank: which slice.
        world_size: how many slices.
        position: how many batches have been trained on.

    Yields:
        ``e · length + index`` with ``index`` in [0, length): ``batches · batch_size`` of them.
    """

    def __init__(
        self,
        length: int,
        *,
        seed: int,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        batches: int | None = None,
        position: Callable[[], int] = lambda: 0,
    ) -> None:
        self.global_batch = batch_size * world_size
        most = length // self.global_batch
        self.batches = most if batches is None else batches
        if not 1 <= self.batches <= most:
            raise UsageError(
                f"{length} samples an epoch do not fill {max(self.batches, 1)} batches of "
                f"{world_size} × {batch_size}: raise repeat, set batches_per_epoch, or lower batch_size"
            )
        self.length, self.seed, self.position = length, seed, position
        self.mine = slice(rank * batch_size, (rank + 1) * batch_size)

    def __len__(self) -> int:
        return self.batches * (self.mine.stop - self.mine.start)

    def __iter__(self) -> Iterator[int]:
        return itertools.islice(self._samples_from(self.position()), len(self))

    def _samples_from(self, batch: int) -> Iterator[int]:
        first_epoch, first = divmod(batch, self.batches)
        for epoch in itertools.count(first_epoch):
            order = np.random.default_rng((self.seed, epoch)).permutation(self.length)
            pieces = order[: self.batches * self.global_batch].reshape(self.batches, self.global_batch)
            for index in pieces[first:, self.mine].ravel().tolist():
                yield epoch * self.length + index
            first = 0


class ResumableLoader(DataLoader[SRBatch]):
    """Tells Lightning not to warn of a resume in mid-epoch: the sampler asks the trainer for the position."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing of its own: the trainer's progress is the state."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to load."""


class _Chosen(Dataset[ImagePair]):
    """Some pairs of several data sets."""

    def __init__(self, pairs: Sequence[tuple[ScaledImages, int]]) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, i: int) -> ImagePair:
        dataset, index = self.pairs[i]
        return dataset[index]


class SRDataModule(pl.LightningDataModule):
    """Random-scale crops for training, whole images at several scales for validation and test.

    Make the trainer with ``use_distributed_sampler=False``: the samplers here know the ranks.

    Args:
        train: images to crop from, or None. Unreadable and too small ones are dropped with a warning each.
        val: images to validate on, or None. Here and in ``test`` an unreadable image is an error.
        test: images to test on: one dataset or several, which then give one loader each.
        root: the folder that the images above came from, for the run's record; nothing is read by it.
        batch_size: samples per rank.
        num_workers: loading processes per rank and loader; they change no sample.
        seed: of order, crops, scales and queries.
        crop: see `RandomScaleCrops`, as for scale, patch_size, queries, window and repeat.
        batches_per_epoch: global batches in an epoch, for which ``repeat`` is raised as needed; None for as
            many as ``repeat`` gives.
        val_scales: see `ScaledImages`.
        val_crop: HR pixels a side of a central crop, None for whole images.
        val_limit: only the first so many images.
        test_scales: see `ScaledImages`.
        test_limit: only the first so many images of each dataset.
        test_resize: see `ScaledImages`; where no LR image is given.
        cache_dir: see `ImageCache`.

    Attributes:
        tested: keys of test pairs to leave out, see `ScaledImages.key`.

    Raises:
        UsageError: from the parts above, in `setup`.
    """

    def __init__(
        self,
        train: ImageSet | None = None,
        val: ImageSet | None = None,
        test: ImageSet | Sequence[ImageSet] | None = None,
        *,
        root: str | None = None,
        batch_size: int = 16,
        num_workers: int = 0,
        seed: int = 0,
        crop: int = 48,
        scale: Sequence[float] = (1.0, 4.0),
        patch_size: int = 1,
        queries: int | None = 2304,
        window: bool = False,
        repeat: int = 1,
        batches_per_epoch: int | None = None,
        val_scales: Sequence[float] = (2, 3, 4),
        val_crop: int | None = None,
        val_limit: int | None = None,
        test_scales: Sequence[float] = (2, 3, 4),
        test_limit: int | None = None,
        test_resize: Literal["pil", "matlab"] = "pil",
        cache_dir: str | None = None,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("num_workers", num_workers, 0),
            ("batches_per_epoch", batches_per_epoch, 1),
            ("val_limit", val_limit, 1),
            ("test_limit", test_limit, 1),
        ):
            if value is not None and value < least:
                raise UsageError(f"{name} is {value}: give a whole number of at least {least}")
        self.root = root
        # One of several test sets may have fewer images than there are ranks.
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self.train, self.val = train, val
        self.test = (test,) if isinstance(test, ImageSet) else tuple(test or ())
        self.batch_size, self.num_workers, self.seed, self.cache_dir = (
            batch_size,
            num_workers,
            seed,
            cache_dir,
        )
        self.crop, self.scale, self.patch_size, self.queries = crop, scale, patch_size, queries
        self.window, self.repeat, self.batches_per_epoch = window, repeat, batches_per_epoch
        self.val_scales, self.val_crop, self.val_limit = val_scales, val_crop, val_limit
        self.test_scales, self.test_limit, self.test_resize = test_scales, test_limit, test_resize
        self.train_crops: RandomScaleCrops | None = None
        self.val_pairs: ScaledImages | None = None
        self.test_pairs: list[ScaledImages] = []
        self.tested: Container[tuple[str, str, float]] = ()

    def setup(self, stage: str | None = None) -> None:
        """Open the images of a stage: ``fit``, ``validate``, ``test`` or None for all."""
        if stage in (None, "fit") and self.train is not None and self.train_crops is None:
            self.train_crops = self._crops(self.train)
        if stage in (None, "fit", "validate") and self.val is not None and self.val_pairs is None:
            self.val_pairs = self._pairs(self.val, self.val_scales, self.val_limit, self.val_crop)
        if stage in (None, "test") and not self.test_pairs:
            self.test_pairs = [
                self._pairs(p, self.test_scales, self.test_limit, resize=self.test_resize) for p in self.test
            ]

    def _crops(self, images: ImageSet) -> RandomScaleCrops:
        cache = ImageCache(images.hr, min_side=smallest_crop(self.crop, self.scale), cache_dir=self.cache_dir)
        samples = (self.batches_per_epoch or 0) * self.batch_size * self._ranks()[1]
        return RandomScaleCrops(
            cache,
            crop=self.crop,
            scale=self.scale,
            patch_size=self.patch_size,
            queries=self.queries,
            window=self.window,
            repeat=max(self.repeat, -(-samples // len(cache))),
            seed=self.seed,
        )

    def _pairs(
        self,
        images: ImageSet,
        scales: Sequence[float],
        limit: int | None,
        crop: int | None = None,
        resize: Literal["pil", "matlab"] = "pil",
    ) -> ScaledImages:
        def cached(paths: Sequence[Any]) -> ImageCache:
            return ImageCache(paths[:limit], on_error="raise", cache_dir=self.cache_dir)

        given = {} if crop else {s: cached(paths) for s, paths in images.lr.items() if s in scales}
        return ScaledImages(cached(images.hr), scales, given, crop, images.name, resize)

    def _ranks(self) -> tuple[int, int]:
        """This rank and the number of ranks."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _batches_trained(self) -> int:
        """Batches trained on since the run began, over all resumes.

        Of the counters that Lightning restores, `total.processed` alone is exact wherever the checkpoint was
        taken: in mid-epoch, after validation, at an epoch's end, on an exception.
        """
        if self.trainer is None:
            return 0
        return self.trainer.fit_loop.epoch_loop.batch_progress.state_dict()["total"]["processed"]

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
            position=self._batches_trained,
        )

    def train_dataloader(self) -> DataLoader[SRBatch]:
        """This rank's share of each global batch: `SRBatch` of ``batch_size`` samples.

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
            pin_memory=torch.cuda.is_available(),
        )

    def val_dataloader(self) -> list[DataLoader[ImagePair]]:
        """This rank's validation images, one at a time; no loader where there are none."""
        pairs = [] if self.val_pairs is None else [(self.val_pairs, i) for i in range(len(self.val_pairs))]
        if 0 < len(pairs) < self._ranks()[1]:
            # Lightning skips evaluation on a rank without batches, for which the others would wait forever.
            raise UsageError(
                f"{len(pairs)} validation images, counting each scale, cannot be shared among {self._ranks()[1]} "
                "ranks: use fewer devices, or validate on more images or scales"
            )
        return [self._image_loader(pairs)] if pairs else []

    def test_dataloader(self) -> DataLoader[ImagePair]:
        """This rank's test images of all data sets, one at a time, but for those in ``self.tested``."""
        pairs = [(pairs, i) for pairs in self.test_pairs for i in range(len(pairs))]
        return self._image_loader([(pairs, i) for pairs, i in pairs if pairs.key(i) not in self.tested])

    def _image_loader(self, pairs: list[tuple[ScaledImages, int]]) -> DataLoader[ImagePair]:
        """Deal the pairs out to the ranks in turn, unpadded: every image is scored exactly once."""
        rank, world_size = self._ranks()
        return DataLoader(
            _Chosen(pairs[rank::world_size]),
            batch_size=1,
            collate_fn=collate_pair,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
        )

    def initial_batches(self, n: int) -> list[SRBatch]:
        """``n`` global batches that training does not see, the same on every rank, to initialise weights from."""
        self.setup("fit")
        if self.train_crops is None:
            raise UsageError("no training images to initialise weights from: set data.train")
        crops, ranks = self.train_crops, self._ranks()[1]
        start = INITIAL_EPOCH * len(crops)
        order = np.random.default_rng((self.seed, INITIAL_EPOCH)).permutation(len(crops))
        chosen = iter(itertools.cycle(order.tolist()))
        return [
            default_collate([crops[start + i] for i in itertools.islice(chosen, self.batch_size * ranks)])
            for _ in range(n)
        ]

    def state_dict(self) -> dict[str, int]:
        """What the order of samples depends on, beside the trainer's own progress."""
        if self.train_crops is None:
            return {}
        sampler = self._sampler()
        return {"samples": sampler.length, "global_batch": sampler.global_batch, "seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Warn where the resumed run cannot go on in the order in which the interrupted one began."""
        here = self.state_dict()
        changed = [f"{k} {v} → {here[k]}" for k, v in state_dict.items() if k in here and here[k] != v]
        if changed:
            log.warning(
                "the resumed run has another order of samples than the interrupted one: %s",
                ", ".join(changed),
            )
