"""Loss box of the figure: one file per model that is trained, and the perceptual distance they share."""
