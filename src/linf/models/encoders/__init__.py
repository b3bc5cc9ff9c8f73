"""Encoder box of the figure: an image becomes features at the same resolution, without an upsampler."""

import os
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from pkgutil import iter_modules

from linf.errors import UsageError
from linf.models.encoders.edsr import EDSR
from linf.models.encoders.encoder import Encoder
from linf.models.encoders.rdn import RDN
from linf.models.encoders.rrdb import RRDBNet
from linf.models.encoders.swinir import SwinIR

__all__ = ["EDSR", "RDN", "Encoder", "RRDBNet", "SwinIR", "every_encoder"]


def every_encoder() -> dict[str, type[Encoder]]:
    """Return the encoders by the name of their class: those of this package, of the modules that the environment
    variable LINF_MODULES names, with commas between them, and of all others that are imported.

    Raises:
        UsageError: One of these modules cannot be imported.
    """
    for module in iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
    _import_named()
    return {kind.__name__: kind for kind in _below(Encoder)}


def _import_named() -> None:
    names = [name.strip() for name in os.environ.get("LINF_MODULES", "").split(",")]
    for name in filter(None, names):
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
        try:
            import_module(name)
        except Exception as error:  # A user's file can hold any mistake.
            reason = f"{type(error).__name__}: {error}"
            raise UsageError(f"LINF_MODULES names {name}, which cannot be imported ({reason})") from error


def _below(kind: type) -> Iterator[type[Encoder]]:
    subclasses: Sequence[type[Encoder]] = kind.__subclasses__()
    for each in subclasses:
        yield from _below(each)
        yield each
