"""Spandrel itself loads and runs this project's files."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import spandrel
import torch
from torch import nn

import linf
from linf.checkpoints.descriptor import deduced_config, register
from linf.checkpoints.native import build
from linf.checkpoints.shipped import shipped_file
from linf.errors import UsageError
from linf.models.conditioner import FourierConditioner
from linf.models.encoders import EDSR, RDN, RRDBNet, SwinIR
from linf.models.flow import ConditionalFlow
from linf.models.linf import LINF
from linf.models.prior import UNet

ENCODERS: list[Callable[..., nn.Module]] = [
    partial(EDSR, 3, 5),
    partial(RDN, 3, 2, 4, 6),
    partial(RRDBNet, 2, 6, 4),
    partial(SwinIR, 12, (2, 1), (2, 3), window=4, mlp_ratio=1.5, out_channels=7, drop_path=0.1),
]


@pytest.fixture(autouse=True)
def settings_of_its_own() -> Iterator[None]:
    register()
    yield
    register()


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize(("ensemble", "patch_size", "channels"), [("feature", 3, 3), ("local", 1, 1)])
def test_config_is_that_of_the_model(
    encoder: Callable[..., nn.Module], ensemble: str, patch_size: int, channels: int
) -> None:
    conditioner = partial(FourierConditioner, width=8, depth=2, ensemble=ensemble)
    flow = ConditionalFlow(patch_size, steps=4, image_channels=channels)
    model = LINF(encoder(image_channels=channels), conditioner, flow)
    config = model.config
    config["encoder"].pop("drop_path", None)  # Of training alone.
    assert deduced_config(model.state_dict()) == config


@pytest.mark.parametrize(("channels", "ratio"), [(76, 1.4), (60, 4.1), (180, 2.0), (12, 1.7)])
def test_a_ratio_that_is_rounded_gives_the_same_widths(channels: int, ratio: float) -> None:
    encoder = SwinIR(channels, (1,), (2,), window=2, mlp_ratio=ratio, out_channels=4)
    state = LINF(encoder, partial(FourierConditioner, width=4, depth=1), ConditionalFlow(1, 1)).state_dict()
    build(deduced_config(state)).load_state_dict(state)


def test_spandrel_runs_the_model_of_the_package() -> None:
    lr = torch.rand(1, 3, 9, 7, generator=torch.Generator().manual_seed(0))
    for scale, temperature in ((3, 0.0), (2, 0.6)):
        register(scale, temperature, seed=5)
        found = spandrel.ModelLoader().load_from_file(shipped_file("default"))
        assert isinstance(found, spandrel.ImageModelDescriptor)
        assert (found.architecture.id, found.scale, found.purpose) == ("LINF", scale, "SR")
        size = (9 * scale, 7 * scale)
        expected = linf.load("default").sample(lr, size, temperature=temperature, seed=5).clamp(0, 1)
        assert torch.equal(found(lr), expected)


def test_a_prior_is_left_out(tmp_path: Path) -> None:
    model = LINF(
        EDSR(1, 4),
        partial(FourierConditioner, width=8, depth=1),
        ConditionalFlow(3, steps=2),
        UNet(3, width=8),
    )
    linf.save(model.eval(), tmp_path / "model.safetensors")
    found = spandrel.ModelLoader().load_from_file(tmp_path / "model.safetensors")
    assert found.model.prior is None


def test_spandrel_still_knows_its_own() -> None:
    assert {"ESRGAN", "SwinIR", "HAT", "LINF"} <= {each.architecture.id for each in spandrel.MAIN_REGISTRY}


@pytest.mark.parametrize("scale", [2.5, 0])
def test_a_scale_that_a_descriptor_cannot_have_is_refused(scale: float) -> None:
    with pytest.raises(UsageError, match=r"whole number.*linf\.load"):
        register(scale)  # type: ignore[arg-type]


def test_a_foreign_encoder_is_refused_in_words() -> None:
    model = LINF(EDSR(1, 4), partial(FourierConditioner, width=8, depth=1), ConditionalFlow(1, steps=2))
    state = {
        name.replace("encoder.head", "encoder.other"): value for name, value in model.state_dict().items()
    }
    with pytest.raises(UsageError, match="none of EDSR, RDN, RRDBNet and SwinIR"):
        deduced_config(state)
