"""Means over images: each metric against its function, exact on any ranks, in a collection, out of conf/metrics."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lpips
import pytest
import torch
from hydra.utils import instantiate
from skimage.metrics import structural_similarity
from torch import Tensor
from torch.multiprocessing.spawn import spawn
from torchmetrics import MetricCollection

from helpers.commands import Compose
from linf.errors import UsageError
from linf.evaluation.metrics import conventions, fit_metrics
from linf.images.pixels import PixelFormat
from linf.images.resize import matlab_bicubic
from linf.metrics import dists, functional, networks
from linf.metrics import metric as metric_module
from linf.metrics.metric import (
    DISTS,
    LPIPS,
    LRPSNR,
    PSNR,
    SSIM,
    DetailEnergy,
    Diversity,
    ImageMetric,
    NonFinite,
    NTIREDiversity,
    SelfSSIM,
)

BORDER = 3


def made(files: dict[str, Path]) -> dict[str, ImageMetric]:
    """One of each kind that takes images."""
    return {
        "psnr_y": PSNR(luma=True),
        "psnr_rgb": PSNR(),
        "ssim": SSIM(),
        "lr_psnr": LRPSNR(),
        "nonfinite": NonFinite(),
        "lpips_alex": LPIPS("alex", files["alexnet"]),
        "diversity": Diversity(),
        "detail": DetailEnergy(),
        "lpips_vgg": LPIPS("vgg", files["vgg16"]),
        "dists": DISTS(files["vgg16"]),
        "ntire_diversity": NTIREDiversity(files["alexnet"]),
    }


def image(i: int, samples: int = 2) -> tuple[Tensor, Tensor, Tensor, int]:
    """What `ImageMetric.update` takes, of a size and a noise of its own."""
    generator = torch.Generator().manual_seed(i)
    hr = torch.rand(1, 3, 40 + i, 44 - i, generator=generator)
    noise = (0.02 + 0.03 * i) * torch.randn(samples, *hr.shape[1:], generator=generator)
    noise[0, 0, :i, 0] = math.inf  # Clamped like any value that is too large.
    lr = torch.rand(1, 3, 10, 11, generator=generator)
    return hr + noise, hr, lr, BORDER


@torch.no_grad()
def ntire_score(alexnet: Path, sr: Tensor, hr: Tensor) -> Tensor:
    """The challenge's own arithmetic, on the lpips package's maps."""
    package = lpips.LPIPS(spatial=True, pnet_rand=True, verbose=False).eval()
    state = torch.load(alexnet)
    names = {name: f"features.{name.split('.', 1)[1]}" for name in package.net.state_dict()}
    package.net.load_state_dict({ours: state[theirs] for ours, theirs in names.items()})
    maps = [package(2 * image.clamp(0, 1) - 1, 2 * hr - 1) for image in sr.split(1)]
    overall = min(each.mean() for each in maps)
    local = torch.stack(maps).min(0).values.mean()
    return torch.as_tensor((overall - local) / overall * 100)


@pytest.mark.filterwarnings("ignore:The parameter 'pretrained'", "ignore:Arguments other than a weight enum")
def test_the_figure_of_an_image_is_the_functions_mean_over_samples(files: dict[str, Path]) -> None:
    sr, hr, lr, border = image(2, samples=3)
    same = hr.expand_as(sr)
    alex, vgg = (
        networks.LPIPSNetwork(kind, files[net]) for kind, net in (("alex", "alexnet"), ("vgg", "vgg16"))
    )
    expected = {
        "psnr_y": functional.psnr(sr, same, border=border, luma=True).mean(),
        "psnr_rgb": functional.psnr(sr, same, border=border).mean(),
        "ssim": functional.ssim(sr, same, border=border).mean(),
        "lr_psnr": functional.lr_psnr(sr, lr).mean(),
        "nonfinite": torch.tensor(2.0),
        "lpips_alex": alex(sr, hr).mean(),
        "diversity": functional.diversity(sr[:, None])[0],
        "detail": functional.detail_energy(sr, same, lr).mean(),
        "lpips_vgg": vgg(sr, hr).mean(),
        "dists": dists.DISTSNetwork(files["vgg16"])(sr, hr).mean(),
        "ntire_diversity": ntire_score(files["alexnet"], sr, hr),
    }
    for name, metric in made(files).items():
        value = metric.of_image(sr, hr, lr, border)
        assert value.shape == ()
        assert value.dtype == torch.double
        assert value.item() == pytest.approx(expected[name].item(), rel=1e-5), name


def test_the_mean_is_over_images(files: dict[str, Path]) -> None:
    for name, metric in made(files).items():
        values = [metric.of_image(*image(i, samples=2 + i)) for i in range(3)]
        for i in range(3):
            metric.update(*image(i, samples=2 + i))
        assert metric.count == 3
        assert metric.total.dtype == metric.compute().dtype == torch.double
        assert metric.compute().item() == pytest.approx(torch.stack(values).mean().item(), rel=1e-12), name
        metric.reset()
        metric.update(*image(1))
        torch.testing.assert_close(metric.compute(), metric.of_image(*image(1)))


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_without_images_there_is_no_mean(files: dict[str, Path]) -> None:
    for metric in made(files).values():
        assert metric.compute().isnan()


def test_one_sample_has_no_diversity(files: dict[str, Path]) -> None:
    for metric in (Diversity(), NTIREDiversity(files["alexnet"])):
        assert metric.of_image(*image(0, samples=1)).isnan()
        assert metric.of_image(*image(0, samples=2)) > 1
        sr, *rest = image(0, samples=1)
        assert metric.of_image(sr.expand(3, -1, -1, -1), *rest) == 0


def test_self_ssim_is_that_of_the_reduced_image_with_the_lower_scales() -> None:
    sr = torch.rand(2, 3, 40, 48, generator=torch.Generator().manual_seed(0))
    below = matlab_bicubic(sr, (20, 24)).clamp(0, 1)
    noisy = (below + 0.1 * torch.randn(below.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    found = SelfSSIM().of_samples(sr, torch.stack([below[0], noisy[1]]), sr, BORDER)
    assert found[0].item() == pytest.approx(1, abs=1e-6)
    pair = [each[1].permute(1, 2, 0).numpy() for each in (below, noisy)]
    gaussian = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    full = structural_similarity(*pair, channel_axis=2, data_range=1, full=True, **gaussian)[1]
    assert found[1].item() == pytest.approx(full[5:-5, 5:-5].mean(), abs=1e-4)


def test_nonfinite_values_are_counted_over_the_samples() -> None:
    sr, *rest = image(0, samples=3)
    sr[0, 0, 0, 0], sr[1, 1, :2, 1] = math.nan, -math.inf
    metric = NonFinite()
    metric.update(sr, *rest)
    metric.update(*image(0))
    assert metric.compute() == 1.5


def test_every_metric_says_whether_higher_is_better() -> None:
    kinds = {name: kind for name, kind in vars(metric_module).items() if isinstance(kind, type)}
    told = {
        name: kind.higher_is_better
        for name, kind in kinds.items()
        if issubclass(kind, ImageMetric) and kind is not ImageMetric
    }
    up = {"PSNR", "SSIM", "LRPSNR", "Diversity", "NTIREDiversity", "SelfSSIM"}
    assert told == {name: name in up for name in (*up, "LPIPS", "DISTS", "NonFinite")} | {
        "DetailEnergy": None
    }


def test_a_collection_keeps_metrics_with_equal_first_values_apart(files: dict[str, Path]) -> None:
    """Of a perfect image every PSNR is infinite, and neither diversity nor a value that is not finite is there."""
    _, hr, _, border = image(1)
    perfect = hr.repeat(2, 1, 1, 1), hr, hr, border
    metrics = made(files)
    collection = MetricCollection(copy.deepcopy(metrics))
    for given in (perfect, image(3)):
        collection.update(*given)
        for metric in metrics.values():
            metric.update(*given)
    values = collection.compute()
    alone = {name: metric.compute().item() for name, metric in metrics.items()}
    # LR of HR's size leaves no detail.
    assert {name: value.item() for name, value in values.items()} == pytest.approx(alone, rel=0, nan_ok=True)
    assert math.isinf(values["psnr_y"])
    collection.reset()
    last = collection(*image(3))
    assert last["ssim"] == collection["ssim"].of_image(*image(3))
    clone = collection.clone()
    assert clone["dists"].network is collection["dists"].network
    clone.reset()
    assert collection.compute()["psnr_y"] == last["psnr_y"] != math.inf


# Ranks


SHARES = {"3 and 0": ((0, 1, 2), ()), "2 and 1": ((0, 2), (1,)), "0 and 1": ((), (2,))}


def means(metrics: dict[str, Any], share: tuple[int, ...]) -> dict[str, float]:
    """Every metric of these images, and of those of other ranks."""
    for metric in metrics.values():
        metric.reset()
        for i in share:
            metric.update(*image(i))
    return {name: metric.compute().item() for name, metric in metrics.items()}


def rank(number: int, files: dict[str, Path], folder: Path) -> None:
    """One of two processes, over all of `SHARES`."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder / 'store'}", rank=number, world_size=2)
    metrics = made(files)
    torch.save({of: means(metrics, shares[number]) for of, shares in SHARES.items()}, folder / f"{number}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.thorough
def test_two_ranks_compute_the_mean_of_one(files: dict[str, Path], tmp_path: Path) -> None:
    ranks = spawn(rank, (files, tmp_path), nprocs=2, join=False)
    metrics = made(files)
    alone = {of: means(metrics, sum(shares, ())) for of, shares in SHARES.items()}
    assert not any(math.isnan(value) for values in alone.values() for value in values.values())
    while not ranks.join():
        pass
    for number in range(2):
        found = torch.load(tmp_path / f"{number}.pt")
        for of, values in alone.items():
            assert found[of] == pytest.approx(values, rel=1e-9, abs=1e-9), of


# conf/metrics


FIDELITY = ["psnr_y", "psnr_rgb", "ssim", "lr_psnr", "nonfinite"]
GENERATIVE = [*FIDELITY, "lpips_alex", "diversity", "detail"]
NO_REFERENCE = ["musiq", "maniqa", "clipiqa"]
MORE = ["lpips_vgg", "dists", "fid", "kid", "niqe", "self_ssim", "ntire_diversity", *NO_REFERENCE]
GROUPS = {"fidelity": FIDELITY, "generative": GENERATIVE, "all": [*GENERATIVE, *MORE]}
WEIGHTS = {
    "lpips_alex": "alexnet",
    "lpips_vgg": "vgg16",
    "dists": "vgg16",
    "niqe": "niqe",
    "ntire_diversity": "alexnet",
}


@pytest.mark.usefixtures("places")
@pytest.mark.parametrize("group", GROUPS)
def test_each_entry_of_a_group_is_built_or_says_what_it_lacks(composed: Compose, group: str) -> None:
    constructors: dict[str, Callable[[], ImageMetric]] = instantiate(
        composed("eval", f"metrics={group}").metrics
    )
    assert list(constructors) == GROUPS[group]
    for name, constructor in constructors.items():
        if name in NO_REFERENCE:
            with pytest.raises(ValueError, match="pyiqa"):
                constructor()
        elif name in ("fid", "kid"):
            with pytest.raises(UsageError, match="for FID and KID: there is no"):
                constructor()
        elif name in WEIGHTS:
            with pytest.raises(UsageError, match=f"linf weights fetch {WEIGHTS[name]}"):
                constructor()
        else:
            assert constructor().figure == name


@pytest.mark.usefixtures("places")
def test_weights_can_be_named(composed: Compose, files: dict[str, Path]) -> None:
    weights = {name: net for name, net in WEIGHTS.items() if net in files}
    overrides = [f"metrics.{name}.weights={files[net]}" for name, net in weights.items()]
    constructors = instantiate(composed("eval", "metrics=all", *overrides).metrics)
    for name in weights:
        assert constructors[name]().of_image(*image(0)) > 0
        assert constructors[name]().figure == name


@pytest.mark.parametrize(("channels", "on"), [(1, "on Y"), (3, "on Y"), (5, "on all channels")])
def test_images_that_have_no_y_are_not_said_to_be_measured_on_it(channels: int, on: str) -> None:
    metrics = torch.nn.ModuleDict({"psnr_y": PSNR(luma=True)})
    fit_metrics(metrics, PixelFormat(channels))
    assert conventions(metrics)["psnr_y"].startswith(on)
