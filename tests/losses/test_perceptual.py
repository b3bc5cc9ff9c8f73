"""The perceptual distance against torchvision's own networks, and where its weights come from."""

import copy
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms.functional import normalize

from helpers.networks import convolutions, write_network
from helpers.pickles import Malicious
from linf.errors import UsageError
from linf.losses.perceptual import LearnedPerceptual, Perceptual
from linf.metrics.dists import DISTSNetwork
from linf.metrics.networks import LPIPSNetwork


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("vgg")
    return {backbone: write_network(folder / f"{backbone}.pth", backbone) for backbone in ("vgg19", "vgg16")}


def images() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, 2, 3, 33, 40, generator=generator).unbind()


@pytest.mark.parametrize(("backbone", "last"), [("vgg19", 34), ("vgg16", 28)])
@pytest.mark.parametrize("chosen", ["auto", "itself"])
def test_it_is_the_distance_of_torchvisions_last_convolutions(
    files: dict[str, Path], backbone: str, last: int, chosen: str
) -> None:
    perceptual = Perceptual(chosen if chosen == "auto" else backbone, files[backbone])
    layers = convolutions(backbone)
    weights = torch.load(files[backbone], weights_only=True)
    layers.load_state_dict(
        {n.removeprefix("features."): w for n, w in weights.items() if "features" in n}, assign=True
    )
    assert last == max(i for i, layer in enumerate(layers) if isinstance(layer, nn.Conv2d))
    features = [
        layers[: last + 1](normalize(image, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
        for image in images()
    ]
    expected = (features[0] - features[1]).abs().mean()
    assert perceptual.backbone == backbone
    assert 0.01 < expected < 10
    torch.testing.assert_close(perceptual(*images()), expected, rtol=1e-5, atol=0)


def test_equal_images_have_no_distance(files: dict[str, Path]) -> None:
    perceptual = Perceptual(weights=files["vgg16"])
    _, hr = images()
    assert perceptual(hr, hr) == 0
    assert perceptual(1 - hr, hr) > 0


def test_images_of_another_precision_leave_the_weights_as_they_are(files: dict[str, Path]) -> None:
    for perceptual in (Perceptual(weights=files["vgg16"]), LearnedPerceptual("lpips", files["vgg16"])):
        expected = perceptual(*images())
        perceptual(*(image.bfloat16() for image in images()))
        assert perceptual(*images()) == expected


def test_values_outside_the_range_are_clamped(files: dict[str, Path]) -> None:
    perceptual = Perceptual(weights=files["vgg16"])
    sr, hr = images()
    wide = 2 * sr - 0.5
    assert perceptual(wide, hr) == perceptual(wide.clamp(0, 1), hr)
    assert perceptual(wide, hr) != perceptual(sr, hr)


def test_the_gradient_is_the_images_alone(files: dict[str, Path]) -> None:
    perceptual = Perceptual(weights=files["vgg16"])
    sr, hr = images()
    perceptual(sr.requires_grad_(), hr.requires_grad_()).backward()
    assert sr.grad is not None
    assert sr.grad.abs().sum() > 0
    assert hr.grad is None
    assert not any(p.requires_grad for p in perceptual.parameters())
    assert not perceptual.training


def test_a_copy_is_itself(files: dict[str, Path]) -> None:
    perceptual = Perceptual(weights=files["vgg16"])
    assert copy.deepcopy({"loss": perceptual})["loss"] is perceptual


def test_small_windows_are_refused(files: dict[str, Path]) -> None:
    perceptual = Perceptual(weights=files["vgg16"])
    assert perceptual(torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16)).isfinite()
    with pytest.raises(ValueError, match="at least 16 pixels a side, not 15×20"):
        perceptual(torch.rand(1, 3, 15, 20), torch.rand(1, 3, 15, 20))


# Where weights come from


def test_vgg19_comes_before_vgg16_and_torchvisions_before_fetched(
    files: dict[str, Path], places: tuple[Path, Path]
) -> None:
    hub, cache = places
    fetched = write_network(cache / "vgg16.safetensors")
    assert (Perceptual().backbone, Perceptual().weights) == ("vgg16", fetched)
    hub.mkdir(parents=True)
    (hub / "vgg19_bn-c79401a0.pth").write_text("another network")
    os.symlink(files["vgg16"], hub / "vgg16-397923af.pth")
    assert Perceptual().weights == hub / "vgg16-397923af.pth"
    os.symlink(files["vgg19"], hub / "vgg19-dcbb9e9d.pth")
    assert (Perceptual().backbone, Perceptual().weights) == ("vgg19", hub / "vgg19-dcbb9e9d.pth")
    assert Perceptual("vgg16").backbone == "vgg16"


def test_the_choice_is_logged(files: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        Perceptual(weights=files["vgg16"])
    assert "vgg16 features[:29]" in caplog.text
    assert str(files["vgg16"]) in caplog.text


@pytest.mark.parametrize(("backbone", "named"), [("auto", ["vgg19", "vgg16"]), ("vgg19", ["vgg19"])])
def test_missing_weights_name_places_and_ways(
    places: tuple[Path, Path], backbone: str, named: list[str]
) -> None:
    with pytest.raises(UsageError) as error:
        Perceptual(backbone)
    text = str(error.value)
    assert "\n" not in text
    places_and_ways = [*map(str, places), "linf weights fetch vgg16", "task.loss.perceptual=0"]
    for word in (
        *places_and_ways,
        *(f"{name}-*.pth" for name in named),
        *(f"{n}.safetensors" for n in named),
    ):
        assert word in text


def test_damaged_and_foreign_files_are_refused(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "part.pth")
    (tmp_path / "text.pth").write_text("not weights")
    (tmp_path / "text.safetensors").write_text("not weights")
    torch.save({"features.0.weight": Malicious(Path("ran"))}, tmp_path / "code.pth")
    for name, words in {
        "none.pth": "no weights for the perceptual loss at",
        "part.pth": "does not hold the weights of torchvision's vgg16",
        "text.pth": "damaged or of another kind",
        "text.safetensors": "damaged or of another kind",
        "code.pth": "damaged or of another kind",
    }.items():
        with pytest.raises(ValueError, match=words) as error:
            Perceptual(weights=tmp_path / name)
        assert "\n" not in str(error.value)
        assert name in str(error.value)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(ValueError, match="does not hold the weights of torchvision's vgg19"):
        Perceptual("vgg19", files["vgg16"])
    with pytest.raises(ValueError, match="'vgg11' is not one of auto, vgg19, vgg16"):
        Perceptual("vgg11")


def test_the_learned_perceptual_loss_is_the_metric_with_a_gradient(files: dict[str, Path]) -> None:
    sr, hr = images()
    for name, metric in (
        ("lpips", LPIPSNetwork("vgg", files["vgg16"])),
        ("dists", DISTSNetwork(files["vgg16"])),
    ):
        loss = LearnedPerceptual(name, files["vgg16"])  # type: ignore[arg-type]
        x = sr.clone().requires_grad_()
        found = loss(x, hr)
        torch.testing.assert_close(found, metric(sr, hr).mean(), rtol=1e-5, atol=1e-6)
        found.backward()
        with torch.no_grad():
            better = loss(sr - 0.05 * x.grad / x.grad.abs().mean(), hr)  # type: ignore[operator, union-attr]
        assert better < found, name
        assert not any(p.requires_grad for p in loss.parameters())
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(loss(sr, hr), found.detach(), rtol=0.05, atol=1e-3)
        with pytest.raises(ValueError, match="at least 16 pixels"):
            loss(sr[..., :9], hr[..., :9])
    with pytest.raises(ValueError, match="neither lpips nor dists"):
        LearnedPerceptual("ssim")  # type: ignore[arg-type]
