"""Noise that a seed and an index decide: the same in parts, in any order, and Gaussian."""

import numpy as np
import pytest
import torch
from torch.distributions import Normal

from linf.models.correlation import latent_fields
from linf.models.noise import LatentField, gaussian, rows_kept


def test_its_first_numbers_are_those_of_every_machine() -> None:
    expected = [-1.4471, -0.9134, -0.5156, 1.8603]
    assert gaussian(7, 3, (4,)).tolist() == pytest.approx(expected, abs=1e-4)
    assert gaussian(7, 3, (2, 4)).dtype == torch.float32
    assert torch.equal(gaussian(7, 3, (2, 4)).flatten()[:4], gaussian(7, 3, (4,)))


def test_it_is_standard_gaussian_and_independent_between_indices_and_seeds() -> None:
    rows = torch.stack([gaussian(seed, index, (4096,)) for seed in (0, 1) for index in range(20)])
    assert rows.mean().abs() < 4 / rows.numel() ** 0.5
    assert rows.var().item() == pytest.approx(1, abs=0.02)
    below = Normal(0, 1).cdf(rows.flatten()).sort().values
    uniform = (torch.arange(len(below)) + 0.5) / len(below)
    assert (below - uniform).abs().max() < 1.63 / len(below) ** 0.5  # Kolmogorov and Smirnov, 1 %.
    correlation = torch.corrcoef(rows) - torch.eye(len(rows))
    assert correlation.abs().max() < 5 / 4096**0.5


@pytest.mark.parametrize(("kept", "threads"), [(0, 1), (3, 1), (3, 4)])
def test_latents_in_parts_are_those_of_the_whole(kept: int, threads: int) -> None:
    whole = LatentField(3, 7, 27, threads=threads)[1, slice(0, 9), slice(0, 7)]
    parts = LatentField(3, 7, 27, kept=kept)
    for row in (8, 0, 4, 5):
        assert torch.equal(parts[1, slice(row, row + 1), slice(2, 5)], whole[row : row + 1, 2:5])
    assert torch.equal(whole, LatentField(4, 7, 27)[0, slice(0, 9), slice(0, 7)]), "image b has seed + b"


def test_rows_are_kept_where_tiles_lie_side_by_side() -> None:
    assert rows_kept(torch.zeros(1, 3, 100, 100), (400, 400), 3, 256) == 0
    assert rows_kept(torch.zeros(1, 3, 100, 600), (400, 2400), 3, 256) >= 256 * 4 / 3


def test_rows_that_memory_is_too_small_for_are_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    lr, parts = torch.zeros(1, 3, 12, 300), (slice(0, 4), slice(4, 12))
    for free, kept in ((1e12, True), (1e4, False)):
        monkeypatch.setattr("linf.models.correlation.free_memory", lambda device, free=free: free)
        (field,) = latent_fields([5], lr, (36, 900), 27, 3, tile=4)
        assert isinstance(field, LatentField)
        assert hasattr(field.row, "cache_info") == kept
        made = torch.cat([field[0, rows, slice(0, 300)] for rows in parts])
        assert torch.equal(made, LatentField(5, 300, 27)[0, slice(0, 12), slice(0, 300)])


@pytest.mark.parametrize("seed", [-1, 2**63, int(np.iinfo(np.uint64).max), 1.5])
def test_a_seed_out_of_range_is_refused(seed: int) -> None:
    with pytest.raises(ValueError, match="seed"):
        LatentField(seed, 1, 3)
