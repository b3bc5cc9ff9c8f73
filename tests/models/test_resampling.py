"""Other samples and the deviation by the flow alone are those of a whole decode; any window decodes by itself."""

from functools import partial

import pytest
import torch

from linf.images.luma import PILLOW_GREY
from linf.models.conditioner import FourierConditioner
from linf.models.correlation import latent_fields
from linf.models.decoding import Region, Request
from linf.models.encoders import EDSR
from linf.models.explosion import EXPLODED
from linf.models.flow import ConditionalFlow
from linf.models.linf import LINF
from linf.models.resampling import deviation_parts, noise_parts
from linf.models.tiling import encode_tile

SIZE = (70, 94)


@pytest.fixture(scope="module", params=[1, 3])
def model(request: pytest.FixtureRequest) -> LINF:
    """A tiny LINF whose conditions vary."""
    torch.manual_seed(0)
    made = LINF(
        EDSR(blocks=1, channels=4),
        partial(FourierConditioner, width=8, depth=1),
        ConditionalFlow(patch_size=request.param, steps=3),
    )
    made.flow.whiten(0.1 * torch.randn(made.dim, 500))
    return made.eval()


@pytest.fixture(scope="module")
def lr() -> torch.Tensor:
    return torch.rand(1, 3, 20, 26, generator=torch.Generator().manual_seed(1))


def decoded(model: LINF, lr: torch.Tensor, seed: int, **request: object) -> list[Region]:
    latents = latent_fields([seed], lr, SIZE, model.dim, model.patch_size)
    return list(model.regions(lr, SIZE, Request(latents, chunk=200, **request)))  # type: ignore[arg-type]


def test_another_sample_is_the_models_to_a_thousandth(model: LINF, lr: torch.Tensor) -> None:
    kept = [region.kept for region in decoded(model, lr, 0, keep=True)]
    wanted = decoded(model, lr, 7)
    [latents] = latent_fields([7], lr, SIZE, model.dim, model.patch_size)
    made = list(noise_parts(model.flow, kept, latents))
    assert len(made) == len(wanted) > 1
    for part, region in zip(made, wanted, strict=True):
        assert (part.rows, part.cols) == (region.rows, region.cols)
        [noise] = region.noise
        assert noise.std() > 0.01
        torch.testing.assert_close(part.values, noise, rtol=0, atol=5e-3 * float(noise.std()))


def test_the_deviation_is_the_models_to_a_thousandth(model: LINF, lr: torch.Tensor) -> None:
    mix = torch.tensor([PILLOW_GREY])
    regions = decoded(model, lr, 0, keep=True, mix=mix)
    kept = [region.kept for region in regions]
    for part, region in zip(deviation_parts(model.flow, kept, mix), regions, strict=True):
        torch.testing.assert_close(part.values, region.deviation, rtol=3e-3, atol=0)


def test_a_patch_that_explodes_stays_without_noise(model: LINF, lr: torch.Tensor) -> None:
    class Strong:
        """Latents far beyond any image in the first patch."""

        def __getitem__(self, where: tuple[int, slice, slice]) -> torch.Tensor:
            _, rows, cols = where
            z = torch.zeros(rows.stop - rows.start, cols.stop - cols.start, model.dim)
            if rows.start == cols.start == 0:
                z[0, 0] = 1e3 * EXPLODED
                z[0, 1] = 1
            return z

    kept = [region.kept for region in decoded(model, lr, 0, keep=True)]
    p = model.patch_size
    values = next(noise_parts(model.flow, kept, Strong())).values
    assert (values[:, :p, :p] == 0).all()
    assert (values[:, :p, p : 2 * p] != 0).any()


def test_a_window_decodes_to_what_the_whole_image_has_there(model: LINF, lr: torch.Tensor) -> None:
    whole = model.sample(lr, SIZE, temperature=0.7, seed=3)[0]
    tile = encode_tile(model.encoder, lr, 0, (5, 13), (9, 22))
    regions = decoded(model, lr, 3, features=[tile])
    top, left = min(r.rows.start for r in regions), min(r.cols.start for r in regions)
    low, right = max(r.rows.stop for r in regions), max(r.cols.stop for r in regions)
    assert (low - top, right - left) == pytest.approx((8 * 3.5, 13 * 94 / 26), abs=model.patch_size)
    assert sum(r.mean[0].numel() for r in regions) == (low - top) * (right - left)
    for region in regions:
        torch.testing.assert_close(region.at(0.7).mean, whole[:, region.rows, region.cols], rtol=0, atol=1e-5)
