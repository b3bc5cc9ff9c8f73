"""The bilinear image in parts against torch's, and residuals against their definition."""

import pytest
import torch
from torch.nn import functional as F

from linf.models.bilinear import BilinearBase


@pytest.mark.parametrize(
    ("lr", "size"),
    [((7, 5), (23, 9)), ((7, 5), (7, 5)), ((1, 6), (4, 3)), ((9, 9), (9, 90)), ((8, 8), (3, 2))],
)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("peak", [1, 255, 65535])
def test_a_part_is_that_of_the_bilinear_image(
    lr: tuple[int, int], size: tuple[int, int], channels: int, peak: int
) -> None:
    torch.manual_seed(0)
    values = torch.rand(2, channels, *lr) if peak == 1 else torch.randint(0, peak + 1, (2, channels, *lr))
    whole = F.interpolate(values.double() / peak, size, mode="bilinear", align_corners=False)
    whole = whole.expand(-1, 3, -1, -1).float()
    base = BilinearBase(values if peak == 1 else values.int(), size, peak)
    everything = slice(0, size[0]), slice(0, size[1])
    torch.testing.assert_close(base(1, *everything), whole[1], rtol=0, atol=1e-6)
    inner = slice(size[0] // 2, size[0]), slice(1, max(2, size[1] // 2))
    torch.testing.assert_close(base(0, *inner), whole[0][:, inner[0], inner[1]], rtol=0, atol=1e-6)
