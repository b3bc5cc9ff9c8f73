"""Metric box of the figure: values of images in `functional` and `networks`, means over images in `metric`."""
