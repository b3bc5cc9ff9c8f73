"""Back-projection of windows of a crop against that of whole images."""

import pytest
import torch
from torch import Tensor

from linf.coordinates import pixel_centres
from linf.losses.consistency import unseen
from linf.models.consistency import Projection

LR, WINDOW = 12, 24


def window_of(size: int, top: int, left: int, patch_size: int) -> tuple[Tensor, Tensor]:
    """Centres of the patches of a window, and the size of a pixel."""
    centres = pixel_centres(size)
    rows, cols = (
        centres[start : start + WINDOW].view(-1, patch_size).mean(1).double() for start in (top, left)
    )
    coord = torch.stack(torch.meshgrid(rows, cols, indexing="ij"), -1)[None]
    return coord, torch.full((1, 2), 2 / size, dtype=torch.float64)


@pytest.mark.parametrize("patch_size", [1, 3])
@pytest.mark.parametrize("size", [24, 31, 36, 43, 48, 252])
def test_a_window_loses_what_a_whole_image_with_this_error_loses(size: int, patch_size: int) -> None:
    torch.manual_seed(0)
    error = 1 + torch.randn(1, 3, WINDOW, WINDOW, dtype=torch.float64)
    for top, left in {(0, 0), (size - WINDOW, 0), ((size - WINDOW) // 2, (size - WINDOW) // 3)}:
        rows, cols = slice(top, top + WINDOW), slice(left, left + WINDOW)
        whole = torch.zeros(1, 3, size, size, dtype=torch.float64)
        whole[..., rows, cols] = error
        left_over = unseen(error, *window_of(size, top, left, patch_size), (LR, LR), 1)
        expected = Projection((LR, LR), (size, size), 1)(whole, 0)[..., rows, cols]
        torch.testing.assert_close(left_over, expected, rtol=0, atol=1e-12)
        assert (left_over - error).abs().max() > 0.3


def test_samples_of_a_batch_have_scales_of_their_own() -> None:
    torch.manual_seed(0)
    error = torch.randn(2, 3, WINDOW, WINDOW, dtype=torch.float64)
    parts = [window_of(31, 2, 5, 3), window_of(48, 20, 11, 3)]
    coord, cell = (torch.cat(of) for of in zip(*parts, strict=True))
    together = unseen(error, coord, cell, (LR, LR), 3)
    for i, part in enumerate(parts):
        alone = unseen(error[i : i + 1], *part, (LR, LR), 3)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-12)


def test_rounds_converge_to_an_error_that_lr_does_not_see() -> None:
    torch.manual_seed(0)
    error = torch.randn(1, 3, WINDOW, WINDOW, dtype=torch.float64)
    window = window_of(48, 12, 12, 1)
    once, more = (unseen(error, *window, (LR, LR), rounds) for rounds in (1, 8))
    seen = [(left - unseen(left, *window, (LR, LR), 1)).square().mean() for left in (error, once, more)]
    assert seen[0] > 5 * seen[1] > 25 * seen[2]


def test_the_dtype_stays() -> None:
    error = torch.randn(1, 3, WINDOW, WINDOW)
    for dtype in (torch.float32, torch.bfloat16):
        assert unseen(error.to(dtype), *window_of(48, 0, 0, 3), (LR, LR), 3).dtype == dtype
