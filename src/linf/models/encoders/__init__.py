"""Encoder box of the figure: an image becomes features at the same resolution, without an upsampler."""

from collections.abc import Iterator, Sequence
from importlib import import_module
from pkgutil import iter_modules

from linf.models.encoders.edsr import EDSR
from linf.models.encoders.encoder import Encoder
from linf.models.encoders.rdn import RDN
from linf.models.encoders.rrdb import RRDBNet
from linf.models.encoders.swinir import SwinIR

__all__ = ["EDSR", "RDN", "Encoder", "RRDBNet", "SwinIR", "every_encoder"]


def every_encoder() -> dict[str, type[Encoder]]:
    """Return the encoders by the name of their class: those of this package, and all others that are imported."""
    for module in iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
    return {kind.__name__: kind for kind in _below(Encoder)}


def _below(kind: type) -> Iterator[type[Encoder]]:
    subclasses: Sequence[type[Encoder]] = kind.__subclasses__()
    for each in subclasses:
        yield from _below(each)
        yield each
