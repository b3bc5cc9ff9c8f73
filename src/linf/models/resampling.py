"""Other samples of an image by the flow alone: neither encoder nor conditioner runs again.

Given the condition, a sample is ``m(c) + τ · A(c) z`` (METHOD §4), and ``A`` depends on the flow's scales only. Kept in
half precision, they make the noise of any other latents, and its deviation, to a thousandth.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from linf.models.decoding import Block, Latents
from linf.models.explosion import EXPLODED
from linf.models.flow import ConditionalFlow
from linf.models.threads import parallel


class PartValues(NamedTuple):
    """A rectangle of an image: HR rows and columns, and its values (M,y,x)."""

    rows: slice
    cols: slice
    values: Tensor


@torch.no_grad()
def noise_parts(
    flow: ConditionalFlow, kept: Sequence[Block], latents: Latents, highest: float = 1.0
) -> Iterator[PartValues]:
    """The noise of other latents, (C,y,x) for each block in the units of [0, 1].

    Args:
        flow: whose scales were kept.
        kept: of the regions that were decoded, see `Region.kept`.
        latents: at τ = 1.
        highest: the temperature that the noise will be multiplied by; noise that would explode there is left out.
    """
    inverses = flow.inverses()

    def made(block: Block) -> Tensor:
        z = latents[block.image, block.rows, block.cols].to(block.answers.device).flatten(0, 1).T
        noise = flow.noise_of(z, block.answers.float(), inverses)
        noise[:, ~(highest * noise.abs() <= EXPLODED).all(0)] = 0
        return block.fold(noise) / 2

    yield from _parts(kept, made)


@torch.no_grad()
def deviation_parts(flow: ConditionalFlow, kept: Sequence[Block], mix: Tensor) -> Iterator[PartValues]:
    """The standard deviation at τ = 1, (M,y,x) for each block in the units of [0, 1]; ``mix`` as in `Request`."""
    inverses = flow.inverses()

    def made(block: Block) -> Tensor:
        return block.fold(flow.variances(block.answers.float(), mix, inverses)).sqrt_().div_(2)

    yield from _parts(kept, made)


def _parts(kept: Sequence[Block], made: Callable[[Block], Tensor]) -> Iterator[PartValues]:
    """What is made of each block, in order, from several threads on a CPU."""
    if kept:
        done = parallel((partial(made, block) for block in kept), kept[0].answers.device)
        for block, values in zip(kept, done, strict=True):
            yield PartValues(*block.pixels, values)
