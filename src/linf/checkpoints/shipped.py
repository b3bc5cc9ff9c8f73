"""The models that come with the package, by name; docs/model-card.md has their figures."""

import os
from pathlib import Path
from typing import NamedTuple


class ShippedModel(NamedTuple):
    """What is known of a model whose weights are in the package."""

    take: str
    """When to take it."""
    training: str
    limits: str


SHIPPED = {
    "photo": ShippedModel(
        take="your own images: photographs, scans, screenshots, anything with noise or JPEG blocks",
        training="both stages from the weights of default, LR degraded by data/degradation=photo",
        limits="a little softer than default on clean LR; noise beyond σ = 15 of 255 stays",
    ),
    "default": ShippedModel(
        take="clean LR made by bicubic downscaling: benchmarks and studies",
        training="both stages on clean LR, ×1 to ×4",
        limits="takes noise, grain, dither and JPEG blocks for texture, and adds more of it",
    ),
}
"""Each model by its name, which stands for its file wherever a checkpoint is asked for."""


def shipped_file(path: str | os.PathLike[str]) -> Path | None:
    """The file that a name of `SHIPPED` stands for; None for anything else."""
    name = os.fspath(path)
    return Path(__file__).with_name("zoo") / f"{name}.safetensors" if name in SHIPPED else None
