"""ImageSet, densities and features of the published code, from the published checkpoint format.

How the stored arrays differ from what `linf` takes:

- `lr` and the images are in [-1, 1]; here they are halved into [0, 1].
- `z` is a row per query, row-major over the grid; `sr_tau08` decodes 0.8 z.
- `gt` of P = 1 is an image, from which the published code takes the bilinear LR at the coordinate itself;
  of P = 3 it is the residual.
- `coord` of P = 3 is 0 for the last row of patches, whose centres lie beyond the edge (METHOD §5): images are
  compared above it, while densities take `coord` as it is.
"""

import numpy as np
import pytest
import torch
from torch import Tensor

import linf
from helpers.paths import REFERENCE
from linf.coordinates import patch_centres
from linf.models.linf import LINF

CASES = [("edsr_pixel", 32), ("edsr_patch3", 36)]
"""Name, and the rows of pixels whose patches have their centre inside."""


def case(name: str) -> tuple[LINF, dict[str, Tensor]]:
    with np.load(REFERENCE / f"{name}.npz") as arrays:
        return linf.load(REFERENCE / f"{name}.pth"), {k: torch.from_numpy(v) for k, v in arrays.items()}


def unit(image: Tensor) -> Tensor:
    """[-1, 1] → [0, 1]."""
    return (image + 1) / 2


@pytest.mark.parametrize(("name", "rows"), CASES)
def test_samples_match_the_published_code(name: str, rows: int) -> None:
    model, expected = case(name)
    lr, size = unit(expected["lr"]), tuple(expected["sr_tau0"].shape[-2:])
    z = expected["z"].view(*expected["coord"].shape[:3], -1)
    mean = model.sample(lr, size, temperature=0)
    textured = model.sample(lr, size, temperature=0.8, z=z)
    both = model.sample(lr, size, temperature=[0, 0.8], z=z)
    for ours, key in (
        (mean, "sr_tau0"),
        (textured, "sr_tau08"),
        (both[0], "sr_tau0"),
        (both[1], "sr_tau08"),
    ):
        torch.testing.assert_close(
            2 * ours[..., :rows, :] - 1, expected[key][..., :rows, :], rtol=0, atol=1e-4
        )


@pytest.mark.parametrize(("name", "rows"), CASES)
def test_queries_match_the_published_code(name: str, rows: int) -> None:
    model, expected = case(name)
    height, width = expected["sr_tau0"].shape[-2:]
    torch.testing.assert_close(expected["cell"], torch.tensor([[2 / height, 2 / width]]), rtol=0, atol=1e-7)
    y, x = patch_centres(height, model.patch_size), patch_centres(width, model.patch_size)
    ours = torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1)[None]
    inside = rows // model.patch_size
    torch.testing.assert_close(ours[:, :inside], expected["coord"][:, :inside], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["edsr_pixel", "edsr_patch3"])
def test_log_prob_matches_the_published_code(name: str) -> None:
    model, expected = case(name)
    lr, where = unit(expected["lr"]), (expected["coord"], expected["cell"])
    residual = expected["gt"]
    if model.patch_size == 1:
        residual = model.residual(lr, unit(expected["gt"]), *where)
    log_prob = model.log_prob(lr, residual, *where)
    torch.testing.assert_close(log_prob.flatten(), expected["log_p"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["edsr_pixel", "edsr_patch3"])
def test_encoder_features_match_the_published_code(name: str) -> None:
    model, expected = case(name)
    torch.testing.assert_close(model.encoder(expected["lr"]), expected["feat"], rtol=0, atol=1e-5)
