"""Panels: the detail that is hardest, and images that can be seen in the file."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from linf.evaluation.panels import detail_row, fullest_square, panel


@pytest.mark.parametrize(("y", "x"), [(0, 0), (24, 40), (64, 56), (80, 104)])
def test_hardest_detail_is_the_square_that_differs(y: int, x: int) -> None:
    reference = torch.rand(3, 96, 120, generator=torch.Generator().manual_seed(0))
    image = reference + 0.01
    image[:, y : y + 16, x : x + 16] += 0.5
    assert fullest_square((image - reference).square().mean(0), 16) == (slice(y, y + 16), slice(x, x + 16))


@pytest.mark.parametrize("shape", [(3, 10, 40), (3, 40, 10), (3, 1, 1)])
def test_hardest_detail_of_a_small_image_lies_inside(shape: tuple[int, ...]) -> None:
    reference = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    y, x = fullest_square((1 - 2 * reference).square().mean(0), 32)
    side = min(shape[1:])
    assert reference[:, y, x].shape == (3, side, side)


def test_detail_row_shows_lr_systems_and_hr_where_the_first_system_fails() -> None:
    lr = torch.rand(3, 10, 10, generator=torch.Generator().manual_seed(0))
    hr = lr.repeat_interleave(4, 1).repeat_interleave(4, 2)
    first, second = hr.clone(), hr.clone()
    first[:, 8:16, 24:32] += 2
    second[:, 0:8, 0:8] -= 2
    label, images = detail_row("boat", lr, hr, {"first": first, "second": second}, side=8)
    detail = hr[:, 8:16, 24:32]
    assert label == "boat"
    assert list(images) == ["LR", "first", "second", "HR"]
    assert torch.equal(images["first"], torch.ones(3, 8, 8))
    for name in ("LR", "second", "HR"):
        assert torch.equal(images[name], detail)


def shown(image: np.ndarray, colour: tuple[float, ...]) -> np.ndarray:
    """The (y, x) of all pixels of a colour."""
    return np.argwhere((np.abs(image - np.rint(np.array(colour) * 255)) <= 1).all(-1))


def test_saved_panel_shows_each_image_in_its_place(tmp_path: Path) -> None:
    colours = [[(1, 0, 0), (0, 1, 0), (0, 0, 1)], [(1, 1, 0), (0, 1, 1), (0.2, 0.4, 0.6)]]

    def flat(colour: tuple[float, ...]) -> Tensor:
        return torch.tensor(colour)[:, None, None].expand(3, 20, 20).float()

    rows = [
        (f"row {i}", dict(zip(("LR", "τ=0", "HR"), map(flat, line), strict=True)))
        for i, line in enumerate(colours)
    ]
    panel(rows).savefig(tmp_path / "panel.png")
    image = np.asarray(Image.open(tmp_path / "panel.png").convert("RGB"))
    places = [[shown(image, colour) for colour in line] for line in colours]
    assert min(len(place) for line in places for place in line) > 100 * 100
    centre = np.array([[place.mean(0) for place in line] for line in places])
    assert (np.diff(centre[..., 0], axis=0) > 100).all()
    assert (np.diff(centre[..., 1], axis=1) > 100).all()
    assert np.ptp(centre[..., 0], axis=1).max() < 1


def test_a_panel_has_the_systems_that_all_rows_have() -> None:
    square = torch.zeros(3, 8, 8)
    one = {"LR": square, "τ=0": square, "τ=0.4": square, "HR": square}
    other = {"LR": square, "τ=0": square, "τ=0.6": square, "HR": square}
    figure = panel([("one", one), ("other", other)])
    assert [axis.get_title() for axis in figure.axes[:3]] == ["LR", "τ=0", "HR"]
    assert len(figure.axes) == 6


def test_captions_stand_below_their_images() -> None:
    row = {name: torch.zeros(3, 4, 4) for name in ("LR", "τ=0", "HR")}
    figure = panel([("one", row), ("two", row)], [{"τ=0": "20 dB"}, {"HR": "∞"}])
    assert [axis.get_xlabel() for axis in figure.axes] == ["", "20 dB", "", "", "", "∞"]


def test_panel_keeps_pixels_sharp(tmp_path: Path) -> None:
    red = ((torch.arange(8)[:, None] + torch.arange(8)) % 2).float()
    board = torch.stack([red, torch.zeros(8, 8), 1 - red])
    panel([("board", {"HR": board})]).savefig(tmp_path / "panel.png")
    image = np.asarray(Image.open(tmp_path / "panel.png").convert("RGB"))
    pixels = np.concatenate([shown(image, (1, 0, 0)), shown(image, (0, 0, 1))])
    assert len(pixels) > 0.98 * np.prod(np.ptp(pixels, axis=0) + 1)
