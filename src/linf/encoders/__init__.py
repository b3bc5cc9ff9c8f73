"""Image → features, same height and width, no upsampler; each has `out_channels`, `halo` and `config`."""

from linf.encoders.edsr import EDSR
from linf.encoders.rdn import RDN
from linf.encoders.rrdb import RRDBNet
from linf.encoders.swinir import SwinIR

__all__ = ["EDSR", "RDN", "RRDBNet", "SwinIR"]
