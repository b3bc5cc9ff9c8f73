"""Data box of the figure: the datasets and loaders of a run, for Lightning."""

import itertools
import logging
from collections.abc import Container, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, default_collate

from linf.coordinates import Scale
from linf.data.crops import SRBatch, UndegradedBatch
from linf.data.layouts import ImageSet
from linf.data.opened import OpenedImages
from linf.data.pairs import ImagePair, collate_pair
from linf.data.samplers import INITIAL_EPOCH, EpochSampler, ResumableLoader, batches_trained
from linf.data.workers import SteadyLoader, worker_settings
from linf.errors import UsageError

log = logging.getLogger(__name__)

INITIAL_PATCHES = 2**18
"""Patches that are enough to initialise weights from: a covariance of 27×27 is known to 0.3 % by them."""


class SRDataModule(OpenedImages):
    """Random-scale crops for training, whole images at several scales for validation and test. The trainer must be made
    with ``use_distributed_sampler=False``, since the samplers here know the ranks. `OpenedImages` says which arguments
    there are.

    Attributes:
        tested: keys of the test pairs to leave out, see `ScaledImages.key`.
    """

    tested: Container[tuple[str, str, Scale]] = ()

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
            **worker_settings(self.num_workers),
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
        return SteadyLoader(
            Subset(pairs, indices[rank::world_size]),
            batch_size=1,
            collate_fn=collate_pair,
            **worker_settings(self.num_workers),
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
        """``n`` batches that training does not see, the same on every rank, to initialise weights from: global ones, or
        their first samples if they have more than `INITIAL_PATCHES` patches together.

        Raises:
            UsageError: there are no training images.
        """
        self.setup("fit")
        if self.train_crops is None:
            raise UsageError("no training images to initialise weights from: set data.train")
        crops, ranks = self.train_crops, self._ranks()[1]
        samples = min(self.batch_size * ranks, max(INITIAL_PATCHES // (n * crops.patches.queries), 1))
        start = INITIAL_EPOCH * len(crops)
        order = np.random.default_rng((self.seed, INITIAL_EPOCH)).permutation(len(crops))
        chosen = iter(itertools.cycle(order.tolist()))
        return [
            self.on_after_batch_transfer(
                default_collate([crops[start + i] for i in itertools.islice(chosen, samples)]), 0
            )
            for _ in range(n)
        ]

    @property
    def foreign_lr(self) -> bool:
        """Whether some LR of the training is not the bicubic reduction of its HR."""
        return self.pairs or self.degradation is not None

    def describe_test(self) -> dict[str, Any]:
        """Where the LR images of the test images come from, and what the numbers in the files mean, for the record."""
        return {
            "resize": self.test_resize,
            "severity": self.test_degradation.severity() if self.test_degradation else {},
            "pixels": self.pixels.settings or None,
            "lr": {pairs.name: pairs.describe_lr() for pairs in self.test_pairs},
        }

    def state_dict(self) -> dict[str, Any]:
        """What the samples and their order depend on beside the trainer's own progress, for the checkpoint."""
        if self.train_crops is None:
            return {}
        sampler = self._sampler()
        order = {
            "samples": sampler.length,
            "global_batch": sampler.global_batch,
            "batches_per_epoch": sampler.batches,
            "seed": self.seed,
        }
        images = self.train.name if isinstance(self.train, ImageSet) else "shards"
        return order | {"shuffle_block": self.shuffle_block or 0, "images": images}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Warn if the resumed run sees other images than the interrupted one did, or its samples in another order."""
        before, here = dict(state_dict), self.state_dict()
        images = before.pop("images", here.get("images"))
        if here and images != here["images"]:
            log.warning(
                "the interrupted run was trained on %s, and the resumed one is on %s: to go on with the same images, "
                "give the same command again",
                images,
                here["images"],
            )
            return
        changed = [f"{k} {v} → {here[k]}" for k, v in before.items() if k in here and here[k] != v]
        if changed:
            log.warning(
                "the resumed run has another order of samples than the interrupted one: %s",
                ", ".join(changed),
            )


def datamodule_of(trainer: pl.Trainer) -> SRDataModule:
    """The data module of a trainer, which Lightning sets without declaring it."""
    data: SRDataModule = trainer.datamodule  # type: ignore[attr-defined]
    return data
