"""Means over the images of all ranks, in the state of one torchmetrics metric."""

import torch
from torch import Tensor
from torchmetrics import Metric


class TableMeans(Metric):
    """A mean over images for each of ``rows × columns`` figures, in double precision; rows are lines of the table.

    One state holds the whole table, so that ranks synchronise once rather than for each of its thousands of figures.
    A figure that an image lacks, which is not a number, is left out of its mean; without any there is no mean, and
    the result is not a number. A rank may hold any number of images, none included.
    """

    full_state_update = False
    total: Tensor
    measured: Tensor
    images: Tensor

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(rows, columns, dtype=torch.double), dist_reduce_fx="sum")
        self.add_state("measured", torch.zeros(rows, columns, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros(rows, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, row: int, figures: Tensor) -> None:
        """Count in one image by its line of the table and its figures (columns,)."""
        known = ~figures.isnan()
        self.total[row] += figures.double().where(known, 0)
        self.measured[row] += known
        self.images[row] += 1

    def compute(self) -> tuple[Tensor, Tensor]:
        """Images (rows,) and means over them (rows, columns)."""
        return self.images, self.total / self.measured
