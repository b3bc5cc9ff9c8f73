"""Encoder box of the figure: an image becomes features at the same resolution, without an upsampler."""

from linf.models.encoders.edsr import EDSR
from linf.models.encoders.encoder import Encoder
from linf.models.encoders.rdn import RDN
from linf.models.encoders.rrdb import RRDBNet
from linf.models.encoders.swinir import SwinIR

__all__ = ["EDSR", "RDN", "Encoder", "RRDBNet", "SwinIR"]
