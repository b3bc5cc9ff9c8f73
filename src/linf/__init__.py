"""Arbitrary-scale, generative super-resolution with local implicit normalizing flows (CVPR 2023).

One legend, everywhere:

    B    batch                       P    patch size, odd
    C    feature channels            D    3P², dimension of the flow
    h w  LR height and width         K    conditional steps of the flow
    H W  query grid, HR size         τ    sampling temperature

Coordinates are (y, x) in [-1, 1]; images are [0, 1] outside the model and [-1, 1] inside. "METHOD §n" is that
section of docs/method.md. In reading order:
`errors`, `files`, `memory`, `flax`, `weights`, `coordinates`, `data`, `encoders`, `ensemble`, `conditioner`, `flow`,
`inference`, `prior`, `model`, `perceptual`, `metrics`, `closed_form`, `baselines`, `published`, `checkpoints`,
`export`, `losses`, `study`, `record`, `panels`, `report`, `distributed`, `loggers`, `search`, `task`, `callbacks`,
`jobs`, `upscale`, `demo`, `cli`, `mistakes`, `entry`; a module imports only what stands before it.
"""

from linf.checkpoints.native import load, save

__all__ = ["load", "save"]
