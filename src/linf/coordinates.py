"""Where queries lie: scale factors, pixel centres, cells, and the four LR neighbours of a query with their weights.

Whatever has two axes is (y, x) everywhere in this project, scale factors included.
"""

import math
from collections.abc import Sequence
from functools import total_ordering
from numbers import Real
from typing import NamedTuple

import torch
from torch import Tensor

OFFSETS = ((-1, -1), (-1, 1), (1, -1), (1, 1))
"""The four neighbours (vy, vx), in the order the method concatenates them (METHOD §1)."""


@total_ordering
class AxisScales:
    """Two scale factors that differ, (vertical, horizontal): printed as ``1.5x4``, and sorted among numbers by the root
    of their product. It is not converted to a number by itself, which would lose one of them.
    """

    __slots__ = ("x", "y")

    def __init__(self, y: float, x: float) -> None:
        self.y, self.x = float(y), float(x)

    def __format__(self, spec: str) -> str:
        return f"{self.y:{spec or 'g'}}x{self.x:{spec or 'g'}}"

    def __str__(self) -> str:
        return f"{self}"

    def __repr__(self) -> str:
        return f"[{self.y:g}, {self.x:g}]"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AxisScales) and (self.y, self.x) == (other.y, other.x)

    def __hash__(self) -> int:
        return hash((self.y, self.x))

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, AxisScales | int | float):
            return NotImplemented
        return (mean_scale(self), *axis_scales(self)) < (mean_scale(other), *axis_scales(other))


Scale = float | AxisScales
"""A scale factor: one number for both axes, or one each where they differ."""


def read_scale(given: Scale | Sequence[float] | str) -> Scale:
    """The scale factor in what a user, a config or a table says: a number, ``[y, x]``, or text such as ``2``, ``x2``,
    ``2x`` or ``1.5x4``. Two equal numbers are one.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(given, int | float | AxisScales):
        return given
    if isinstance(given, Real):  # NumPy's.
        return float(given)
    parts: Sequence[float | str] = given
    if isinstance(given, str):
        parts = given.strip().lower().replace("×", "x").removeprefix("x").removesuffix("x").split("x")
    try:
        values = [float(part) for part in parts]
    except (TypeError, ValueError):
        values = []
    if len(values) not in (1, 2):
        raise ValueError(
            f"scale {given!r} is neither a number nor one for each axis, vertical first: give 2, [1.5, 4] or 1.5x4"
        )
    return values[0] if len(values) == 1 or values[0] == values[1] else AxisScales(*values)


def axis_scales(scale: Scale) -> tuple[float, float]:
    """The vertical and the horizontal scale factor."""
    return (scale.y, scale.x) if isinstance(scale, AxisScales) else (scale, scale)


def mean_scale(scale: Scale) -> float:
    """The root of the product of both scale factors, by which a pair is compared with a number."""
    return math.sqrt(scale.y * scale.x) if isinstance(scale, AxisScales) else scale


def pixel_centres(
    n: int, *, device: torch.device | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Centres of ``n`` pixels on [-1, 1]: ``-1 + (2i + 1) / n``, shape (n,)."""
    return (2 * torch.arange(n, device=device, dtype=dtype) + 1) / n - 1


def grid(height: int, width: int, *, device: torch.device | None = None) -> Tensor:
    """Pixel centres of an image, (height, width, 2) in (y, x)."""
    y, x = pixel_centres(height, device=device), pixel_centres(width, device=device)
    return torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1)


def patch_centres(n: int, patch_size: int, *, device: torch.device | None = None) -> Tensor:
    """Centres of the ``ceil(n / P)`` patches that tile ``n`` pixels; the last may lie beyond 1.

    Where the published code uses coordinate 0 beyond the edge, the grid goes on (METHOD §5).
    """
    count = (n + patch_size - 1) // patch_size
    pixel = torch.arange(count, device=device, dtype=torch.float32) * patch_size + patch_size // 2
    return (2 * pixel + 1) / n - 1


def patch_grid(size: Sequence[int], patch_size: int) -> tuple[int, int]:
    """Rows and columns of patches that tile an image (H, W): ``ceil(H / P), ceil(W / P)``."""
    rows, cols = (-(-n // patch_size) for n in size)
    return rows, cols


class Neighbourhood(NamedTuple):
    """The four LR neighbours of N queries, in the order of `OFFSETS`; each field is (4, N)."""

    pixel: Tensor
    """int64: row of the neighbour in a row-major list of LR pixels."""
    rel_y: Tensor
    """Offset of the query from the neighbour's centre, in units where an LR pixel spans 2."""
    rel_x: Tensor
    weight: Tensor
    """Area between the query and the diagonally opposite neighbour, as a share of all four."""

    def part(self, queries: slice) -> "Neighbourhood":
        """The neighbourhood of some of the queries."""
        return Neighbourhood(*(field[:, queries] for field in self))


def _nearest(coord: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Along one axis: the LR pixel below and above each coordinate, and the offset from it, (2, N) each."""
    side = 2 * torch.arange(2, device=coord.device, dtype=coord.dtype)[:, None] - 1
    shifted = (coord + (side / n + 1e-6)).clamp(-1 + 1e-6, 1 - 1e-6)
    # The rounding of grid_sample(mode="nearest"), half to even included.
    pixel = (((shifted + 1) * n - 1) / 2).round().clamp(0, n - 1)
    return pixel.long(), (coord - ((2 * pixel + 1) / n - 1)) * n


def neighbourhood(
    y: Tensor, x: Tensor, size: tuple[int, int], *, origin: tuple[int, int] = (0, 0), row: int | None = None
) -> Neighbourhood:
    """The four LR neighbours of each query (arXiv 2303.05156, section 3.2; METHOD §1).

    Args:
        y: (N,) query coordinates in [-1, 1].
        x: (N,).
        size: (h, w) of the whole LR image.
        origin: LR pixel (y, x) at which the list of LR pixels begins, where it holds a tile only.
        row: LR pixels per row of that list, where it holds a tile only.
    """
    pixel_y, rel_y = _nearest(y, size[0])
    pixel_x, rel_x = _nearest(x, size[1])
    # In the order of `OFFSETS`. Indices in a list would be copied to a GPU, for which the host waits.
    pixel_y, rel_y = (of.repeat_interleave(2, dim=0) for of in (pixel_y, rel_y))
    pixel_x, rel_x = (of.repeat(2, 1) for of in (pixel_x, rel_x))
    index = (pixel_y - origin[0]) * (row or size[1]) + pixel_x - origin[1]
    # On the centre of an axis's last pixel all neighbours along it are that pixel: the other axis decides alone.
    away_y, away_x = (torch.where(rel.amax(0) < 1e-6, 1.0, rel) for rel in (rel_y.abs(), rel_x.abs()))
    area = away_y * away_x + 1e-9
    return Neighbourhood(index, rel_y, rel_x, area.flip(0) / area.sum(0))
