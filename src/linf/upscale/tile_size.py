"""How large a tile may be, from memory that is free and a dry run of the encoder."""

import copy
import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from linf.errors import UsageError
from linf.memory import free_memory
from linf.models.conditioner import Conditioner
from linf.models.encoders.encoder import Encoder
from linf.models.threads import workers
from linf.models.tiling import MARGIN, OVERLAP, TILE

TILES = (32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
"""LR pixels a side, to choose from."""


def best_tile(model: nn.Module, height: int, width: int, device: torch.device) -> int | None:
    """LR pixels a side of a tile that fits half of the free memory and encodes little twice.

    Several tiles are encoded at a time, one in each worker's hands, and have to fit together.

    Args:
        model: to run.
        height: of the LR image.
        width: of the LR image.
        device: to run it on.

    Returns:
        None for a model without an encoder.

    Raises:
        UsageError: the smallest does not fit.
    """
    encoder, conditioner = getattr(model, "encoder", None), getattr(model, "conditioner", None)
    if not isinstance(encoder, Encoder) or not isinstance(conditioner, Conditioner):
        return None
    room, field = free_memory(device) / 2, encoder.receptive_field
    if field is None and encoding_bytes(encoder, conditioner, (height, width), max(height, width)) <= room:
        return max(height, width)
    margin = OVERLAP if field is None else field

    def need(tile: int) -> int:
        own = tile + 2 * MARGIN
        high, wide = (min(n, own + 2 * margin) for n in (height, width))
        together = min(workers(device), -(-height // tile) * -(-width // tile))
        return together * encoding_bytes(encoder, conditioner, (high, wide), own)

    larger = [tile for tile in TILES if tile >= TILE]
    smaller = [tile for tile in TILES[::-1] if tile < TILE]
    fitting = None
    for tile in larger:
        if need(tile) > room:
            break
        fitting = tile
        if (1 + 2 * margin / tile) ** 2 <= 2 or tile >= max(height, width):
            break
    fitting = fitting or next((tile for tile in smaller if need(tile) <= room), None)
    if fitting is None:
        raise UsageError(
            f"a tile of {TILES[0]} pixels with {margin} around it needs {need(TILES[0]) / 2**30:.2g} GiB on {device}, "
            f"{2 * room / 2**30:.2g} are free, half of which is taken"
        )
    return fitting


def encoding_bytes(encoder: Encoder, conditioner: Conditioner, size: tuple[int, int], own: int) -> int:
    """Bytes that a tile takes at most at one time, by a dry run without numbers; with a margin.

    Args:
        encoder: of the model.
        conditioner: of the model.
        size: (h, w) that are encoded.
        own: pixels a side of what of them is kept.
    """
    encoder, conditioner = copy.deepcopy(encoder).to("meta"), copy.deepcopy(conditioner).to("meta")
    with torch.no_grad(), _Live() as live:
        features = encoder(torch.empty(1, 3, *size, device="meta"))
        conditioner.maps(features[..., :own, :own].contiguous(memory_format=torch.channels_last))
    # Convolutions work in buffers of their own, which the dry run does not see.
    return 3 * live.most // 2


class _Live(TorchDispatchMode):
    """Counts the bytes of tensors that live."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.seen: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                key = storage._cdata
                if key not in self.seen:
                    self.seen[key] = storage.nbytes()
                    self.now += storage.nbytes()
                    self.most = max(self.most, self.now)
                    weakref.finalize(storage, self._gone, key)
        return out

    def _gone(self, key: int) -> None:
        self.now -= self.seen.pop(key, 0)
