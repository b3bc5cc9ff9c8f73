"""The published format, read and written, at full size and small."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import linf
from helpers.paths import REFERENCE
from linf.checkpoints.native import build
from linf.checkpoints.published import from_published, to_published
from linf.errors import UsageError
from linf.models.baselines import LIIF, LTE, LIIFConditioner, Regression
from linf.models.conditioner import FourierConditioner
from linf.models.encoders import EDSR, RDN, RRDBNet, SwinIR
from linf.models.flow import ConditionalFlow
from linf.models.linf import LINF
from linf.models.prior import UNet

OFFICIAL = json.loads((REFERENCE / "official_state_dicts.json").read_text())
ENCODERS = {
    "edsr-baseline": partial(EDSR, 2, 6),
    "edsr": partial(EDSR, 2, 6, 0.1),
    "rdn A": partial(RDN, 20, 6, 32, 4),
    "rdn B": partial(RDN, 16, 8, 64, 4),
    "rrdb": partial(RRDBNet, 1, 6, 4),
    "swinir": partial(SwinIR, 12, (2, 3), (2, 3)),
}
FOURIER = partial(FourierConditioner, width=8, depth=2)


def small(kind: str, encoder: nn.Module) -> LINF | Regression:
    if kind == "liif":
        return LIIF(encoder, partial(LIIFConditioner, width=8, depth=2))
    if kind == "lte":
        return LTE(encoder, partial(FOURIER, ensemble="local"))
    return LINF(encoder, FOURIER, ConditionalFlow(3 if kind == "linf-patch" else 1, steps=2))


@pytest.mark.parametrize("kind", ["linf", "linf-patch", "liif", "lte"])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_round_trip_gives_the_same_model(tmp_path: Path, kind: str, encoder: str) -> None:
    torch.manual_seed(0)
    model = small(kind, ENCODERS[encoder]()).eval()
    content = to_published(model)
    assert content["model"]["name"] == kind
    assert content["model"]["args"]["encoder_spec"]["name"] == encoder.split()[0]
    torch.save(content, tmp_path / "there.pth")
    back = linf.load(tmp_path / "there.pth")
    assert back.config == model.config
    here, there = model.state_dict(), back.state_dict()
    assert here.keys() == there.keys()
    assert all(torch.equal(here[k], there[k]) for k in here if k != "flow.initialised")
    lr = torch.rand(1, 3, 6, 7)
    assert torch.equal(*(of.sample(lr, (13, 17), temperature=0) for of in (model, back)))
    linf.save(back, tmp_path / "ours.safetensors")
    again = to_published(linf.load(tmp_path / "ours.safetensors"))["model"]
    assert again["args"] == content["model"]["args"]
    assert again["sd"].keys() == content["model"]["sd"].keys()
    assert all(torch.equal(again["sd"][k], v) for k, v in content["model"]["sd"].items())


@pytest.mark.parametrize("name", [name for name in OFFICIAL if not name.startswith("prior")])
def test_full_size_models_have_exactly_the_published_tensors(name: str) -> None:
    entry = OFFICIAL[name]
    zeros = {key: torch.zeros(1).expand(shape) for key, shape in entry["keys"].items()}
    content = {"model": {"name": entry["name"], "args": entry["args"], "sd": zeros}}
    config, weights = from_published(content)
    model = build(config)
    ours = model.state_dict()
    assert weights.keys() == ours.keys()
    assert all(weights[key].shape == ours[key].shape for key in ours)
    there = to_published(model)["model"]
    assert (there["name"], there["args"]) == (entry["name"], entry["args"])
    assert {key: list(value.shape) for key, value in there["sd"].items()} == entry["keys"]


@pytest.mark.parametrize("name", ["edsr_pixel", "edsr_patch3", "rrdb_patch3", "rrdb_pixel_out"])
def test_published_files_round_trip_exactly(tmp_path: Path, name: str) -> None:
    path = REFERENCE / f"{name}.pth"
    given = torch.load(path, weights_only=True)["model"]
    linf.save(linf.load(path), tmp_path / "ours.safetensors")
    there = to_published(linf.load(tmp_path / "ours.safetensors"))["model"]
    assert there["name"] == given["name"]
    assert there["sd"].keys() == given["sd"].keys()
    unused = ("upconv", "HRconv", "conv_last")
    for key, value in given["sd"].items():
        assert any(word in key for word in unused) or torch.equal(there["sd"][key], value), key


@pytest.mark.parametrize("name", ["rrdb_patch3", "rrdb_pixel_out"])
def test_rrdb_gives_the_published_images_and_densities(name: str) -> None:
    model = linf.load(REFERENCE / f"{name}.pth")
    stored: dict[str, Tensor] = {
        k: torch.from_numpy(v) for k, v in np.load(REFERENCE / f"{name}.npz").items()
    }
    lr, size = (stored["lr"] + 1) / 2, tuple(stored["sr_tau0"].shape[-2:])
    grid = [-(-n // model.patch_size) for n in size]
    torch.testing.assert_close(
        2 * model.sample(lr, size, temperature=0) - 1, stored["sr_tau0"], rtol=0, atol=1e-4
    )
    z = stored["z"].view(1, *grid, -1)
    image = model.sample(lr, size, temperature=0.8, z=z)
    torch.testing.assert_close(2 * image - 1, stored["sr_tau08"], rtol=0, atol=1e-4)
    residual = stored["gt"]
    if model.patch_size == 1:  # There gt is an image, from which the published code takes the bilinear one.
        residual = model.residual(lr, (stored["gt"] + 1) / 2, stored["coord"], stored["cell"])
    log_prob = model.log_prob(lr, residual, stored["coord"], stored["cell"])
    torch.testing.assert_close(log_prob.flatten(), stored["log_p"].flatten(), rtol=0, atol=1e-4)


# What the published code does not have


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (LINF(EDSR(1, 4), partial(FOURIER, ensemble="local"), ConditionalFlow(1, 2)), "local ensemble"),
        (
            LINF(EDSR(1, 4), FOURIER, ConditionalFlow(1, 2), UNet(width=4, depth=1)),
            "has the prior in a file of its own",
        ),
        (LTE(EDSR(1, 4), FOURIER), "without the local ensemble"),
        (LINF(RDN(1, 1, 4, 4), FOURIER, ConditionalFlow(1, 2)), "no encoder RDN"),
    ],
)
def test_model_without_a_published_form_is_refused(model: LINF | Regression, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        to_published(model)


def spoilt(kind: str, **args: object) -> dict[str, Any]:
    content = to_published(small(kind, EDSR(1, 4)))
    content["model"]["args"] |= args
    return content


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (spoilt("liif", feat_unfold=False), "feature unfolding"),
        (spoilt("lte", hidden_dim=4), "4 wide and its MLP 8"),
        (
            spoilt("liif", imnet_spec={"name": "mlp", "args": {"out_dim": 3, "hidden_list": [8, 4]}}),
            "different width",
        ),
        (spoilt("linf", encoder_spec={"name": "vdsr", "args": {}}), "'vdsr' is none of"),
        (spoilt("linf", encoder_spec={"name": "edsr", "args": {"n_colors": 1}}), "'n_colors'"),
    ],
)
def test_unknown_published_model_is_refused(tmp_path: Path, content: dict[str, Any], match: str) -> None:
    torch.save(content, tmp_path / "published.pth")
    with pytest.raises(UsageError, match=match):
        linf.load(tmp_path / "published.pth")
