"""Noise that a model has not seen, or removes: told by name, and with a lower temperature."""

import copy
import io
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import linf
from helpers.commands import Linf
from helpers.images import noisy
from linf.checkpoints.native import build, load, save
from linf.checkpoints.start import check_same
from linf.errors import UsageError
from linf.images.photo import Photo
from linf.images.read import read_photo
from linf.models.deviation import excess_deviation, quiet_deviation, usual_deviation
from linf.models.linf import LINF
from linf.upscale.enlarge import Ask
from linf.upscale.guard import removed_noise, tempered
from linf.upscale.tile_size import _Live


@pytest.fixture(scope="module")
def model() -> LINF:
    found = linf.load("default")
    assert isinstance(found, LINF)
    return found


def unit(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1)[None]


def test_noise_raises_the_quiet_deviation(model: LINF, clean: np.ndarray) -> None:
    excess = [excess_deviation(model, unit(noisy(clean, sigma)), (192, 192)) for sigma in (0, 5, 10)]
    assert excess[0] < 1.2
    assert excess[0] < excess[1] < excess[2]
    assert excess[2] > 1.2


def test_a_flow_that_overflows_is_beyond_what_is_usual(model: LINF, clean: np.ndarray) -> None:
    broken = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in broken.conditioner.parameters():
            parameter.fill_(1e20)
    lr = torch.from_numpy(clean.astype(np.float32)).permute(2, 0, 1)[None] / 255
    broken.usual_deviation = {2.0: 5.0}
    assert 1e6 < excess_deviation(broken, lr, (2 * lr.shape[-2], 2 * lr.shape[-1])) < float("inf")


def test_the_quiet_deviation_is_that_of_the_whole_image(model: LINF, clean: np.ndarray) -> None:
    """An image of a single window, all of whose patches are looked at."""
    lr, size = unit(clean[:32, :32]), (60, 60)
    mix = torch.tensor([[0.299, 0.587, 0.114]])
    known = model.distribution(lr, size, mix=mix)
    assert known is not None
    assert known.deviation is not None
    variance = torch.nn.functional.avg_pool2d(known.deviation.square(), 3)
    assert quiet_deviation(model, lr, size) == pytest.approx(
        255 * float(torch.quantile(variance.sqrt(), 0.1)), rel=1e-3
    )


def test_an_image_like_the_trainings_is_left_alone(model: LINF, clean: np.ndarray) -> None:
    ask = Ask(temperature=0.5)
    assert tempered(model, Photo(clean), (192, 192), ask) == (ask, [])
    model_that_knows_nothing = build(model.config | {"usual_deviation": {}})
    assert tempered(model_that_knows_nothing, Photo(noisy(clean, 20)), (192, 192), ask) == (ask, [])


def test_a_noisy_image_gets_as_much_noise_as_a_usual_one(model: LINF, clean: np.ndarray) -> None:
    image, ask = noisy(clean, 10), Ask(temperature=0.5)
    lowered, (told,) = tempered(model, Photo(image), (192, 192), ask)
    excess = excess_deviation(model, unit(image), (192, 192))
    assert lowered.temperature == pytest.approx(0.5 / excess, rel=0.05)
    assert f"temperature {lowered.temperature:g} in place of 0.5" in told
    kept, (told,) = tempered(model, Photo(image), (192, 192), ask, keep=True)
    assert kept == ask
    assert "temperature" not in told


def test_the_more_noise_a_model_removes_the_lower_is_the_temperature(clean: np.ndarray) -> None:
    model, ask, clean = linf.load("photo"), Ask(temperature=0.5), clean[:64, :64]
    images = [noisy(clean, sigma) for sigma in (0, 3, 10, 20)]
    lowered, told = zip(*(tempered(model, Photo(image), (256, 256), ask) for image in images), strict=True)
    slight, mild, strong = (found.temperature for found in lowered[1:])
    assert lowered[0] == ask
    assert slight == ask.temperature > mild > strong
    assert mild == pytest.approx(0.3, abs=0.03)
    assert told[:2] == ([], [])
    removed, _ = removed_noise(model, unit(images[2]), (256, 256))
    line = f"it is noisy (the model removes {removed:.1f} of 255 grey levels)"
    assert told[2] == [f"{line}, and gets temperature {mild:g} in place of 0.5"]
    assert tempered(model, Photo(images[2]), (256, 256), ask, keep=True) == (ask, [line])
    mean = Ask(temperature=0)
    assert tempered(model, Photo(images[2]), (256, 256), mean) == (mean, [])
    assert tempered(model, Photo(images[2]), (128, 128), ask)[0].temperature == pytest.approx(
        2**0.5 * mild, rel=0.05
    )


def jpeg(pixels: np.ndarray, quality: int) -> Photo:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=quality)
    return read_photo(content.getvalue())


def test_a_strongly_compressed_jpeg_gets_a_lower_temperature(model: LINF, clean: np.ndarray) -> None:
    photo, ask = linf.load("photo"), Ask(temperature=0.5)
    files = [jpeg(clean, quality) for quality in (98, 75, 30)]
    fine, usual, coarse = (tempered(photo, file, (256, 256), ask) for file in files)
    assert fine == (ask, [])
    assert ask.temperature > usual[0].temperature > coarse[0].temperature > 0.2
    _, removed = removed_noise(photo, unit(files[1].pixels), (256, 256))
    line = f"it is a JPEG of quality 75 or so (the model removes {removed:.1f} of 255 grey levels)"
    assert usual[1] == [f"{line}, and gets temperature {usual[0].temperature:g} in place of 0.5"]
    assert tempered(photo, Photo(files[1].pixels), (256, 256), ask) == (ask, [])  # No JPEG by its file.
    assert tempered(model, files[1], (256, 256), ask) == (ask, [])  # A model that removes nothing.
    with pytest.raises(UsageError, match=r"a JPEG of quality 75 or so .* leave --consistent out"):
        tempered(photo, files[1], (256, 256), ask._replace(consistency=3))


def test_upscale_names_the_file_and_lowers_the_temperature(
    run: Linf, tmp_path: Path, clean: np.ndarray
) -> None:
    Image.fromarray(noisy(clean, 10)).save(tmp_path / "grainy.png")
    Image.fromarray(clean).save(tmp_path / "fine.png")
    given = ("--scale", "2", "--model", "default")
    done = run("upscale", "grainy.png", "fine.png", *given, "--temperature", "0.5", "--out", "a")
    assert done.status == 0
    (note,) = done.err.splitlines()
    assert note.startswith("note: grainy.png: it is noisy, dithered or grainy")
    assert "--keep-temperature" in note
    done = run(
        "upscale", "grainy.png", *given, "--temperature", "0.5", "--keep-temperature", "--out", "b.png"
    )
    assert "in place of" not in done.err
    mild, wild = (np.asarray(Image.open(tmp_path / name), float) for name in ("a/grainy_x2.png", "b.png"))
    assert np.abs(np.diff(wild, axis=0)).mean() > np.abs(np.diff(mild, axis=0)).mean()


def test_what_is_usual_is_kept_with_the_weights(tmp_path: Path, checkpoint: Path) -> None:
    model = load(checkpoint)
    assert isinstance(model, LINF)
    assert model.usual_deviation == {}
    images = [(torch.rand(1, 3, 40, 33), (80, 66)), (torch.rand(1, 3, 20, 20), (60, 60))]
    model.usual_deviation = usual_deviation(model, images)
    assert list(model.usual_deviation) == [2, 3]
    save(model, tmp_path / "knows.safetensors")
    again = load(tmp_path / "knows.safetensors")
    assert isinstance(again, LINF)
    assert again.usual_deviation == model.usual_deviation
    assert excess_deviation(again, *images[0]) == pytest.approx(1, abs=1e-6)
    check_same(checkpoint, load(checkpoint), again)  # Of the same settings all the same.


def test_an_image_with_a_scale_for_each_axis_is_judged_by_both(checkpoint: Path) -> None:
    model, lr = load(checkpoint), torch.rand(1, 3, 9, 9)
    assert isinstance(model, LINF)
    model.usual_deviation = {1.0: 1.0, 4.0: 4.0}
    for size in ((9, 36), (36, 9)):
        assert excess_deviation(model, lr, size) == pytest.approx(quiet_deviation(model, lr, size) / 2)


def test_whole_numbers_are_judged_as_their_floats(model: LINF, clean: np.ndarray) -> None:
    bits = torch.tensor(clean).permute(2, 0, 1)[None]
    for whole, peak in ((bits, 255), (257 * bits.int(), 65535)):
        assert excess_deviation(model, whole, (192, 192), peak) == excess_deviation(
            model, unit(clean), (192, 192)
        )


def test_a_large_image_is_judged_without_a_copy_of_it(model: LINF, clean: np.ndarray) -> None:
    pixels, ask = np.tile(clean, (60, 60, 1)), Ask()
    tracemalloc.start()
    with _Live() as live:
        tempered(model, Photo(pixels), (pixels.shape[0] + 1, pixels.shape[1] + 1), ask)
    most = live.most + tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2 * pixels.nbytes


@pytest.mark.parametrize("shape", [(1, 1), (1, 200), (31, 33), (97, 50)])
def test_images_of_any_size_are_judged(model: LINF, shape: tuple[int, int]) -> None:
    size = (round(shape[0] * 2.7), round(shape[1] * 2.7))
    assert np.isfinite(excess_deviation(model, torch.rand(1, 3, *shape), size))
