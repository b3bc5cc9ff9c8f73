"""LPIPS against the lpips package unaided, DISTS against torchmetrics' network, and where their weights come from."""

import copy
import hashlib
import math
from collections.abc import Callable
from pathlib import Path

import lpips
import numpy as np
import pytest
import torch
import torchmetrics
from PIL import Image
from safetensors.torch import load_file
from skimage.data import astronaut
from torch import Tensor, nn
from torchmetrics.functional.image import dists

from helpers.networks import convolutions
from helpers.paths import REFERENCE
from helpers.pickles import Malicious
from linf.errors import UsageError
from linf.metrics.dists import DISTS_WEIGHTS, DISTSNetwork
from linf.metrics.networks import LPIPS_BACKBONES, ComparisonNetwork, LPIPSNetwork

EXAMPLES = REFERENCE / "lpips"

pytestmark = pytest.mark.filterwarnings(
    "ignore:The parameter 'pretrained'", "ignore:Arguments other than a weight enum"
)


@pytest.fixture(params=["alex", "vgg", "dists"])
def network(request: pytest.FixtureRequest, files: dict[str, Path]) -> ComparisonNetwork:
    if request.param == "dists":
        return DISTSNetwork(files["vgg16"])
    return LPIPSNetwork(request.param, files[LPIPS_BACKBONES[request.param][0]])


def pair(height: int = 48, width: int = 57, noise: float = 0.1) -> tuple[Tensor, Tensor]:
    """Two noisy details (2,3,H,W) of a photograph, in [0, 1], and the details."""
    photograph = torch.from_numpy(astronaut()).permute(2, 0, 1).float() / 255
    hr = torch.stack([photograph[:, y : y + height, 150 : 150 + width] for y in (60, 300)])
    generator = torch.Generator().manual_seed(0)
    return (hr + noise * torch.randn(hr.shape, generator=generator)).clamp(0, 1), hr


def by_package(backbone: str, state: dict[str, Tensor]) -> lpips.LPIPS:
    """The package's own distance, with its own linear heads and these convolutions."""
    measure = lpips.LPIPS(net=backbone, pnet_rand=True, verbose=False).eval()
    names = {name: f"features.{name.split('.', 1)[1]}" for name in measure.net.state_dict()}
    measure.net.load_state_dict({ours: state[theirs] for ours, theirs in names.items()})
    return measure


@pytest.mark.parametrize("backbone", ["alex", pytest.param("vgg", marks=pytest.mark.thorough)])
@torch.no_grad()
def test_lpips_is_that_of_its_package(files: dict[str, Path], backbone: str) -> None:
    file = files[LPIPS_BACKBONES[backbone][0]]
    ours, state = LPIPSNetwork(backbone, file).double(), torch.load(file)
    sr, hr = (image.double() for image in pair())
    measure = by_package(backbone, state).double()
    expected = measure(2 * sr - 1, 2 * hr - 1).flatten()
    assert expected.min() > 0.01
    torch.testing.assert_close(ours(sr, hr), expected, rtol=1e-12, atol=0)
    measure.spatial = True
    expected = measure(2 * sr - 1, 2 * hr - 1)[:, 0]
    torch.testing.assert_close(ours.spatial(sr, hr), expected, rtol=1e-12, atol=1e-15)
    assert expected.shape == (2, 48, 57)


def example(name: str) -> Tensor:
    pixels = np.asarray(Image.open(EXAMPLES / f"{name}.png").convert("RGB"))
    return torch.tensor(pixels).permute(2, 0, 1)[None] / 255


@pytest.mark.slow
def test_lpips_of_alexnet_gives_the_figures_of_its_authors(fetched: Callable[[str], Path]) -> None:
    fetched("alexnet")
    measure, images = LPIPSNetwork("alex"), torch.cat([example("ex_p0"), example("ex_p1")])
    values, maps = measure(images, example("ex_ref")), measure.spatial(images, example("ex_ref"))
    assert values.tolist() == pytest.approx([0.722, 0.138], abs=5e-4)
    # Enlarging a layer keeps its mean but for the edge.
    assert maps.mean((1, 2)).tolist() == pytest.approx(values.tolist(), rel=0.02)
    state = load_file(fetched("alexnet"))
    package = by_package("alex", state)
    assert len(state) == len(package.net.state_dict()), "the convolutions and nothing else"
    with torch.no_grad():
        expected = package(2 * images - 1, 2 * example("ex_ref").repeat(2, 1, 1, 1) - 1).flatten()
    torch.testing.assert_close(values, expected, rtol=1e-5, atol=0)


def by_torchmetrics(state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """The authors' code as torchmetrics has it, with these weights of VGG16."""

    class Given:
        features = convolutions("vgg16")

    names = {name: f"features.{name}" for name in Given.features.state_dict()}
    Given.features.load_state_dict({ours: state[theirs] for ours, theirs in names.items()}, assign=True)
    monkeypatch.setattr(dists, "vgg16", lambda **_: Given)
    return dists.DISTSNetwork()


def test_dists_is_that_of_torchmetrics(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    sr, hr = (image.double() for image in pair(45, 38))
    expected = by_torchmetrics(torch.load(files["vgg16"]), monkeypatch).double()(sr, hr)
    assert expected.min() > 0.01
    torch.testing.assert_close(DISTSNetwork(files["vgg16"]).double()(sr, hr), expected, rtol=0, atol=1e-12)


@pytest.mark.thorough
def test_dists_of_vgg16_is_that_of_torchmetrics(
    fetched: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = by_torchmetrics(load_file(fetched("vgg16")), monkeypatch)
    for sr, hr in (pair(212, 200), pair(64, 64, 0.02)):
        torch.testing.assert_close(DISTSNetwork()(sr, hr), expected(sr, hr), rtol=0, atol=2e-6)


def test_the_learned_weights_of_dists_are_its_authors() -> None:
    """The sha256 of ``DISTS_pytorch/weights.pt`` in PyPI's wheel dists-pytorch 0.1."""
    file = Path(torchmetrics.__file__).parent / DISTS_WEIGHTS
    digest = "f5e65c96230b7f6ca995691647d482237e4cab8a50c5c4a5784f219ef0748218"
    assert hashlib.sha256(file.read_bytes()).hexdigest() == digest


def test_equal_images_have_no_distance(network: ComparisonNetwork) -> None:
    sr, hr = pair()
    assert network(hr, hr).abs().max() < 1e-6
    assert network(sr, hr).min() > 1e-3


def test_values_outside_the_range_are_clamped(network: ComparisonNetwork) -> None:
    sr, hr = pair()
    wide = 3 * sr - 1
    assert torch.equal(network(wide, hr), network(wide.clamp(0, 1), hr))
    assert not torch.equal(network(wide, hr), network(sr, hr))


def test_many_samples_look_at_their_image_once(network: ComparisonNetwork) -> None:
    sr, hr = pair()
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    seen: list[int] = []
    first.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    together = network(sr.repeat(2, 1, 1, 1), hr[:1])
    assert seen == [1] * 5
    assert torch.equal(together, network(sr, hr[:1].repeat(2, 1, 1, 1)).repeat(2))
    assert torch.equal(network(sr, hr), torch.cat([network(sr[i : i + 1], hr[i : i + 1]) for i in (0, 1)]))


def test_low_precision_does_not_reach_the_figures(network: ComparisonNetwork) -> None:
    sr, hr = pair()
    rough = sr.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        values = network(sr, hr), network(rough, hr)
    assert torch.equal(values[0], network(sr, hr))
    assert torch.equal(values[1], network(rough.float(), hr))


def test_an_image_with_nan_has_no_distance(network: ComparisonNetwork) -> None:
    sr, hr = pair()
    sr[1, 0, 20, 20] = math.nan
    assert network(sr, hr).isnan().tolist() == [False, True]


@pytest.mark.parametrize(("backbone", "smallest"), [("alex", 31), ("vgg", 16)])
def test_lpips_of_images_that_are_too_small_is_not_a_number(
    files: dict[str, Path], backbone: str, smallest: int
) -> None:
    measure = LPIPSNetwork(backbone, files[LPIPS_BACKBONES[backbone][0]])
    for height, width, number in ((smallest, 40, True), (smallest - 1, 40, False), (40, smallest - 1, False)):
        sr, hr = pair(height, width)
        values, maps = measure(sr, hr), measure.spatial(sr, hr)
        assert values.shape == (2,)
        assert maps.shape == (2, height, width)
        assert (values.isfinite() == number).all()
        assert (maps.isfinite() == number).all()
    image = torch.rand(1, 3, smallest - 1, 40)
    with pytest.raises(RuntimeError, match="too small"):
        list(measure.features(image))


@pytest.mark.parametrize("size", [(1, 1), (2, 7), (15, 16)])
def test_dists_of_the_smallest_images_is_a_number(files: dict[str, Path], size: tuple[int, int]) -> None:
    assert DISTSNetwork(files["vgg16"])(*pair(*size)).isfinite().all()


def test_it_is_frozen_and_a_copy_is_itself(network: ComparisonNetwork) -> None:
    assert copy.deepcopy({"metric": network})["metric"] is network
    nn.ModuleList([network]).train()
    assert not any(module.training for module in network.modules())
    assert not any(p.requires_grad for p in network.parameters())
    sr, hr = pair()
    assert not network(sr.requires_grad_(), hr).requires_grad


# Where weights come from


MADE: dict[str, tuple[Callable[..., ComparisonNetwork], str]] = {
    "alexnet": (lambda *given: LPIPSNetwork("alex", *given), "LPIPS"),
    "vgg16": (lambda *given: LPIPSNetwork("vgg", *given), "LPIPS"),
    "vgg16 of DISTS": (DISTSNetwork, "DISTS"),
}


@pytest.mark.parametrize("of", MADE)
def test_missing_weights_name_places_and_ways(places: tuple[Path, Path], of: str) -> None:
    (made, use), name = MADE[of], of.split()[0]
    with pytest.raises(UsageError) as error:
        made()
    words = (
        f"no weights of {name} for {use}",
        f"`linf weights fetch {name}`",
        "weights=FILE",
        *map(str, places),
    )
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("of", MADE)
def test_torchvisions_downloads_come_before_fetched_weights(
    places: tuple[Path, Path], files: dict[str, Path], of: str
) -> None:
    (made, _), name = MADE[of], of.split()[0]
    for place, file in zip(places, (f"{name}-0123abcd.pth", f"{name}.safetensors"), strict=True):
        place.mkdir(parents=True)
        (place / file).write_bytes(b"neither")
    for place, file in zip(places, (f"{name}-0123abcd.pth", f"{name}.safetensors"), strict=True):
        with pytest.raises(UsageError, match="damaged or of another kind") as error:
            made()
        assert str(place / file) in str(error.value)
        (place / file).unlink()
    (places[0] / f"{name}-0123abcd.pth").symlink_to(files[name])
    assert torch.equal(made()(*pair()), made(files[name])(*pair()))


@pytest.mark.parametrize("of", MADE)
def test_damaged_and_foreign_files_are_refused(files: dict[str, Path], tmp_path: Path, of: str) -> None:
    (made, use), name = MADE[of], of.split()[0]
    other = {"alexnet": "vgg16", "vgg16": "alexnet"}[name]
    torch.save({"features.0.weight": Malicious(tmp_path / "ran")}, tmp_path / "code.pth")
    for file, words in {
        tmp_path / "none.pth": f"no weights for {use} at",
        tmp_path / "code.pth": "damaged or of another kind",
        files[other]: f"does not hold the weights of torchvision's {name}",
    }.items():
        with pytest.raises(ValueError, match=words) as error:
            made(file)
        assert str(file) in str(error.value)
    assert not (tmp_path / "ran").exists()


def test_an_unknown_backbone_is_refused() -> None:
    with pytest.raises(ValueError, match="'squeeze' is not one of alex, vgg"):
        LPIPSNetwork("squeeze")


@pytest.mark.parametrize("network", ["alexnet", "vgg16"])
def test_images_that_are_no_rgb_are_told(files: dict[str, Path], network: str) -> None:
    metric = LPIPSNetwork("alex", files[network]) if network == "alexnet" else DISTSNetwork(files[network])
    name = "LPIPS" if network == "alexnet" else "DISTS"
    with pytest.raises(ValueError, match=f"{name} compares RGB images, and these have 5 channels"):
        metric(torch.rand(1, 5, 48, 48), torch.rand(1, 5, 48, 48))
    with pytest.raises(ValueError, match="cannot be compared"):
        metric(torch.rand(1, 3, 48, 48), torch.rand(1, 3, 48, 49))
