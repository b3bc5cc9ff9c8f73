"""Models of images with other than three channels: D = C·P², files, and images that do not fit."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import linf
from helpers.networks import write_network
from linf.checkpoints.graph import Graph, difference
from linf.checkpoints.published import to_published
from linf.checkpoints.start import start_encoder_from, start_from
from linf.errors import UsageError
from linf.losses.perceptual import Perceptual
from linf.models.baselines import LIIF, LTE, Bicubic, LIIFConditioner, Regression
from linf.models.conditioner import FourierConditioner
from linf.models.encoders import EDSR, RDN, Encoder, RRDBNet, SwinIR
from linf.models.flow import ConditionalFlow
from linf.models.linf import LINF
from linf.models.prior import UNet

SIZE = (14, 11)
ENCODERS = {
    "edsr": partial(EDSR, 1, 4),
    "rdn": partial(RDN, 1, 1, 4, 4),
    "rrdb": partial(RRDBNet, 1, 4, 4),
    "swinir": partial(SwinIR, 4, [1], [2], window=2, out_channels=4),
}
FOURIER = partial(FourierConditioner, width=8, depth=1)


def model(channels: int, patch_size: int = 3, *, prior: bool = False) -> LINF:
    torch.manual_seed(0)
    flow = ConditionalFlow(patch_size, 2, image_channels=channels)
    made = LINF(
        EDSR(1, 4, image_channels=channels),
        FOURIER,
        flow,
        UNet(patch_size, width=4, depth=1, image_channels=channels) if prior else None,
    )
    made.flow.whiten(0.1 * torch.randn(flow.dim, 50 * flow.dim))
    return made.eval()


def image(channels: int, height: int = 7, width: int = 5) -> Tensor:
    return torch.rand(1, channels, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_the_flow_has_channels_times_patch_size_squared_dimensions(channels: int) -> None:
    flow = ConditionalFlow(3, 2, image_channels=channels).double()
    assert flow.dim == 9 * channels
    generator = torch.Generator().manual_seed(0)
    x, condition = (
        torch.randn(n, 1, dtype=torch.float64, generator=generator) for n in (flow.dim, flow.condition_dim)
    )
    jacobian = torch.autograd.functional.jacobian(lambda x: flow(x, condition)[0][:, 0], x)[..., 0]
    assert isinstance(jacobian, Tensor)
    logabsdet = torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(flow(x, condition)[1][0], logabsdet)
    inverse = torch.linalg.inv(jacobian)
    # Variance of each value: the diagonal of A Aᵀ, and A is the inverse's Jacobian.
    torch.testing.assert_close(flow.moments(condition)[1][:, 0], inverse.square().sum(1))


@pytest.mark.parametrize("channels", [1, 5])
@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder_takes_other_images(name: str, channels: int) -> None:
    encoder: Encoder = ENCODERS[name](image_channels=channels)
    assert encoder(torch.zeros(2, channels, 6, 4)).shape == (2, encoder.out_channels, 6, 4)
    assert encoder.config["image_channels"] == channels
    assert "image_channels" not in ENCODERS[name]().config, "files of RGB models stay as they were"


@pytest.mark.parametrize("channels", [1, 5])
def test_samples_are_the_base_and_the_flows_inverse(channels: int) -> None:
    of, lr = model(channels, patch_size=1), image(channels)
    z = of.sample_latents(SIZE, 3)
    made = of.sample(lr, SIZE, temperature=0.7, z=z, tile=4)
    assert made.shape == (1, channels, *SIZE)
    y, x = (2 * (torch.arange(n) + 0.5) / n - 1 for n in SIZE)
    coord = torch.stack(torch.meshgrid(y, x, indexing="ij"), -1)[None]
    condition = of.condition(lr, coord, torch.tensor([[2 / n for n in SIZE]]))
    residual = of.flow.inverse(0.7 * z.view(-1, channels).T, condition)
    base = F.interpolate(lr, SIZE, mode="bilinear", align_corners=False)
    torch.testing.assert_close(made, base + residual.view(1, channels, *SIZE) / 2, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("channels", [1, 5])
def test_the_distribution_and_the_prior_have_all_channels(channels: int) -> None:
    of, lr = model(channels, prior=True), image(channels)
    known = of.distribution(lr, SIZE, seed=0, mix=torch.eye(channels), hr=torch.rand(1, channels, *SIZE))
    assert known is not None
    assert known.deviation is not None
    assert known.latents is not None
    assert known.mean.shape == known.deviation.shape == (1, channels, *SIZE)
    assert known.latents.shape[1] == 9 * channels
    assert of.sample_prior(lr, SIZE).shape == (1, channels, *SIZE)


def test_grey_fits_a_model_of_rgb_wherever_it_is_asked() -> None:
    of, grey, hr = model(3, prior=True), image(1), torch.rand(1, 1, *SIZE)
    rgb, rgb_hr = (i.expand(-1, 3, -1, -1) for i in (grey, hr))
    torch.testing.assert_close(of.sample_prior(grey, SIZE), of.sample_prior(rgb, SIZE))
    torch.testing.assert_close(of.lr_latent(grey, SIZE), of.lr_latent(rgb, SIZE))
    known, expected = of.distribution(grey, SIZE, hr=hr), of.distribution(rgb, SIZE, hr=rgb_hr)
    assert known is not None
    assert expected is not None
    torch.testing.assert_close(known.latents, expected.latents)


def test_what_is_no_batch_of_images_in_floats_is_told() -> None:
    of, lr = model(3, prior=True), image(3)
    for given, words in (((255 * lr).byte(), r"type torch\.uint8"), (lr[0], r"shape \(3, ")):
        for call in (of.sample, of.sample_prior, of.lr_latent, of.distribution):
            with pytest.raises(ValueError, match=words + r".*give images \(B,C,h,w\) of floats"):
                call(given, SIZE)
    with pytest.raises(ValueError, match=r"HR has shape \(1, 3, 5, 5\), and 1 of \("):
        of.distribution(lr, SIZE, hr=torch.zeros(1, 3, 5, 5))
    numbers = np.array(SIZE)
    assert of.sample(lr, (numbers[0], numbers[1]), temperature=0).shape == (1, 3, *SIZE)


@pytest.mark.parametrize("make", [LIIF, LTE])
def test_baselines_answer_with_all_channels(make: type[Regression]) -> None:
    conditioner = partial(LIIFConditioner, width=8, depth=1) if make is LIIF else FOURIER
    of = make(EDSR(1, 4, image_channels=5), conditioner).eval()
    assert of.sample(image(5), SIZE).shape == (1, 5, *SIZE)
    assert torch.equal(of.sample(image(5), SIZE, tile=3), of.sample(image(5), SIZE))


@pytest.mark.parametrize("channels", [1, 5])
def test_files_tell_the_number_of_channels(tmp_path: Path, channels: int) -> None:
    of = model(channels, prior=True)
    linf.save(of, tmp_path / "a.safetensors")
    again = linf.load(tmp_path / "a.safetensors")
    assert again.image_channels == channels
    lr = image(channels)
    assert torch.equal(
        again.sample(lr, SIZE, temperature=1, seed=0), of.sample(lr, SIZE, temperature=1, seed=0)
    )


def test_an_exported_graph_has_all_channels() -> None:
    of = model(5)
    assert difference(of, Graph(of)) < 1e-5


def test_images_that_do_not_fit_are_told() -> None:
    with pytest.raises(
        ValueError, match=r"the image has 5 channels, and the model is for images of 3: .*channels=5"
    ):
        model(3).sample(image(5), SIZE)
    with pytest.raises(ValueError, match="the image has 1 channel, and the model is for images of 5"):
        model(5).distribution(image(1), SIZE)
    grey = model(3).sample(image(1), SIZE)
    torch.testing.assert_close(grey, model(3).sample(image(1).expand(-1, 3, -1, -1), SIZE))
    assert Bicubic().sample(image(5), SIZE).shape == (1, 5, *SIZE)


def test_parts_that_do_not_fit_are_told() -> None:
    with pytest.raises(ValueError, match="the encoder is for images of 3 channels, the flow for 5"):
        LINF(EDSR(1, 4), FOURIER, ConditionalFlow(image_channels=5))
    with pytest.raises(ValueError, match="the prior is for images of 3 channels, the flow for 5"):
        model(5).set_prior(UNet(3, width=4, depth=1))
    with pytest.raises(ValueError, match="image_channels is 0: give a whole number of at least 1"):
        EDSR(1, 4, image_channels=0)


def test_weights_of_other_images_are_refused(tmp_path: Path) -> None:
    linf.save(model(3), tmp_path / "rgb.safetensors")
    with pytest.raises(UsageError, match=r"encoder.image_channels is 3 there and 5 here"):
        start_from(tmp_path / "rgb.safetensors", model(5))
    with pytest.raises(UsageError, match=r"images with 3 channels, and this run is for 5: .*data.channels=3"):
        start_encoder_from(tmp_path / "rgb.safetensors", model(5).encoder)
    with pytest.raises(
        UsageError, match="the published format is for RGB, and the model for images of 5 channels"
    ):
        to_published(model(5))


def test_the_perceptual_loss_needs_rgb(vgg: Path) -> None:
    with pytest.raises(ValueError, match=r"compares RGB images, and these have 5 channels: .*perceptual=0"):
        Perceptual("vgg16", vgg)(torch.rand(1, 5, 16, 16), torch.rand(1, 5, 16, 16))


@pytest.fixture(scope="module")
def vgg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_network(tmp_path_factory.mktemp("vgg") / "vgg16.pth", "vgg16")
