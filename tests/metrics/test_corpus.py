"""FID and KID: distances against other libraries and plain arithmetic, features against torch-fidelity unaided."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from helpers.pickles import Malicious
from linf.errors import UsageError
from linf.metrics.corpus import FID, KID, PatchFeatures, frechet_distance


class Given(nn.Module):
    """What torchmetrics takes for a network: features as they are given."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.num_features = number

    def forward(self, features: Tensor) -> Tensor:
        return features


def features(patches: int, seed: int = 0) -> Tensor:
    """Correlated features that are not centred."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(12, 12, generator=generator) / 12**0.5
    return torch.randn(patches, 12, generator=generator) @ mix + 0.3 * seed


@pytest.mark.parametrize(("ours", "theirs"), [(60, 80), (60, 7), (5, 8)], ids=["many", "one few", "few"])
def test_frechet_distance_is_that_of_scipy_and_torchmetrics(ours: int, theirs: int) -> None:
    sr, hr = features(ours), features(theirs, seed=1)
    found = frechet_distance(sr, hr)
    means, covariances = zip(
        *((each.double().numpy().mean(0), np.cov(each.double().numpy(), rowvar=False)) for each in (sr, hr)),
        strict=True,
    )
    root = np.real(sqrtm(covariances[0] @ covariances[1]))
    expected = np.sum((means[0] - means[1]) ** 2) + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert found == pytest.approx(expected, rel=1e-5)
    metric = FrechetInceptionDistance(Given(12)).set_dtype(torch.double)
    metric.update(hr.double(), real=True)
    metric.update(sr.double(), real=False)
    assert found == pytest.approx(metric.compute().item(), rel=1e-5)


def test_frechet_distance_of_equal_and_of_shifted_features() -> None:
    hr = features(30)
    assert frechet_distance(hr, hr.flip(0)) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(hr + 2, hr) == pytest.approx(4 * 12, rel=1e-6)


def test_kid_is_the_unbiased_estimate(inception: Path) -> None:
    sr, hr = features(20), features(20, seed=1)
    metric = KID(weights=inception)
    kernel = [
        [((x @ y).item() / 12 + 1) ** 3 for y in torch.cat([hr, sr]).double()]
        for x in torch.cat([hr, sr]).double()
    ]
    k, off = np.array(kernel), ~np.eye(20, dtype=bool)
    expected = k[:20, :20][off].mean() + k[20:, 20:][off].mean() - 2 * k[:20, 20:].mean()
    assert metric.distance(sr, hr) == pytest.approx(expected, rel=1e-9)
    other = KernelInceptionDistance(Given(12), subsets=1, subset_size=20)
    other.update(hr.double(), real=True)
    other.update(sr.double(), real=False)
    assert metric.distance(sr, hr) == pytest.approx(other.compute()[0].item(), rel=1e-6)


def test_features_are_those_of_torch_fidelity_on_whole_patches(inception: Path) -> None:
    image = torch.rand(1, 3, 20, 31, generator=torch.Generator().manual_seed(0)) * 1.2 - 0.1
    found = PatchFeatures(12, inception)(image)
    eight_bits = np.round(np.clip(image[0].numpy(), 0, 1) * 255).astype(np.uint8)
    corners = [(0, 0), (0, 12), (6, 6), (6, 18)]
    patches = np.stack([eight_bits[:, y : y + 12, x : x + 12] for y, x in corners])
    network = FeatureExtractorInceptionV3("theirs", ["2048"], str(inception)).eval()
    expected = network(torch.from_numpy(patches))[0]
    assert found.shape == (4, 2048)
    assert expected.std(0).mean() > 0.01, "made-up weights tell patches apart"
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_smaller_image_has_no_patch_and_one_patch_no_distance(inception: Path) -> None:
    metric = FID(16, inception)
    assert metric.features(torch.zeros(1, 3, 40, 15)).shape == (0, 2048)
    assert math.isnan(metric.distance(torch.zeros(1, 2048), torch.zeros(1, 2048)))
    assert not metric.train().features.network.training


def test_what_is_wrong_with_weights_is_told(
    places: tuple[Path, Path], tmp_path: Path, files: dict[str, Path]
) -> None:
    with pytest.raises(UsageError, match=r"no weights of weights-inception or pt_inception for FID and KID"):
        FID()
    with pytest.raises(ValueError, match="does not hold the weights of FID's Inception"):
        FID(weights=files["alexnet"])
    torch.save({"weight": Malicious(tmp_path / "ran")}, tmp_path / "evil.pth")
    with pytest.raises(UsageError, match=r"evil\.pth holds no weights"):
        KID(weights=tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()
    with pytest.raises(ValueError, match="patch is 1: give a side of at least 2"):
        FID(patch=1)
