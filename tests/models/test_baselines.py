"""Bicubic, LIIF and LTE against their definitions written out plainly."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import linf
from linf.coordinates import OFFSETS, pixel_centres
from linf.data.crops import SRBatch
from linf.evaluation.systems import systems
from linf.images.resize import bicubic
from linf.losses.flow import LikelihoodL1
from linf.losses.regression import RegressionL1
from linf.models.baselines import LIIF, LTE, Bicubic, LIIFConditioner, Regression
from linf.models.conditioner import FourierConditioner
from linf.models.decoding import Request
from linf.models.encoders import EDSR
from linf.models.flow import ConditionalFlow
from linf.models.linf import LINF

SIZE = (11, 14)


def liif() -> LIIF:
    torch.manual_seed(0)
    return LIIF(EDSR(1, 4), partial(LIIFConditioner, width=8, depth=2)).double().eval()


def lte() -> LTE:
    torch.manual_seed(0)
    return LTE(EDSR(1, 4), partial(FourierConditioner, width=8, depth=2, ensemble="local")).double().eval()


def exact_grid(height: int, width: int) -> Tensor:
    """Pixel centres in double, (height, width, 2)."""
    y, x = (pixel_centres(n, dtype=torch.float64) for n in (height, width))
    return torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1)


def nearest(maps: Tensor, coord: Tensor) -> Tensor:
    """(B,C,h,w) at (B,N,2) → (B,N,C)."""
    found = F.grid_sample(maps, coord[:, None].flip(-1), mode="nearest", align_corners=False)
    return found[:, :, 0].transpose(1, 2)


def neighbours(features: Tensor, coord: Tensor) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
    """For each neighbour its features and way, and the four area weights (4,B,N); METHOD §1."""
    h, w = features.shape[-2:]
    centres = exact_grid(h, w).permute(2, 0, 1)[None].expand(len(features), -1, -1, -1)
    found, areas = [], []
    for vy, vx in OFFSETS:
        side = torch.tensor([vy / h + 1e-6, vx / w + 1e-6], dtype=torch.float64)
        at = (coord + side).clamp(-1 + 1e-6, 1 - 1e-6)
        rel = (coord - nearest(centres, at)) * torch.tensor([h, w])
        found.append((nearest(features, at), rel))
        areas.append((rel[..., 0] * rel[..., 1]).abs() + 1e-9)
    area = torch.stack(areas)
    return found, area.flip(0) / area.sum(0)


def queries() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    lr = torch.rand(2, 3, 5, 6, dtype=torch.float64)
    coord = exact_grid(*SIZE)[None].expand(2, -1, -1, -1)
    return lr, coord, torch.tensor([[2 / SIZE[0], 2 / SIZE[1]]] * 2, dtype=torch.float64)


def test_liif_is_its_definition() -> None:
    model = liif()
    lr, coord, cell = queries()
    features = model.encoder(2 * lr - 1)
    unfolded = F.unfold(features, 3, padding=1).view(2, -1, 5, 6)
    found, weights = neighbours(unfolded, coord.flatten(1, 2))
    relative = (cell * torch.tensor([5, 6]))[:, None].expand(-1, SIZE[0] * SIZE[1], -1)
    answers = [model.conditioner.mlp(torch.cat((there, rel, relative), -1)) for there, rel in found]
    colour = sum(w[..., None] * answer for w, answer in zip(weights, answers, strict=True))
    expected = (colour.transpose(1, 2).view(2, 3, *SIZE) + 1) / 2
    torch.testing.assert_close(model.predict(lr, coord, cell), expected, rtol=0, atol=1e-12)


def test_lte_is_its_definition() -> None:
    model = lte()
    lr, coord, cell = queries()
    conditioner = model.conditioner
    features = model.encoder(2 * lr - 1)
    maps = torch.cat((conditioner.coef(features), conditioner.freq(features)), dim=1)
    found, weights = neighbours(maps, coord.flatten(1, 2))
    phase = conditioner.phase(cell * torch.tensor([5, 6]).double())[:, None]
    total = torch.zeros(2, SIZE[0] * SIZE[1], 3, dtype=torch.float64)
    for (there, rel), weight in zip(found, weights, strict=True):
        coef, freq_y, freq_x = there.split((8, 4, 4), dim=-1)
        angle = torch.pi * (freq_y * rel[..., :1] + freq_x * rel[..., 1:] + phase)
        basis = coef * torch.cat((angle.cos(), angle.sin()), dim=-1)
        total += weight[..., None] * conditioner.mlp(basis)
    bilinear = F.grid_sample(lr, coord.flip(-1), mode="bilinear", padding_mode="border", align_corners=False)
    expected = bilinear + total.transpose(1, 2).view(2, 3, *SIZE) / 2
    torch.testing.assert_close(model.predict(lr, coord, cell), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("make", [liif, lte])
@pytest.mark.parametrize("settings", [{}, {"chunk": 7}, {"tile": 3}, {"tile": 2, "chunk": 5}])
def test_sampling_is_prediction_at_every_pixel(make: type[Regression], settings: dict[str, int]) -> None:
    model = make()
    lr, coord, cell = queries()
    image = model.sample(lr, SIZE, **settings)
    torch.testing.assert_close(image, model.predict(lr, coord, cell), rtol=0, atol=1e-6)


@pytest.mark.parametrize("depth", [0, -3, 2.5, 64])
def test_bicubic_rounds_to_as_many_bits_as_files_have(depth: int) -> None:
    with pytest.raises(ValueError, match=f"depth is {depth}: give a whole number"):
        Bicubic(depth)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("depth", [8, 16])
def test_bicubic_of_an_overshooting_image_is_that_of_the_clamped_one(depth: int, dtype: torch.dtype) -> None:
    lr = torch.linspace(-0.2, 1.2, 90).view(1, 3, 5, 6).to(dtype)
    expected = Bicubic(depth).sample(lr.float().clamp(0, 1), SIZE)
    assert torch.allclose(Bicubic(depth).sample(lr, SIZE).float(), expected, atol=1e-3)
    assert torch.allclose(bicubic(lr, SIZE, 2**depth - 1).float(), expected, atol=1e-3)


def test_bicubic_of_floats_up_to_a_peak_is_that_of_the_unit() -> None:
    lr = torch.rand(1, 3, 5, 6)
    (region,) = Bicubic().regions(255 * lr, SIZE, Request(peak=255))
    assert torch.equal(region.mean, Bicubic().sample(lr, SIZE)[0])


@pytest.mark.parametrize("model", [liif(), lte(), Bicubic()], ids=["liif", "lte", "bicubic"])
def test_temperature_changes_nothing(model: Regression | Bicubic) -> None:
    lr = torch.rand(1, 3, 5, 6, dtype=torch.float64)
    one = model.sample(lr, SIZE)
    assert one.shape == (1, 3, *SIZE)
    assert torch.equal(model.sample(lr, SIZE, temperature=0.8), one)
    several = model.sample(lr, SIZE, temperature=[0, 0.8])
    assert several.shape == (2, 1, 3, *SIZE)
    assert torch.equal(several[1], one)
    with pytest.raises(ValueError, match="temperature"):
        model.sample(lr, SIZE, temperature=-1)
    with pytest.raises(ValueError, match="size"):
        model.sample(lr, (0, 3))


@pytest.mark.parametrize("make", [liif, lte])
def test_the_loss_is_twice_the_colours_error_and_reaches_every_parameter(make: type[Regression]) -> None:
    model = make()
    lr, coord, cell = queries()
    batch = SRBatch(lr, torch.rand(2, 3, *SIZE, dtype=torch.float64), coord, cell)
    loss = RegressionL1()(model, batch)["loss"]
    error = (model.predict(lr, coord, cell) - batch.hr).abs().mean()
    torch.testing.assert_close(loss, 2 * error, rtol=0, atol=1e-12)
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("make", [liif, lte])
def test_a_saved_baseline_comes_back(tmp_path: Path, make: type[Regression]) -> None:
    model = make().float()
    linf.save(model, tmp_path / "model.safetensors")
    back = linf.load(tmp_path / "model.safetensors")
    assert type(back) is type(model)
    assert back.config == model.config
    lr = torch.rand(1, 3, 5, 6)
    assert torch.equal(back.sample(lr, SIZE), model.sample(lr, SIZE))


def test_every_model_has_its_rows_and_bicubic_stands_first() -> None:
    torch.manual_seed(0)
    flow = LINF(EDSR(1, 4), partial(FourierConditioner, width=8, depth=1), ConditionalFlow(3, 2))
    lr = torch.rand(1, 3, 5, 6)
    rows = {
        "LINF": systems(flow, lr, SIZE, [0, 0.5]),
        "LIIF": systems(liif().float(), lr, SIZE, [0, 0.5]),
        "LTE": systems(lte().float(), lr, SIZE, [0, 0.5]),
        "bicubic": systems(Bicubic(), lr, SIZE, [0, 0.5]),
    }
    made = {name: list(of) for name, of in rows.items()}
    assert {name: [system.name for system in of] for name, of in made.items()} == {
        "LINF": ["bicubic", "τ=0", "τ=0.5"],
        "LIIF": ["bicubic", "LIIF"],
        "LTE": ["bicubic", "LTE"],
        "bicubic": ["bicubic"],
    }
    for of in made.values():
        assert torch.equal(of[0].images[0], bicubic(lr, SIZE))
        assert all(system.images.shape == (1, 1, 3, *SIZE) for system in of)


def test_losses_and_models_that_do_not_fit_are_told() -> None:
    lr, coord, cell = (part.float() for part in queries())
    batch = SRBatch(lr, torch.rand(2, 3, *SIZE), coord, cell)
    with pytest.raises(ValueError, match="task=regression"):
        LikelihoodL1()(liif().float(), batch)  # type: ignore[arg-type]
    flow = LINF(EDSR(1, 4), partial(FourierConditioner, width=8, depth=1), ConditionalFlow(1, 2))
    with pytest.raises(ValueError, match="LIIF and LTE"):
        RegressionL1()(flow, batch)  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", [{"width": 0}, {"depth": 0}])
def test_liif_without_a_hidden_layer_is_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="LIIF width"):
        LIIFConditioner(4, 3, **settings)
