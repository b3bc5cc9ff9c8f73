"""Image → features, same height and width, no upsampler; each has `out_channels`, `receptive_field` and `config`."""

from linf.models.encoders.edsr import EDSR
from linf.models.encoders.rdn import RDN
from linf.models.encoders.rrdb import RRDBNet
from linf.models.encoders.swinir import SwinIR

__all__ = ["EDSR", "RDN", "RRDBNet", "SwinIR"]
