"""LINF: arbitrary-scale, generative super-resolution with local implicit normalizing flows (CVPR 2023).

Shapes in every docstring:

    B    batch                       P    patch size, odd
    C    image channels, 3 for RGB   D    C·P², dimension of the flow
    F    feature channels
    h w  LR height and width         K    conditional steps of the flow
    H W  query grid, HR size         τ    sampling temperature

Coordinates are (y, x) in [-1, 1]; images are [0, 1] outside the model and [-1, 1] inside. "METHOD §n" is that
section of docs/method.md.

A module imports from its own storey and from lower ones:

    5  cli                                   the command `linf`
    4  report, runs, demo                    tables and figures; jobs, sweeps and searches; the page
    3  training, evaluation, upscale         the LightningModules; measuring systems; users' files
    2  data, losses, metrics, checkpoints    batches; what is minimised; what is measured; weights in files
    1  models, images                        the paper, torch only; reading, writing and resizing images
    0  errors, files, memory, coordinates    how programs end; whole files and locks; free memory; pixel centres
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from linf.checkpoints.native import load, save
    from linf.models.linf import LINF

__all__ = ["LINF", "load", "save"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: the command line answers without waiting for torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "linf.models.linf" if name == "LINF" else "linf.checkpoints.native"
    return globals().setdefault(name, getattr(import_module(module), name))
