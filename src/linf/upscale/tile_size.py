"""How large a tile may be, from memory that is free and a dry run of the encoder."""

import copy
import weakref
from typing import Any

import torch
from rich.filesize import decimal
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from linf.errors import UsageError
from linf.machine import free_memory
from linf.models.conditioner import Conditioner
from linf.models.encoders.encoder import Encoder
from linf.models.super_resolver import SuperResolver
from linf.models.threads import workers
from linf.models.tiling import MARGIN, OVERLAP, TILE

TILES = (32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
"""LR pixels a side, to choose from."""


def best_tile(model: SuperResolver, height: int, width: int, device: torch.device) -> int | None:
    """Return the side in LR pixels of a tile that fits half of a device's free memory and encodes little twice.

    Each worker encodes one tile at a time of the LR image (height, width), and all of those fit together. The result
    is None for a model without an encoder.

    Raises:
        UsageError: The smallest tile does not fit.
    """
    encoder, conditioner = model.encoder, model.conditioner
    if encoder is None or conditioner is None:
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

    # On a CPU small tiles share the cores; a GPU has room for tiles that encode little twice.
    most = 2.0 if device.type == "cpu" else 1.2
    enough = (
        tile
        for tile in TILES
        if tile >= TILE and ((1 + 2 * margin / tile) ** 2 <= most or tile >= max(height, width))
    )
    largest = next(enough, TILES[-1])
    for tile in TILES[::-1]:
        if tile <= largest and need(tile) <= room:
            return tile
    raise UsageError(
        f"a tile of {TILES[0]} pixels with {margin} around it needs {decimal(int(need(TILES[0])))} on {device}, "
        f"{decimal(int(2 * room))} are free, half of which is taken"
    )


def encoding_bytes(encoder: Encoder, conditioner: Conditioner, size: tuple[int, int], own: int) -> int:
    """Return how many bytes a tile takes at most at one time, by a dry run without numbers; with a margin.

    The tile's ``size`` (h, w) includes its surroundings; only ``own`` pixels a side are kept of its features.
    """
    encoder, conditioner = copy.deepcopy(encoder).to("meta"), copy.deepcopy(conditioner).to("meta")
    with torch.no_grad(), _Live() as live:
        features = encoder(torch.empty(1, encoder.image_channels, *size, device="meta"))
        conditioner.maps(features[..., :own, :own].contiguous(memory_format=torch.channels_last))
    # Convolutions work in buffers of their own, which the dry run does not see.
    return 3 * live.most // 2


class _Live(TorchDispatchMode):
    """Counts the bytes of tensors that live."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0
        self.alive: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage())._cdata not in self.alive:
                self.alive[storage._cdata] = storage.nbytes()
                self.most = max(self.most, sum(self.alive.values()))
                weakref.finalize(storage, self.alive.pop, storage._cdata, None)
        return out
