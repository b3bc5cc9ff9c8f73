"""Data box of the figure: the order in which training sees its samples, on any number of ranks, through any resume."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from linf.data.workers import SteadyLoader
from linf.errors import UsageError

INITIAL_EPOCH = 2**32
"""The epoch whose samples initialise weights; training never reaches it."""


class EpochSampler(Sampler[int]):
    """An endless sequence of global batches, of which each rank takes its slice. Batch ``t`` of a training run, with
    ``e, b = divmod(t, batches)``, is the ``b``-th piece of the permutation of ``range(length)`` that ``(seed, e)``
    decides; the incomplete piece at its end is dropped. Every iteration starts at the batch ``position()``, so a
    resumed run goes on with the very next batch. For a given global batch, the ranks together see the same samples at
    each step, whatever their number.

    Args:
        length: the number of samples in an epoch.
        batches: the number of global batches in an epoch; by default as many as ``length`` fills.
        seed: decides the permutations.
        batch_size: the number of samples per rank and batch.
        rank: the index of this rank's slice.
        world_size: the number of ranks.
        position: gives the number of batches trained on so far.
        images: the number of images; sample ``i`` is of image ``i % images``.
        block: the number of images in a row that one shard holds, for an order by shards, see `order_by_shards`; None
            for a permutation of all samples.

    Raises:
        UsageError: an epoch has fewer samples than the batches take.
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
        images: int | None = None,
        block: int | None = None,
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
        self.images, self.block = images or length, block
        self.mine = slice(rank * batch_size, (rank + 1) * batch_size)

    def __len__(self) -> int:
        return self.batches * (self.mine.stop - self.mine.start)

    def __iter__(self) -> Iterator[int]:
        """Yield ``e · length + index`` with ``index`` in [0, length), ``batches · batch_size`` times."""
        return self._samples_from(*divmod(self.position(), self.batches))

    def _samples_from(self, first_epoch: int, first: int) -> Iterator[int]:
        for epoch, part in ((first_epoch, slice(first, None)), (first_epoch + 1, slice(first))):
            for index in self._pieces(epoch)[part, self.mine].ravel().tolist():
                yield epoch * self.length + index

    def _pieces(self, epoch: int) -> np.ndarray:
        """The samples of an epoch, (batches, global_batch)."""
        rng, count = np.random.default_rng((self.seed, epoch)), self.batches * self.global_batch
        if self.block is None:
            return rng.permutation(self.length)[:count].reshape(self.batches, self.global_batch)
        order = order_by_shards(rng, self.images, self.length // self.images, self.block, count)
        return order.reshape(self.global_batch, self.batches).T


MIXED = 4
"""The number of shards whose samples are mixed with each other."""


def order_by_shards(rng: np.random.Generator, images: int, repeat: int, block: int, count: int) -> np.ndarray:
    """The first ``count`` samples of an order that shuffles shards, and samples among `MIXED` shards at a time.

    A place in the global batch reads a stretch of this order, one sample a step, so that a batch has samples of as many
    shards as it can, each shard is read by one rank (two where stretches meet), and only once in an epoch. The order
    takes memory for the shards and for ``count`` samples, however many there are.

    Args:
        rng: decides the order.
        images: the number of images.
        repeat: the number of samples of each; sample ``i`` is of image ``i % images``.
        block: the number of images in a shard.
        count: at most ``images · repeat``.
    """
    shards, parts, found = rng.permutation(-(-images // block)), list[np.ndarray](), 0
    for first in range(0, len(shards), MIXED):
        if found >= count:
            break
        chosen = (shards[first : first + MIXED, None] * block + np.arange(block)).ravel()
        samples = chosen[chosen < images] + images * np.arange(repeat)[:, None]
        parts.append(rng.permutation(samples.ravel()))
        found += samples.size
    return np.concatenate(parts)[:count]


class ResumableLoader(SteadyLoader[Any]):
    """A loader that Lightning takes for resumable, since `EpochSampler` asks the trainer for its position. Lightning
    warns of a resume in mid-epoch unless the loader has a state to save.
    """

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


def batches_trained(trainer: Any) -> int:
    """The number of batches that a rank has trained on since the run began, over all resumes; 0 without a trainer.

    Of the counters that Lightning restores, only `total.processed` is exact wherever the checkpoint was taken: in
    mid-epoch, after validation, at an epoch's end, on an exception.
    """
    if trainer is None:
        return 0
    return trainer.fit_loop.epoch_loop.batch_progress.state_dict()["total"]["processed"]
