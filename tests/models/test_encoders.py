"""The encoders: published features, sizes, windows, receptive fields and recomputed activations."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from helpers.paths import REFERENCE
from linf.models.encoders import EDSR, RDN, Encoder, RRDBNet, SwinIR
from linf.models.encoders.swinir import padded, shift_mask, unwindows, windows

SMALL: dict[str, Callable[..., Encoder]] = {
    "edsr": lambda **kw: EDSR(2, 6, 0.5, **kw),
    "rdn": lambda **kw: RDN(2, 2, 4, 6, **kw),
    "rrdb": lambda **kw: RRDBNet(1, 6, 4, **kw),
    "swinir": lambda **kw: SwinIR(12, (2, 2), (2, 3), window=4, out_channels=6, drop_path=0.0, **kw),
}


def small(name: str, **settings: bool) -> Encoder:
    torch.manual_seed(0)
    return SMALL[name](**settings).double().eval()


@pytest.mark.parametrize(
    ("name", "encoder"),
    [("encoder_rdn", RDN(20, 6, 32, 8)), ("encoder_swinir", SwinIR(24, (2, 2), (3, 3)))],
)
def test_features_are_the_published_ones(name: str, encoder: Encoder) -> None:
    if not REFERENCE.is_dir():
        pytest.skip(f"no reference numbers at {REFERENCE}")
    state = torch.load(REFERENCE / f"{name}.pth", weights_only=True)["sd"]
    derived = ("attn_mask", "relative_position_index")
    encoder.load_state_dict({k: v.float() for k, v in state.items() if not k.endswith(derived)})
    stored = np.load(REFERENCE / f"{name}.npz")
    with torch.no_grad():
        features = encoder.eval()(torch.from_numpy(stored["lr"]))
    expected = torch.from_numpy(stored["feat"])[..., : features.shape[-2], : features.shape[-1]]
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-5)


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
def test_config_builds_the_encoder_again(name: str) -> None:
    encoder = small(name)
    again = type(encoder)(**encoder.config)
    again.double().eval().load_state_dict(encoder.state_dict())
    image = torch.rand(1, 3, 5, 6).double()
    assert torch.equal(again(image), encoder(image))


@pytest.mark.parametrize("name", SMALL)
def test_checkpointed_activations_change_no_gradient(name: str) -> None:
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


def test_unwindows_inverts_windows() -> None:
    x = torch.rand(2, 8, 12, 3)
    parts = windows(x, 4)
    assert parts.shape == (12, 16, 3)
    assert torch.equal(parts[1], x[0, :4, 4:8].reshape(16, 3))
    assert torch.equal(unwindows(parts, (8, 12), 4), x)


def test_shift_mask_admits_only_former_neighbours() -> None:
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


def test_stochastic_depth_acts_in_training_alone() -> None:
    torch.manual_seed(0)
    encoder = SwinIR(12, (2, 2), (2, 2), window=4, out_channels=6, drop_path=0.9)
    image = torch.rand(4, 3, 8, 8)
    assert torch.equal(encoder.eval()(image), encoder(image))
    encoder.train()
    one, other = encoder(image), encoder(image)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    "settings", [{"heads": (5, 6)}, {"depths": (2,)}, {"window": 7}], ids=["heads", "depths", "window"]
)
def test_swinir_refuses_settings_that_do_not_fit(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="SwinIR"):
        SwinIR(**{"channels": 12, "depths": (2, 2), "heads": (2, 2), **settings})


@pytest.mark.parametrize("name", SMALL)
def test_image_is_encoded_alike_in_any_batch(name: str) -> None:
    encoder = small(name)
    images = torch.rand(3, 3, 6, 7).double()
    alone = torch.cat([encoder(image[None]) for image in images])
    torch.testing.assert_close(encoder(images), alone, rtol=0, atol=1e-12)
