"""The geometric self-ensemble against NumPy's eight orientations."""

from pathlib import Path

import numpy as np
import pytest
import torch

import linf
from linf.models.self_ensemble import self_ensemble


@pytest.mark.parametrize("size", [(33, 45), (30, 60)], ids=["one scale", "a scale for each axis"])
def test_self_ensemble_is_the_mean_over_eight_orientations(checkpoint: Path, size: tuple[int, int]) -> None:
    model, lr = linf.load(checkpoint), torch.rand(1, 3, 11, 15, generator=torch.Generator().manual_seed(0))
    turned = []
    for quarter in range(4):
        for mirrored in (False, True):
            seen = np.rot90(lr.numpy(), quarter, (2, 3))
            seen = np.flip(seen, 3) if mirrored else seen
            image = model.sample(
                torch.from_numpy(seen.copy()), size[::-1] if quarter % 2 else size, temperature=0
            ).numpy()
            image = np.flip(image, 3) if mirrored else image
            turned.append(np.rot90(image, -quarter, (2, 3)))
    assert np.std(turned, axis=0).mean() > 1e-3, "the model's answers differ"
    found = self_ensemble(model, lr, size)
    assert found.shape == (1, 3, *size)
    np.testing.assert_allclose(found.numpy(), np.mean(turned, axis=0), atol=1e-5)


def test_self_ensemble_turns_with_the_image(checkpoint: Path) -> None:
    model, lr = linf.load(checkpoint), torch.rand(2, 3, 9, 12, generator=torch.Generator().manual_seed(0))
    turned = self_ensemble(model, lr.rot90(1, (2, 3)), (24, 18))
    torch.testing.assert_close(turned, self_ensemble(model, lr, (18, 24)).rot90(1, (2, 3)), rtol=0, atol=1e-5)
