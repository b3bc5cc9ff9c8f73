"""What models take from a caller: images of any precision, and arguments that are checked."""

import re
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from linf.models.baselines import LIIF, LIIFConditioner
from linf.models.conditioner import FourierConditioner
from linf.models.encoders import EDSR
from linf.models.flow import ConditionalFlow
from linf.models.linf import LINF
from linf.models.prior import UNet
from linf.models.self_ensemble import self_ensemble

SIZE = (11, 13)


def model(patch_size: int = 3) -> LINF:
    torch.manual_seed(0)
    flow, prior = ConditionalFlow(patch_size, 2), UNet(patch_size, width=4, depth=1)
    return LINF(EDSR(1, 4), partial(FourierConditioner, width=8, depth=1), flow, prior).eval()


def images(batch: int = 1) -> Tensor:
    return torch.rand(batch, 3, 5, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_an_image_may_have_another_precision_than_the_model(dtype: torch.dtype) -> None:
    of, lr = model(), images().to(dtype)
    liif = LIIF(EDSR(1, 4), partial(LIIFConditioner, width=8, depth=1)).eval()
    for call in (
        partial(of.sample, size=SIZE, seed=0),
        partial(of.sample_prior, size=SIZE),
        partial(liif.sample, size=SIZE),
        lambda lr: of.distribution(lr, SIZE, seed=0).at(0.5)[0],
    ):
        given = call(lr)
        assert given.dtype == dtype
        torch.testing.assert_close(
            given.float(), call(lr.float()), rtol=0, atol=2e-5 if dtype.itemsize > 2 else 0.03
        )
    assert of.double().sample(images(), SIZE).dtype == torch.float32


# Mistakes


@pytest.mark.parametrize(
    ("lr", "words"),
    [
        (torch.zeros(1, 3, 5, 6, dtype=torch.uint8), r"type torch\.uint8: give images"),
        (torch.zeros(3, 5, 6), r"shape \(3, 5, 6\)"),
        (torch.zeros(1, 4, 5, 6), "the image has 4 channels"),
        (torch.zeros(1, 3, 0, 6), r"shape \(1, 3, 0, 6\)"),
        (np.zeros((1, 3, 5, 6), np.float32), "LR is a ndarray: give a tensor"),
    ],
)
def test_what_is_no_image_is_refused_wherever_it_is_given(lr: Any, words: str) -> None:
    liif = LIIF(EDSR(1, 4), partial(LIIFConditioner, width=8, depth=1))
    for of in (model(), liif):
        for call in (of.encode, partial(of.sample, size=SIZE)):
            with pytest.raises(ValueError, match=words):
                call(lr)


@pytest.mark.parametrize(
    ("hr", "words"),
    [
        (torch.zeros(1, 3, *SIZE, dtype=torch.uint8), r"HR has type torch\.uint8"),
        (torch.zeros(1, 4, *SIZE), "the image has 4 channels"),
        (np.zeros((1, 3, *SIZE)), "HR is a ndarray"),
    ],
)
def test_a_likelihood_of_what_is_no_image_is_refused(hr: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        model().distribution(images(), SIZE, hr=hr)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("patch_size", [1, 3])
def test_a_model_of_half_precision_samples_and_measures(dtype: torch.dtype, patch_size: int) -> None:
    """Its flow computes in single precision, as in autocast."""
    of, lr = model(patch_size), images()
    expected = of.distribution(lr, SIZE, seed=0, hr=torch.full((1, 3, *SIZE), 0.5), mix=torch.eye(3))
    of.to(dtype)
    for given in (lr, lr.to(dtype)):
        found = of.distribution(
            given, SIZE, seed=0, hr=torch.full((1, 3, *SIZE), 0.5).to(given), mix=torch.eye(3)
        )
        torch.testing.assert_close(found.at(0.5)[0], expected.at(0.5)[0].to(given), rtol=0, atol=0.05)
        torch.testing.assert_close(found.log_prob, expected.log_prob.to(given), rtol=0.05, atol=0.5)


@pytest.mark.parametrize("temperature", [np.float32(0.5), np.array(0.5), [np.float32(0.5)], np.array([0.5])])
def test_a_temperature_may_be_of_numpy(temperature: Any) -> None:
    of, lr = model(), images()
    found = of.sample(lr, SIZE, temperature=temperature, seed=0)
    expected = of.sample(lr, SIZE, temperature=[0.5] if np.ndim(temperature) else 0.5, seed=0)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("latents", "words"),
    [("correlate", "give one of independent, correlated"), ("correlated", "linf latents")],
)
def test_latents_that_there_are_not_are_refused_at_zero_too(latents: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        model().sample(images(), SIZE, temperature=0, latents=latents)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"samples": -1}, "samples are -1: give a whole number"),
        ({"samples": 1.5}, r"samples are 1\.5: give a whole number"),
        ({"mix": torch.eye(4)}, r"mix has shape \(4, 4\): give \(M,3\)"),
        ({"mix": torch.ones(3)}, r"mix has shape \(3,\): give \(M,3\)"),
    ],
)
def test_no_distribution_of_other_samples_or_mixtures(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        model().distribution(images(), SIZE, **wrong)


@pytest.mark.parametrize("wrong", [{"tile": -5}, {"tile": 2.5}, {"chunk": -1}, {"chunk": 2.5}])
def test_tiles_and_chunks_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .*: give a whole number"):
        model().sample(images(), SIZE, **wrong)


@pytest.mark.parametrize("other", [images()[:, :, :3], images()[..., :3], torch.rand(1, 3, 9, 9), images(3)])
def test_features_of_other_images_are_refused(other: Tensor) -> None:
    of, lr = model(), images(2)
    features = of.encode(other)
    for call in (of.sample, of.distribution, of.sample_prior, of.lr_latent):
        with pytest.raises(ValueError, match="features are not of LR images"):
            call(lr, SIZE, features=features)
    tiled = of.sample(lr, SIZE, seed=0, features=of.encode(lr, tile=2))
    torch.testing.assert_close(tiled, of.sample(lr, SIZE, seed=0, features=[]))


def test_whole_numbers_may_be_of_numpy() -> None:
    of, lr = model(), images()
    expected = of.sample(lr, SIZE, seed=0, tile=4, chunk=5, consistency=2)
    numbers = {"tile": np.int64(4), "chunk": np.int32(5), "consistency": np.uint8(2)}
    assert torch.equal(of.sample(lr, SIZE, seed=0, **numbers), expected)
    known = of.distribution(lr, SIZE, samples=np.int64(2))
    assert known is not None
    assert len(known.noise) == 2


@pytest.mark.parametrize("seed", [-1, 2**63, 1.5, "0", torch.Generator(), torch.tensor(0)])
def test_what_is_no_seed_is_refused(seed: Any) -> None:
    for call in (model().sample, model().distribution):
        with pytest.raises(
            ValueError, match=rf"seed {re.escape(repr(seed))} is not a whole number from 0 to"
        ):
            call(images(), SIZE, seed=seed)


@pytest.mark.parametrize("number", [-1, 2.5, True, "2"])
def test_what_is_no_whole_number_is_refused(number: Any) -> None:
    of, lr = model(), images()
    for name in ("tile", "chunk", "consistency"):
        with pytest.raises(ValueError, match=f"{number}: give a whole number"):
            of.sample(lr, SIZE, **{name: number})
    with pytest.raises(ValueError, match=f"samples are {number}: give a whole number"):
        of.distribution(lr, SIZE, samples=number)


@pytest.mark.parametrize(
    ("size", "shape", "words"),
    [
        (SIZE, (13, 11), r"shape \(13, 11\), and output \(11, 13\)"),
        (SIZE, (), r"shape \(\), and output"),
        ((11,), SIZE, r"output \(11,\)"),
        (11, SIZE, r"output \(11,\)"),
        ((11.5, 13), SIZE, r"output \(11\.5, 13\)"),
        ((0, 13), (0, 13), r"output size \(0, 13\)"),
    ],
)
def test_a_map_of_temperatures_that_does_not_fit_is_told(
    size: Any, shape: tuple[int, ...], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        model().sample(images(), size, temperature=torch.zeros(shape))


@pytest.mark.parametrize("highest", [-0.5, torch.nan, torch.inf])
def test_a_map_of_temperatures_out_of_range_is_told(highest: float) -> None:
    with pytest.raises(ValueError, match="give finite ones from 0 up"):
        model().sample(images(), SIZE, temperature=torch.full(SIZE, highest))


@pytest.mark.parametrize("highest", [-0.5, torch.nan, torch.inf])
def test_a_highest_temperature_out_of_range_is_told(highest: float) -> None:
    with pytest.raises(ValueError, match=r"the highest temperature is .*: give a finite number from 0 up"):
        model().distribution(images(), SIZE, highest=highest)


@pytest.mark.parametrize("size", [(11.5, 13), (11,), 11, (0, 13), (10**7, 10**7)])
def test_a_size_that_is_none_is_told_everywhere(size: Any) -> None:
    of, lr = model(), images()
    for call in (of.sample, of.distribution, of.sample_prior, partial(self_ensemble, of)):
        with pytest.raises(ValueError, match="output size"):
            call(lr, size)
    with pytest.raises(ValueError, match="are asked for"):
        of.distribution(lr, size, hr=torch.zeros(len(lr), 3, *SIZE))


def test_a_self_ensemble_of_what_is_no_image_is_told() -> None:
    for lr in (torch.zeros(3, 5, 6), torch.zeros(1, 3, 5, 6, dtype=torch.uint8)):
        with pytest.raises(ValueError, match="give images"):
            self_ensemble(model(), lr, SIZE)
