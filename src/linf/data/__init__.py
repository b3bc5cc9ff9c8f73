"""Data box of the figure: images in, training batches and evaluation pairs out."""
