"""Weights of R, G and B in the grey values of the field."""

BENCHMARK_LUMA = (65.738 / 256, 129.057 / 256, 25.064 / 256)
"""Y of ITU-R BT.601 in [16, 235] from RGB in [0, 255], on which super-resolution benchmarks take PSNR (METHOD §7)."""

MATLAB_LUMA = (65.481, 128.553, 24.966)
"""Y in [16, 235] less 16 from RGB in [0, 1], as MATLAB's ``rgb2ycbcr`` has it, for figures that are taken on Y in whole
numbers: the weights above differ in the sixth digit, which rounding shows."""

PILLOW_GREY = (0.299, 0.587, 0.114)
"""Full-range grey of ITU-R BT.601, the conversion of Pillow and kornia."""
