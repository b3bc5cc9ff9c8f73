"""The learned prior: its network against the published one, its image against flow and condition by hand."""

import json
import math
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn import functional as F

import linf
from helpers.commands import Command, Compose
from helpers.paths import REFERENCE
from linf import cli
from linf.checkpoints.native import build, load_prior
from linf.checkpoints.published import published_prior, to_published
from linf.checkpoints.start import start_from
from linf.coordinates import patch_centres
from linf.data.crops import SRBatch
from linf.errors import UsageError
from linf.losses.prior import LearnedPrior
from linf.models.conditioner import FourierConditioner
from linf.models.encoders import EDSR
from linf.models.flow import ConditionalFlow
from linf.models.linf import LINF
from linf.models.prior import UNet, lr_residual, window_lr_residual
from linf.training import PriorTraining

PARAMETERS = {1: 4_510_871, 3: 4_582_223}
"""METHOD §9."""


def lively(module: nn.Module) -> None:
    """Weights and running statistics under which every part of a network shows in what it gives."""
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.2)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, std=0.2)
            nn.init.uniform_(layer.running_var, 0.5, 2)
            nn.init.uniform_(layer.weight, 0.5, 2)


def case(patch_size: int, *, prior: bool = True) -> LINF:
    """A small model in evaluation mode and float64, whose conditions differ from query to query."""
    torch.manual_seed(0)
    model = LINF(
        EDSR(blocks=1, channels=4),
        partial(FourierConditioner, width=8, depth=2),
        ConditionalFlow(patch_size, steps=2),
        UNet(patch_size, width=4) if prior else None,
    )
    for part in (model.encoder, model.conditioner, *([model.prior] if model.prior else [])):
        lively(part)
    if model.prior:
        # Latents as large as a trained prior's: the flow's inverse of larger ones is not trusted (METHOD §4).
        nn.init.normal_(model.prior.outc.conv.weight, std=0.02)
    return model.double().eval()


def images(*size: int, batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def queries(size: tuple[int, int], patch_size: int, batch: int) -> tuple[Tensor, Tensor]:
    """Coordinates (B,gh,gw,2) and cells (B,2) of the patch grid."""
    axes = [patch_centres(n, patch_size) for n in size]
    coord = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).repeat(batch, 1, 1, 1)
    return coord, torch.tensor([[2 / n for n in size]]).repeat(batch, 1)


def enlarging(n: int, m: int) -> Tensor:
    """The bilinear resize of n pixels to m as a matrix (m, n), from its definition."""
    matrix = torch.zeros(m, n, dtype=torch.float64)
    for i in range(m):
        at = min(max((i + 0.5) * n / m - 0.5, 0), n - 1)
        below = math.floor(at)
        matrix[i, below] += 1 - (at - below)
        matrix[i, min(below + 1, n - 1)] += at - below
    return matrix


def residual_by_definition(lr: Tensor, size: tuple[int, int]) -> Tensor:
    up_y, up_x = (enlarging(n, m) for n, m in zip(lr.shape[-2:], size, strict=True))
    down_y, down_x = (enlarging(m, n) for n, m in zip(lr.shape[-2:], size, strict=True))
    lr_up = up_y @ (2 * lr - 1) @ up_x.T
    return lr_up - up_y @ down_y @ lr_up @ down_x.T @ up_x.T


def in_patches(image: Tensor, patch_size: int) -> Tensor:
    """(B,3,H,W) → (B,D,gh,gw), zero beyond the edge, each number put in its place by itself."""
    grid = [-(-n // patch_size) for n in image.shape[-2:]]
    patches = image.new_zeros(len(image), 3, patch_size, patch_size, *grid)
    for y, x in product(*map(range, image.shape[-2:])):
        patches[:, :, y % patch_size, x % patch_size, y // patch_size, x // patch_size] = image[:, :, y, x]
    return patches.flatten(1, 3)


# The network


def test_unet_matches_the_published_code() -> None:
    content = torch.load(REFERENCE / "prior_patch3.pth", weights_only=True)
    config, weights = published_prior(content)
    assert config == {"name": "UNet", "patch_size": 3, "width": 16, "depth": 3}
    prior = UNet(3, width=16)
    prior.load_state_dict(weights)
    with np.load(REFERENCE / "prior_patch3.npz") as arrays:
        z_lr, lr, expected = (torch.from_numpy(arrays[name]) for name in ("z_lr", "lr", "z_hat"))
    with torch.no_grad():
        torch.testing.assert_close(prior.eval()(z_lr, lr), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("patch_size", [1, 3])
def test_unet_has_the_published_tensor_names_and_shapes(patch_size: int) -> None:
    listed = json.loads((REFERENCE / "official_state_dicts.json").read_text())[f"prior_patch{patch_size}"]
    (shapes,) = (value for key, value in listed.items() if isinstance(value, dict) and key != "args")
    config, _ = published_prior({"prior_model": {"name": listed["name"], "args": listed["args"], "sd": {}}})
    assert config.pop("name") == "UNet"
    state = UNet(**config).state_dict()
    assert {name: list(value.shape) for name, value in state.items()} == shapes


@pytest.mark.parametrize(("patch_size", "parameters"), PARAMETERS.items())
def test_unet_has_the_published_number_of_parameters(patch_size: int, parameters: int) -> None:
    assert sum(p.numel() for p in UNet(patch_size).parameters()) == parameters


@pytest.mark.parametrize(
    "change",
    [
        {"name": "rrdb"},
        {"args": {"in_chans": 28}},
        {"args": {"in_chans": 0}},
        {"args": {"in_chans": 27, "bilinear": False}},
        {"args": {"in_chans": 27, "cell_input": True}},
    ],
)
def test_another_network_is_refused_by_its_name_and_settings(change: dict[str, Any]) -> None:
    given = {"name": "unet", "args": {"in_chans": 27, "bilinear": True}, "sd": {}, **change}
    with pytest.raises(UsageError, match=f"published prior '{given['name']}' with in_chans="):
        published_prior({"prior_model": given})


@pytest.mark.parametrize("grid", [(1, 1), (1, 9), (2, 1), (3, 3), (7, 15), (8, 8), (17, 6)])
@pytest.mark.parametrize("lr", [(1, 1), (2, 5), (4, 3)])
def test_unet_accepts_any_grid_and_lr_size(grid: tuple[int, int], lr: tuple[int, int]) -> None:
    prior = UNet(3, width=4).eval()
    latent = prior(torch.randn(2, 27, *grid), torch.randn(2, 3, *lr))
    assert latent.shape == (2, 27, *grid)
    assert torch.isfinite(latent).all()


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_unet_of_other_depths(depth: int) -> None:
    prior = UNet(1, width=4, depth=depth).eval()
    assert prior(torch.randn(1, 3, 19, 18), torch.randn(1, 3, 5, 5)).shape == (1, 3, 19, 18)


def test_lr_features_at_the_patches_of_a_whole_image_are_the_resized_ones() -> None:
    model = case(3)
    assert model.prior is not None
    coord, _ = queries((27, 33), 3, batch=2)
    z, lr = torch.randn(2, 27, 9, 11, dtype=torch.float64), 2 * images(8, 11) - 1
    torch.testing.assert_close(model.prior(z, lr, coord.double()), model.prior(z, lr), rtol=0, atol=1e-6)
    shifted = model.prior(z, lr, coord.double() / 2)
    assert (shifted - model.prior(z, lr)).abs().max() > 1e-3


def test_latent_depends_on_both_inputs() -> None:
    prior = case(1).prior
    assert prior is not None
    z, lr = torch.randn(1, 3, 9, 9).double(), torch.randn(1, 3, 4, 4).double()
    latent = prior(z, lr)
    assert not torch.allclose(latent, prior(z + 0.1, lr))
    assert not torch.allclose(latent, prior(z, lr + 0.1))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"patch_size": 2}, "patch size 2"),
        ({"width": 5}, "prior width 5"),
        ({"width": 0}, "prior width 0"),
        ({"depth": 0}, "prior depth 0"),
    ],
)
def test_invalid_settings_are_refused(settings: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        UNet(**settings)


def test_batch_too_small_for_batch_norm_is_refused() -> None:
    prior = UNet(1, width=4)
    with pytest.raises(ValueError, match=r"batch norm .* raise data.batch_size"):
        prior(torch.randn(1, 3, 15, 8), torch.randn(1, 3, 4, 4))
    prior(torch.randn(1, 3, 16, 8), torch.randn(1, 3, 4, 4))
    prior(torch.randn(2, 3, 8, 8), torch.randn(2, 3, 4, 4))


# What the network sees


@pytest.mark.parametrize(
    ("lr_size", "size"),
    [((5, 6), (17, 20)), ((5, 6), (5, 6)), ((7, 5), (4, 3)), ((1, 1), (3, 4)), ((1, 4), (1, 1))],
)
def test_lr_residual_matches_its_definition(lr_size: tuple[int, int], size: tuple[int, int]) -> None:
    lr = images(*lr_size)
    torch.testing.assert_close(lr_residual(lr, size), residual_by_definition(lr, size), rtol=0, atol=1e-12)


@pytest.mark.parametrize("patch_size", [1, 3])
def test_windows_of_a_batch_are_parts_of_its_images(patch_size: int) -> None:
    lr, sides, corners = images(7, 7, batch=3), (12, 19, 28), ((0, 0), (5, 2), (16, 16))
    centres = (torch.arange(12 // patch_size) * patch_size + patch_size // 2).double()
    coord, cell, expected = [], [], []
    for one, n, (y, x) in zip(lr, sides, corners, strict=True):
        place = torch.stack(torch.meshgrid(y + centres, x + centres, indexing="ij"), dim=-1)
        coord.append((2 * place + 1) / n - 1)
        cell.append([2 / n, 2 / n])
        expected.append(residual_by_definition(one[None], (n, n))[..., y : y + 12, x : x + 12])
    windows = window_lr_residual(lr, torch.stack(coord), torch.tensor(cell, dtype=torch.float64), patch_size)
    torch.testing.assert_close(windows, in_patches(torch.cat(expected), patch_size), rtol=0, atol=1e-12)


@pytest.mark.parametrize("patch_size", [1, 3])
def test_a_window_between_pixels_is_at_its_exact_place(patch_size: int) -> None:
    """As of given pairs at a ratio that is not whole, and with a scale for each axis."""
    lr, size = images(5, 5, batch=2), (13.2, 20.0)
    starts = torch.tensor([[0.5, 3.0], [0.0, 8.0]])
    centres = torch.arange(12 // patch_size) * patch_size + patch_size // 2
    pixels = torch.arange(12)

    def places(steps: torch.Tensor) -> torch.Tensor:
        return torch.stack(
            [
                torch.stack(
                    torch.meshgrid(
                        *((2 * (start + steps) + 1) / n - 1 for start, n in zip(of, size, strict=True)),
                        indexing="ij",
                    ),
                    -1,
                )
                for of in starts
            ]
        )

    windows = window_lr_residual(lr, places(centres), torch.tensor([[2 / n for n in size]] * 2), patch_size)
    enlarged = F.interpolate(lr, (13, 20), mode="bilinear")
    lost = lr - F.interpolate(enlarged, (5, 5), mode="bilinear")
    expected = 2 * F.grid_sample(
        lost, places(pixels).flip(-1).to(lr), mode="bilinear", padding_mode="border", align_corners=False
    )
    torch.testing.assert_close(windows, in_patches(expected, patch_size), rtol=0, atol=1e-6)


def test_scattered_patches_are_refused() -> None:
    coord, cell = queries((12, 12), 3, batch=2)
    coord[1, 2, 2] += cell[1]
    with pytest.raises(ValueError, match=r"set data\.window=true"):
        window_lr_residual(images(4, 4), coord, cell, 3)


# The image


SIZES = [
    ((6, 7), (16, 19)),
    ((6, 7), (18, 21)),
    ((6, 7), (6, 7)),
    ((6, 7), (4, 3)),
    ((1, 1), (1, 1)),
    ((1, 1), (7, 5)),
    ((5, 1), (2, 13)),
    ((30, 1), (1, 1)),
]


@pytest.mark.parametrize("patch_size", [1, 3])
@pytest.mark.parametrize(("lr_size", "size"), SIZES)
def test_prior_image_matches_flow_condition_and_prior(
    patch_size: int, lr_size: tuple[int, int], size: tuple[int, int]
) -> None:
    """All queries at once through the training path: no blocks, no tiles, no buffers."""
    model, lr = case(patch_size), images(*lr_size)
    assert model.prior is not None
    condition = model.condition(lr, *queries(size, patch_size, batch=2))
    r = in_patches(residual_by_definition(lr, size), patch_size)
    columns, _ = model.flow(r.permute(1, 0, 2, 3).flatten(1), condition)
    z_lr = columns.view(-1, 2, *r.shape[-2:]).transpose(0, 1)
    # Coordinates of `sample` are in float32.
    torch.testing.assert_close(model.lr_latent(lr, size), z_lr, rtol=0, atol=1e-6)
    latent = model.prior(z_lr, 2 * lr - 1)
    x = model.flow.inverse(latent.permute(1, 0, 2, 3).flatten(1), condition)
    residual = F.pixel_shuffle(x.view(-1, 2, *r.shape[-2:]).transpose(0, 1), patch_size)
    up_y, up_x = (enlarging(n, m) for n, m in zip(lr_size, size, strict=True))
    expected = up_y @ lr @ up_x.T + residual[..., : size[0], : size[1]] / 2
    image = model.sample_prior(lr, size)
    assert image.shape == (2, 3, *size)
    torch.testing.assert_close(image, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("patch_size", [1, 3])
@pytest.mark.parametrize("size", [(60, 63), (41, 50), (14, 15)])
def test_tiled_encoding_matches_the_whole_image(patch_size: int, size: tuple[int, int]) -> None:
    model, lr = case(patch_size), images(28, 25, batch=1)
    latent, image = model.lr_latent(lr, size), model.sample_prior(lr, size)
    for tile in (8, 5):
        features = model.encode(lr, tile=tile)
        torch.testing.assert_close(model.lr_latent(lr, size, features=features), latent, rtol=0, atol=1e-12)
        tiled = model.sample_prior(lr, size, features=features)
        torch.testing.assert_close(tiled, image, rtol=0, atol=1e-11)


def test_tiled_encoding_matches_the_whole_image_in_single_precision() -> None:
    model, lr = case(3).float(), images(28, 25, batch=1).float()
    whole = model.lr_latent(lr, (71, 55))
    assert whole.abs().max() > 0.1
    torch.testing.assert_close(
        model.lr_latent(lr, (71, 55), features=model.encode(lr, tile=8)), whole, rtol=0, atol=1e-4
    )


def test_prior_sample_is_deterministic() -> None:
    model, lr = case(3), images(6, 7)
    state = torch.random.get_rng_state()
    first = model.sample_prior(lr, (16, 19))
    assert torch.equal(first, model.sample_prior(lr, (16, 19)))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.allclose(first, model.sample(lr, (16, 19), temperature=0))


def test_images_of_a_batch_are_independent() -> None:
    model, lr = case(3), images(6, 7, batch=3)
    together = model.sample_prior(lr, (16, 19))
    for i in range(3):
        alone = model.sample_prior(lr[i : i + 1], (16, 19))
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("tile", [256, 8])
def test_each_tile_is_encoded_once_for_all_that_is_made_of_it(tile: int) -> None:
    model, lr, size = case(3), images(28, 25, batch=1), (60, 63)
    sizes: list[tuple[int, ...]] = []
    model.encoder.register_forward_hook(lambda module, args, out: sizes.append(tuple(args[0].shape)))
    tiles = math.prod(-(-n // tile) for n in (28, 25))
    features = model.encode(lr, tile=tile)
    assert len(sizes) == tiles
    image = model.sample_prior(lr, size, features=features)
    mean = model.sample(lr, size, temperature=0, features=features)
    assert len(sizes) == tiles
    torch.testing.assert_close(image, model.sample_prior(lr, size), rtol=0, atol=1e-11)
    torch.testing.assert_close(mean, model.sample(lr, size, temperature=0, tile=tile), rtol=0, atol=1e-12)


def test_model_without_a_prior_is_refused() -> None:
    with pytest.raises(ValueError, match="LINF has no prior: train one with task=prior"):
        case(3, prior=False).sample_prior(images(6, 7), (16, 19))


@pytest.mark.parametrize("size", [(0, 5), (2.5, 5), (5,), (10**6, 10**6)])
def test_invalid_or_too_large_size_is_refused(size: tuple) -> None:
    for method in (case(1).sample_prior, case(1).lr_latent):
        with pytest.raises(ValueError, match="output size"):
            method(images(6, 7), size)


def test_a_prior_of_another_patch_size_is_refused() -> None:
    with pytest.raises(ValueError, match="the prior is for patches of 1, the flow for patches of 3"):
        case(3).set_prior(UNet(1, width=4))


# Files


def test_config_rebuilds_the_model() -> None:
    model, lr = case(3), images(6, 7)
    config = json.loads(json.dumps(model.config))
    assert config["prior"] == {"name": "UNet", "patch_size": 3, "width": 4, "depth": 3}
    assert "prior" not in case(3, prior=False).config
    again = build(config).double().eval()
    assert again.config == config
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.sample_prior(lr, (16, 19)), model.sample_prior(lr, (16, 19)))


def test_a_saved_model_comes_back_with_its_prior(tmp_path: Path) -> None:
    model, lr = case(3).float(), images(6, 7).float()
    linf.save(model, tmp_path / "model.safetensors")
    again = linf.load(tmp_path / "model.safetensors")
    assert isinstance(again, LINF)
    assert not again.training
    assert torch.equal(again.sample_prior(lr, (16, 19)), model.sample_prior(lr, (16, 19)))


def test_a_model_with_a_prior_starts_from_one_without_and_from_one_with(tmp_path: Path) -> None:
    with_prior, without = case(3).float(), case(3, prior=False).float()
    for name, model in (("with", with_prior), ("without", without)):
        linf.save(model, tmp_path / f"{name}.safetensors")
    started = build(with_prior.config)
    before = {name: value.clone() for name, value in started.state_dict().items()}
    start_from(tmp_path / "without.safetensors", started)
    for name, value in started.state_dict().items():
        expected = before[name] if name.startswith("prior.") else without.state_dict()[name]
        assert torch.equal(value, expected), name
    start_from(tmp_path / "with.safetensors", started)
    assert all(torch.equal(v, with_prior.state_dict()[k]) for k, v in started.state_dict().items())


# Training


class Differences(nn.Module):
    """Stands for the perceptual distance, whose weights are not at hand: differences of neighbours."""

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        error = sr.clamp(0, 1) - hr
        return error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()


def whole_images(patch_size: int, lr_size: tuple[int, int], size: tuple[int, int]) -> SRBatch:
    """A batch whose windows are all of their images, of whole patches."""
    coord, cell = (part.double() for part in queries(size, patch_size, batch=2))
    return SRBatch(images(*lr_size), F.pixel_unshuffle(images(*size), patch_size), coord, cell)


@pytest.mark.parametrize("patch_size", [1, 3])
def test_the_loss_is_of_the_image_that_is_sampled(patch_size: int) -> None:
    # No query lies on the centre of an LR pixel, where its neighbours would be a matter of rounding.
    model, size = case(patch_size), (27, 24)
    batch = whole_images(patch_size, (8, 7), size)
    loss = LearnedPrior(0.5, 0.25, 2.0, features=Differences)  # type: ignore[arg-type]
    parts = loss(model, batch)
    image, hr = model.sample_prior(batch.lr, size), F.pixel_shuffle(batch.hr, patch_size)
    assert parts["l1"].item() == pytest.approx(2 * (image - hr).abs().mean().item(), rel=1e-5)
    assert parts["perceptual"].item() == pytest.approx(Differences()(image, hr).item(), rel=1e-5)
    residual = model.residual(*batch).transpose(0, 1).flatten(1)
    z_hr, _ = model.flow(residual, model.condition(batch.lr, batch.coord, batch.cell))
    assert model.prior is not None
    latent = model.prior(model.lr_latent(batch.lr, size), 2 * batch.lr - 1).transpose(0, 1).flatten(1)
    assert parts["l1_latent"].item() == pytest.approx((latent - z_hr).abs().mean().item(), rel=1e-5)
    weighed = 0.5 * parts["perceptual"] + 0.25 * parts["l1_latent"] + 2 * parts["l1"]
    torch.testing.assert_close(parts["loss"], weighed)
    aligned = LearnedPrior(0, 0, 1, aligned=True)(model, batch)
    assert aligned["loss"].item() == pytest.approx(parts["l1"].item(), rel=1e-5)


def test_an_aligned_window_takes_the_features_beneath_it() -> None:
    """In an image whose left half is black, a window on the right half."""
    model = case(1)
    lr, hr = images(12, 12), images(24, 24)
    batch = whole_images(1, (12, 12), (24, 24))
    right = SRBatch(lr, hr[..., 12:], batch.coord[:, :, 12:], batch.cell)
    dark = lr.clone()
    dark[..., :5] = 0
    aligned, as_published = (
        [LearnedPrior(0, 1, aligned=a)(model, right._replace(lr=p))["loss"].item() for p in (lr, dark)]
        for a in (True, False)
    )
    assert abs(as_published[0] - as_published[1]) > 0
    assert len({*aligned, *as_published}) == 4


@pytest.mark.parametrize(
    "weights", [{"perceptual": 1.0}, {"perceptual": 0, "l1_latent": 1.0}, {"perceptual": 0, "l1": 1.0}]
)
def test_every_weight_of_the_prior_and_none_of_linf_gets_a_gradient(weights: dict[str, float]) -> None:
    torch.manual_seed(0)
    model = case(3)
    assert model.prior is not None
    model.requires_grad_(False).train()
    model.prior.requires_grad_(True)
    LearnedPrior(**weights, features=Differences)(model, whole_images(3, (9, 9), (27, 27)))[  # type: ignore[arg-type]
        "loss"
    ].backward()
    for name, parameter in model.named_parameters():
        if name.startswith("prior."):
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.any(), name
        else:
            assert parameter.grad is None, name


def training(model: LINF) -> PriorTraining:
    return PriorTraining(model, loss=LearnedPrior(0, 1), optimizer=partial(torch.optim.Adam, lr=1e-2))


def test_only_the_prior_trains() -> None:
    task = training(case(3))
    prior = {id(p) for p in task.model.prior.parameters()}  # type: ignore[union-attr]
    (group,) = task.configure_optimizers().param_groups
    assert {id(p) for p in group["params"]} == prior
    for mode in (True, False, True):
        task.train(mode)
        for name, module in task.model.named_modules():
            if name:
                assert module.training == (mode and name.startswith("prior")), name


def test_a_model_without_a_prior_is_not_trained() -> None:
    with pytest.raises(UsageError, match="LINF has no prior to train"):
        training(case(3, prior=False))


NARROW = (
    "model=linf_patch",
    "encoder.blocks=1",
    "encoder.channels=4",
    "model.conditioner.width=8",
    "model.conditioner.depth=1",
    "model.flow.steps=2",
)
"""As the fixture `checkpoint` is."""

TINY = (
    *NARROW,
    "task=prior",
    "model.prior.width=4",
    "data.batch_size=2",
    "data.batches_per_epoch=1",
    "data.crop=24",
    "data.num_workers=0",
    "data.val_scales=[2,3.3]",
    "data.val_crop=40",
    "data.val_limit=1",
    "trainer.max_epochs=2",
    "callbacks.progress.refresh_rate=0",
)


def fit(config: DictConfig, init_from: Path | None) -> tuple[PriorTraining, pl.Trainer]:
    """What ``train.py`` does."""
    pl.seed_everything(config.seed, workers=True)
    data, task, trainer = instantiate(config.data), instantiate(config.task), instantiate(config.trainer)
    if init_from:
        start_from(init_from, task.model)
    trainer.fit(task, data, ckpt_path=config.ckpt_path)
    return task, trainer


def without_vgg(*overrides: str) -> tuple[str, ...]:
    return (*TINY, "task.loss.perceptual=0", "task.loss.l1_latent=1", "task.loss.l1=1", *overrides)


@pytest.mark.parametrize("aligned", ["true", "false"])
def test_training_moves_the_whole_prior_and_no_bit_of_linf(
    composed: Compose, checkpoint: Path, photos: Path, tmp_path: Path, aligned: str
) -> None:
    given = without_vgg(f"task.loss.aligned={aligned}", "data=folder", f"data.root={photos}")
    config = composed("train", *given, "data.scale=[1,1.6]", f"run_dir={tmp_path}")
    pl.seed_everything(0)
    fresh = {name: value.clone() for name, value in instantiate(config.model).state_dict().items()}
    task, trainer = fit(config, checkpoint)
    assert trainer.global_step == 2
    given_linf = linf.load(checkpoint).state_dict()
    for source in (task.model, linf.load(tmp_path / "checkpoints" / "last.ckpt")):
        for name, value in source.state_dict().items():
            if name in given_linf:
                assert torch.equal(value, given_linf[name]), name
            else:
                assert not torch.equal(value, fresh[name]), name
    assert all(math.isfinite(trainer.callback_metrics[f"val/psnr{s}"]) for s in ("", "_x2", "_x3.3"))


@pytest.mark.slow
def test_an_interrupted_training_goes_on_bit_for_bit(
    composed: Compose, checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    def run(name: str, *overrides: str) -> dict[str, Tensor]:
        data = ("data=folder", f"data.root={photos}", "data.scale=[1,1.6]")
        config = composed("train", *without_vgg(*data, *overrides), f"run_dir={tmp_path / name}")
        fit(config, None if config.ckpt_path else checkpoint)
        content = torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)
        return {**content["state_dict"], **{f"now.{k}": v for k, v in content["current_model_state"].items()}}

    whole = run("whole")
    run("half", "trainer.max_epochs=1")
    resumed = run("half", f"ckpt_path={tmp_path / 'half' / 'checkpoints' / 'last.ckpt'}")
    assert whole.keys() == resumed.keys()
    assert "now.model.prior.inc.double_conv.1.running_mean" in whole
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_validation_scores_the_priors_image(
    composed: Compose, checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    given = (*without_vgg("data=folder", f"data.root={photos}", "data.scale=[1,1.6]"), "task.val_scales=[2]")
    config = composed("train", *given, "data.val_scales=[2]", "callbacks.ema.decay=0", f"run_dir={tmp_path}")
    task, trainer = fit(config, checkpoint)
    image = trainer.datamodule.val_pairs[0]  # type: ignore[attr-defined]
    size = (image.hr.shape[-2], image.hr.shape[-1])
    sr = task.model.eval().sample_prior(image.lr[None], size)[0]
    weights = torch.tensor([65.738, 129.057, 25.064]).view(3, 1, 1) / 256
    error = ((sr.clamp(0, 1) - image.hr) * weights).sum(0)[2:-2, 2:-2]
    expected = -10 * math.log10(error.square().mean())
    assert trainer.callback_metrics["val/psnr"].item() == pytest.approx(expected, abs=1e-3)


def test_an_untrained_linf_is_refused(composed: Compose, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the prior needs a trained LINF: .* init_from"):
        fit(composed("train", *without_vgg(), f"run_dir={tmp_path}"), None)


def test_prior_config_matches_the_paper(composed: Compose) -> None:
    config = composed("train", "task=prior", "model=linf_patch")
    loss, data = config.task.loss, config.data
    assert (loss.perceptual, loss.l1_latent, loss.l1, loss.aligned) == (1, 0, 0, False)
    assert (config.task.optimizer._target_, config.task.optimizer.lr) == ("torch.optim.Adam", 1e-4)
    assert (list(config.task.scheduler.milestones), config.task.scheduler.gamma) == (
        [200, 400, 600, 800],
        0.5,
    )
    assert (data.crop, data.window, data.queries, data.batch_size) == (32, True, None, 16)
    prior = instantiate(config.model.prior)
    assert prior.config == {"patch_size": 3, "width": 64, "depth": 3}


@pytest.mark.slow
def test_the_command_trains_and_evaluates(
    command: Command, checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    done = command("train", *without_vgg(f"init_from={checkpoint}", "hydra.run.dir=run"))
    assert done.status == 0, done.err
    model = tmp_path / "run" / "model.safetensors"
    done = command(
        "eval",
        f"ckpt_path={model}",
        "data=folder",
        f"data.root={photos}",
        "data.test_scales=[2]",
        "temperatures=[0]",
    )
    assert done.status == 0, done.err
    (folder,) = (tmp_path / "outputs" / "eval").iterdir()
    assert pd.read_csv(folder / "metrics.csv")["system"].tolist() == ["bicubic", "τ=0", "prior"]


def test_a_task_without_a_checkpoint_gives_a_clear_message(command: Command) -> None:
    done = command("train", *without_vgg())
    assert done.status == 2
    assert "init_from" in done.err.splitlines()[-1]


# Evaluation


@pytest.fixture
def with_prior(checkpoint: Path, tmp_path: Path) -> Path:
    """The fixture `checkpoint` with a prior."""
    model = linf.load(checkpoint)
    assert isinstance(model, LINF)
    torch.manual_seed(0)
    model.set_prior(UNet(3, width=4).eval())
    linf.save(model, tmp_path / "with_prior.safetensors")
    return tmp_path / "with_prior.safetensors"


def test_evaluation_has_a_row_for_the_prior_from_the_same_encoding(
    composed: Compose, checkpoint: Path, with_prior: Path, photos: Path, tmp_path: Path
) -> None:
    tables: dict[Path, pd.DataFrame] = {}
    sizes: list[tuple[int, ...]] = []
    for path in (checkpoint, with_prior):
        folder = tmp_path / path.stem
        given = (f"ckpt_path={path}", "data=folder", f"data.root={photos}", f"run_dir={folder}")
        config = composed(
            "eval", *given, "data.num_workers=0", "data.test_scales=[2,3.3]", "save_images=true"
        )
        data, task, trainer = instantiate(config.data), instantiate(config.task), instantiate(config.trainer)
        sizes.clear()
        task.model.encoder.register_forward_hook(lambda module, args, out: sizes.append(args[0].shape))
        trainer.test(task, data, verbose=False)
        assert len(sizes) == 2 * 2
        tables[path] = pd.read_csv(folder / "images.csv").set_index(["scale", "image", "system"])
    both, alone = tables[with_prior], tables[checkpoint]
    others = both.index.get_level_values("system") != "prior"
    assert (~others).sum() == 2 * 2
    assert np.isfinite(both["psnr_y"]).all()
    pd.testing.assert_frame_equal(both[others], alone)
    assert len(list((tmp_path / with_prior.stem / "images").rglob("prior.png"))) == 4


# Published files


def test_a_published_prior_joins_its_linf(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    flow = ConditionalFlow(3, 2)
    model = LINF(EDSR(1, 4), partial(FourierConditioner, width=8, depth=1), flow).eval()
    prior = UNet(3, width=4).eval()
    torch.save(to_published(model), tmp_path / "linf.pth")
    args = {"in_chans": 27, "depth": 3, "dim": 4, "bilinear": True}
    content = {"prior_model": {"name": "unet", "args": args, "sd": prior.state_dict()}, "epoch": 7}
    torch.save(content, tmp_path / "prior.pth")
    joined = linf.load(tmp_path / "linf.pth", prior=tmp_path / "prior.pth")
    model.set_prior(prior)
    lr = torch.rand(1, 3, 6, 7)
    expected = model.sample_prior(lr, (13, 17))
    assert torch.equal(joined.sample_prior(lr, (13, 17)), expected)
    out = tmp_path / "joined.safetensors"
    cli.main(["convert", str(tmp_path / "linf.pth"), str(out), "--prior", str(tmp_path / "prior.pth")])
    assert torch.equal(linf.load(out).sample_prior(lr, (13, 17)), expected)
    assert torch.equal(load_prior(out).outc.conv.weight, prior.outc.conv.weight)
    capsys.readouterr()
    cli.main(["info", str(tmp_path / "prior.pth")])
    told = capsys.readouterr().out
    assert "published prior" in told
    assert "patch_size 3, width 4, depth 3" in told


def test_prior_in_place_of_a_linf_gives_a_clear_message(tmp_path: Path, checkpoint: Path) -> None:
    args = {"in_chans": 27, "depth": 1, "dim": 4, "bilinear": True}
    state = UNet(3, width=4, depth=1).state_dict()
    torch.save({"prior_model": {"name": "unet", "args": args, "sd": state}}, tmp_path / "prior.pth")
    with pytest.raises(UsageError, match="a prior without its LINF"):
        linf.load(tmp_path / "prior.pth")
    with pytest.raises(UsageError, match="holds no prior"):
        linf.load(checkpoint, prior=checkpoint)
    state.pop("outc.conv.bias")
    torch.save({"prior_model": {"name": "unet", "args": args, "sd": state}}, tmp_path / "less.pth")
    with pytest.raises(UsageError, match=r"less\.pth .*1 missing .outc.conv.bias"):
        linf.load(checkpoint, prior=tmp_path / "less.pth")
