"""What ranks tell each other while they train, without waiting for a GPU or for each other."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class Agreement:
    """The largest of each number that any rank has put in, known to all ranks one call later, the same on all.

    The numbers travel among the hosts by gloo while the step goes on. Every rank must make the same calls. With one
    rank there is nothing to wait for, and a call returns its own numbers.
    """

    def __init__(self) -> None:
        several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        self.group: Any = dist.new_group(backend="gloo") if several else None
        self.pending: tuple[Any, Tensor] | None = None

    def __call__(self, *numbers: int) -> list[int]:
        """Put in numbers of this call; what was put in at the one before, or zeros at the first."""
        if self.group is None:
            return list(numbers)
        agreed = self.last() or [0] * len(numbers)
        mine = torch.tensor(numbers, dtype=torch.int64)
        self.pending = dist.all_reduce(mine, dist.ReduceOp.MAX, self.group, async_op=True), mine
        return agreed

    def last(self) -> list[int]:
        """What was put in at the last call, which is then forgotten; empty if there was none."""
        if self.pending is None:
            return []
        work, numbers = self.pending
        self.pending = None
        work.wait()
        return numbers.tolist()
