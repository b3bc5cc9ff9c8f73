"""The encoders: published features, sizes, windows, receptive fields and activation checkpointing."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helpers.paths import REFERENCE, SHARED
from linf.models.encoders import EDSR, RDN, Encoder, RRDBNet, SwinIR
from linf.models.encoders.swinir import (
    SwinLayer,
    attention,
    padded,
    shift_mask,
    unwindows,
    windows,
)

SMALL: dict[str, Callable[..., Encoder]] = {
    "edsr": lambda **kw: EDSR(2, 6, 0.5, **kw),
    "rdn": lambda **kw: RDN(2, 2, 4, 6, **kw),
    "rrdb": lambda **kw: RRDBNet(1, 6, 4, **kw),
    "swinir": lambda **kw: SwinIR(12, (2, 2), (2, 3), window=4, out_channels=6, drop_path=0.0, **kw),
}


def small(name: str, **settings: bool) -> Encoder:
    torch.manual_seed(0)
    return SMALL[name](**settings).double().eval()


# Against the published code


def published(folder: Path, name: str) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Weights, an image (1,3,h,w) in [-1,1], and the features that the published code makes of it."""
    state = torch.load(folder / f"{name}.pth", weights_only=True)["sd"]
    # The published SwinIR stores what follows from the sizes as well.
    derived = ("attn_mask", "relative_position_index")
    state = {key: value.float() for key, value in state.items() if not key.endswith(derived)}
    with np.load(folder / f"{name}.npz") as arrays:
        return state, torch.from_numpy(arrays["lr"]), torch.from_numpy(arrays["feat"])


@torch.no_grad()
def assert_features(encoder: nn.Module, folder: Path, name: str) -> None:
    state, image, expected = published(folder, name)
    encoder.load_state_dict(state)
    features = encoder.eval()(image)
    # The published SwinIR leaves the padding to whole windows on.
    expected = expected[..., : image.shape[-2], : image.shape[-1]]
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-5)


def test_swinir_features_match_the_published_code() -> None:
    assert_features(SwinIR(24, (2, 2), (3, 3)), REFERENCE, "encoder_swinir")


def test_rdn_features_match_the_equations_of_the_paper() -> None:
    assert_features(RDN(3, 4, 8, 8), REFERENCE, "encoder_rdn_narrow")


def rdn_by_equations(state: dict[str, Tensor], image: Tensor) -> Tensor:
    """Equations 2 to 9 of arXiv 1802.08797 in float64, on the weights alone: their names and shapes say the rest."""

    def conv(name: str, x: Tensor) -> Tensor:
        weight, bias = (state[f"{name}.{part}"].double() for part in ("weight", "bias"))
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)

    shallow = conv("SFENet1", image.double())
    x, blocks = conv("SFENet2", shallow), []
    while f"RDBs.{len(blocks)}.LFF.weight" in state:
        block, maps = f"RDBs.{len(blocks)}", [x]
        while f"{block}.convs.{len(maps) - 1}.conv.0.weight" in state:
            maps.append(conv(f"{block}.convs.{len(maps) - 1}.conv.0", torch.cat(maps, 1)).relu())
        x = x + conv(f"{block}.LFF", torch.cat(maps, 1))
        blocks.append(x)
    return conv("GFF.1", conv("GFF.0", torch.cat(blocks, 1))) + shallow


def test_narrow_rdn_reference_is_that_of_the_equations() -> None:
    state, image, expected = published(REFERENCE, "encoder_rdn_narrow")
    torch.testing.assert_close(rdn_by_equations(state, image).float(), expected, rtol=0, atol=1e-7)


@pytest.mark.skipif(
    not (SHARED / "reference" / "encoder_rdn.pth").is_file(),
    reason="the published RDN's 6 MB of weights are not in git; the narrow RDN above stands for it",
)
def test_rdn_and_its_equations_match_the_published_code() -> None:
    folder = SHARED / "reference"
    assert_features(RDN(20, 6, 32, 8), folder, "encoder_rdn")
    state, image, expected = published(folder, "encoder_rdn")
    torch.testing.assert_close(rdn_by_equations(state, image).float(), expected, rtol=0, atol=1e-5)


# Each encoder


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (4, 4), (7, 13)])
@pytest.mark.parametrize("name", SMALL)
def test_features_have_the_size_of_the_image(name: str, size: tuple[int, int]) -> None:
    encoder = small(name)
    features = encoder(torch.rand(2, 3, *size).double())
    assert features.shape == (2, encoder.out_channels, *size)
    assert torch.isfinite(features).all()


def test_encoder_is_abstract() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Encoder()  # type: ignore[abstract]


@pytest.mark.parametrize("name", SMALL)
def test_config_rebuilds_the_encoder(name: str) -> None:
    encoder = small(name)
    again = type(encoder)(**encoder.config)
    again.double().eval().load_state_dict(encoder.state_dict())
    image = torch.rand(1, 3, 5, 6).double()
    assert torch.equal(again(image), encoder(image))


@pytest.mark.parametrize("name", SMALL)
def test_activation_checkpointing_does_not_change_gradients(name: str) -> None:
    kept, recomputed = small(name), small(name, checkpoint=True)
    image = torch.rand(1, 3, 6, 5).double()
    gradients = []
    for encoder in (kept, recomputed):
        encoder(image).square().sum().backward()
        gradients.append([p.grad for p in encoder.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert one is not None
        assert one.any()
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["edsr", "rdn", "rrdb"])
def test_receptive_field_is_how_far_a_pixel_reaches(name: str) -> None:
    encoder = small(name)
    assert encoder.receptive_field is not None
    side = 2 * encoder.receptive_field + 5
    image = torch.rand(1, 3, 1, side, dtype=torch.float64, requires_grad=True)
    encoder(image)[..., side // 2].sum().backward()
    assert image.grad is not None
    reached = image.grad.abs().sum((0, 1, 2)).nonzero().flatten()
    assert side // 2 - int(reached.min()) == encoder.receptive_field
    assert int(reached.max()) - side // 2 == encoder.receptive_field


def test_swinir_has_no_finite_receptive_field() -> None:
    assert SwinIR.receptive_field is None


# SwinIR's windows


def test_windows_round_trip() -> None:
    x = torch.rand(2, 8, 12, 3)
    parts = windows(x, 4)
    assert parts.shape == (12, 16, 3)
    assert torch.equal(parts[1], x[0, :4, 4:8].reshape(16, 3))
    assert torch.equal(unwindows(parts, (8, 12), 4), x)


def test_shifted_window_mask_hides_pixels_that_were_not_neighbours() -> None:
    """After the shift by half a window, a pair may look at each other where its pixels were that near before."""
    side, shift, height, width = 4, 2, 8, 12
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = torch.roll(torch.stack((y, x), dim=-1)[None], (-shift, -shift), dims=(1, 2))
    seen = windows(place, side)
    near = ((seen[:, :, None] - seen[:, None]).abs() < side).all(-1)
    assert torch.equal(shift_mask((height, width), side, shift, torch.device("cpu")) == 0, near)


@pytest.mark.parametrize(("n", "mode"), [(3, "replicate"), (5, "reflect"), (8, None)])
def test_image_is_padded_to_whole_windows(n: int, mode: str | None) -> None:
    image = torch.rand(1, 3, n, 8)
    expected = image if mode is None else F.pad(image, (0, 0, 0, 8 - n), mode=mode)
    assert torch.equal(padded(image, 8), expected)


def test_stochastic_depth_acts_only_in_training() -> None:
    torch.manual_seed(0)
    encoder = SwinIR(12, (2, 2), (2, 2), window=4, out_channels=6, drop_path=0.9)
    image = torch.rand(4, 3, 8, 8)
    assert torch.equal(encoder.eval()(image), encoder(image))
    encoder.train()
    one, other = encoder(image), encoder(image)
    assert not torch.equal(one, other)


def test_layers_that_a_sample_skips_do_not_depend_on_its_batch() -> None:
    torch.manual_seed(0)
    encoder = SwinIR(12, (2, 2), (2, 2), window=4, out_channels=6, drop_path=0.9).train()
    images, cpu = torch.rand(4, 3, 8, 8), torch.device("cpu")
    encoder.draw(7, 20, 4, cpu)
    whole = encoder(images)
    parts = []
    for first, samples in ((20, images[:3]), (23, images[3:])):
        encoder.draw(7, first, len(samples), cpu)
        parts.append(encoder(samples))
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-6)
    encoder.draw(7, 24, 4, cpu)
    assert not torch.allclose(encoder(images), whole, atol=1e-3)


def test_stochastic_depth_keeps_the_mean() -> None:
    encoder = SwinIR(12, (2, 2), (2, 2), window=4, out_channels=6, drop_path=0.6)
    encoder.draw(0, 0, 4000, torch.device("cpu"))
    for layer in (part for part in encoder.modules() if isinstance(part, SwinLayer)):
        assert layer.kept is not None
        assert set(layer.kept.unique().tolist()) <= {0.0, torch.tensor(1 / (1 - layer.drop)).item()}
        torch.testing.assert_close(layer.kept.mean(1), torch.ones(2), rtol=0, atol=0.1)


def test_attention_takes_heads_of_any_width() -> None:
    q, k, v = torch.randn(3, 2, 3, 16, 30)
    bias = torch.randn(1, 3, 16, 16)
    torch.testing.assert_close(attention(q, k, v, bias, 8), attention(q, k, v, bias, 1), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "settings", [{"heads": (5, 6)}, {"depths": (2,)}, {"window": 7}], ids=["heads", "depths", "window"]
)
def test_invalid_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="SwinIR"):
        SwinIR(**{"channels": 12, "depths": (2, 2), "heads": (2, 2), **settings})


@pytest.mark.parametrize("name", SMALL)
def test_features_do_not_depend_on_the_rest_of_the_batch(name: str) -> None:
    encoder = small(name)
    images = torch.rand(3, 3, 6, 7).double()
    alone = torch.cat([encoder(image[None]) for image in images])
    torch.testing.assert_close(encoder(images), alone, rtol=0, atol=1e-12)
