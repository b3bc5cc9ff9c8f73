"""Encoders: image (B,3,h,w) in [-1,1] → features (B,C,h,w); each has `out_channels`, `halo` and `config`."""

from linf.encoders.edsr import EDSR

__all__ = ["EDSR"]
