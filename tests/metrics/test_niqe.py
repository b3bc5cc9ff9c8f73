"""NIQE against figures that BasicSR 1.4.2's own code gives, and the one of its authors' MATLAB code."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch

from helpers.paths import DATA
from linf.errors import UsageError
from linf.images.read import read_image
from linf.images.resize import matlab_bicubic
from linf.metrics.niqe import NIQE

Fetched = Callable[[str], Path]

BASICSR = {
    ("astronaut", 0): 3.0649476661849033,
    ("astronaut", 4): 2.991296048454476,
    ("chelsea", 0): 2.625524381291432,
    ("chelsea", 4): 2.6893133463073955,
    ("rocket", 0): 6.9691549749810555,
    ("rocket", 4): 6.733104101257048,
}
"""``calculate_niqe`` of scikit-image's photographs in BGR, by the border that it cuts off."""


def niqe(metric: NIQE, image: np.ndarray, border: int = 0) -> float:
    """NIQE of an image (H,W,3) in 8 bits."""
    sr = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
    return metric.of_image(sr, sr, sr, border).item()


@pytest.mark.parametrize(("name", "border"), BASICSR)
def test_niqe_is_that_of_basicsr(fetched: Fetched, name: str, border: int) -> None:
    found = niqe(NIQE(fetched("niqe")), getattr(skimage.data, name)(), border)
    assert found == pytest.approx(BASICSR[name, border], rel=3e-4)


def test_niqe_of_an_enlarged_image_is_that_of_basicsr(fetched: Fetched) -> None:
    hr = torch.from_numpy(skimage.data.astronaut()[:300, 100:500].copy()).permute(2, 0, 1)
    sr = matlab_bicubic(matlab_bicubic(hr, (75, 100)), (300, 400))
    found = niqe(NIQE(fetched("niqe")), sr.permute(1, 2, 0).numpy(), 4)
    assert found == pytest.approx(7.752373652864199, rel=2e-4)


def test_niqe_of_baboon_is_that_of_matlab(fetched: Fetched) -> None:
    """The figure of MATLAB R2021a that BasicSR's docstring gives."""
    path = DATA / "Set14" / "baboon.png"
    if not path.is_file():
        pytest.skip("Set14 is not here")
    assert niqe(NIQE(fetched("niqe")), read_image(path)) == pytest.approx(5.72957338, rel=1e-6)


def test_niqe_falls_where_an_image_is_more_natural(fetched: Fetched) -> None:
    metric, image = NIQE(fetched("niqe")), skimage.data.astronaut().astype(float)
    noise = np.random.default_rng(0).normal(size=image.shape)
    assert niqe(metric, image) < niqe(metric, image + 10 * noise) < niqe(metric, image + 30 * noise)


def test_niqe_is_of_each_sample_in_8_bits(fetched: Fetched) -> None:
    metric, image = NIQE(fetched("niqe")), torch.from_numpy(skimage.data.chelsea()).permute(2, 0, 1) / 255
    both = torch.stack([image + 0.4 / 255, image.flip(-1) - 0.4 / 255])
    found = metric.of_samples(both, both, both, 0)
    assert found.shape == (2,)
    assert found[0].item() == pytest.approx(niqe(metric, skimage.data.chelsea()), rel=1e-9)


@pytest.mark.parametrize(
    "image", [np.zeros((200, 200, 3)), np.zeros((96, 191, 3)), np.full((200, 200, 3), np.nan)]
)
def test_niqe_is_no_number_where_nothing_varies_or_is_too_small(fetched: Fetched, image: np.ndarray) -> None:
    assert np.isnan(niqe(NIQE(fetched("niqe")), image))


def test_missing_or_other_parameters_are_told(places: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="linf weights fetch niqe"):
        NIQE()
    np.savez(tmp_path / "other.npz", mean=np.zeros(36))
    with pytest.raises(ValueError, match=r"does not hold the parameters of NIQE: give BasicSR's"):
        NIQE(tmp_path / "other.npz")
