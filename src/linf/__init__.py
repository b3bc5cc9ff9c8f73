"""LINF: arbitrary-scale, generative super-resolution with local implicit normalizing flows (CVPR 2023).

Symbols for shapes in every docstring:

    B    batch size                  P    patch size, odd
    C    image channels, 3 for RGB   D    C·P², dimension of the flow
    F    feature channels            K    conditional steps of the flow
    h w  LR height and width         τ    sampling temperature
    H W  HR height and width, or those of the query grid

Coordinates are (y, x) in [-1, 1]. Images are in [0, 1] outside the model and in [-1, 1] inside. "METHOD §n" is that
section of docs/method.md.

The packages form storeys. A module imports only from its own storey and from lower ones:

    5  cli                                   the command `linf`
    4  report, runs, demo                    tables and figures; jobs, sweeps and searches; the web page
    3  training, evaluation, upscale         the LightningModules; measuring systems; enlarging users' files
    2  data, losses, metrics, checkpoints    batches; what is minimised; what is measured; weights in files
    1  models, images                        the paper, in torch only; reading, writing and resizing images
    0  errors, files, locks                  how programs end; atomic writes; one process at a time, one run a folder
       machine, coordinates                  usable cores and memory; scale factors, pixel centres, cells, neighbours
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
