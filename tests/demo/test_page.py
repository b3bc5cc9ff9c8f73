"""`linf demo`: its page shows what the model gives, also in a browser, and explains errors."""

import io
import json
import re
import shutil
import socket
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

import linf
from helpers.commands import Linf, assert_in_words
from helpers.paths import ROOT
from linf.data.sources import bundled
from linf.demo import session as sessions
from linf.demo import shown as previews
from linf.demo import window as windows
from linf.demo.examples import EXAMPLE_SIDE, EXAMPLES, write_examples
from linf.demo.mixture import Mixture, plane_of
from linf.demo.progress import Cancelled, Progress, time_left
from linf.demo.session import Session
from linf.demo.window import (
    CLOSE_UP_PIXELS,
    around,
    bicubic_part,
    close_up,
    enlarged_part,
    framed,
    most_detailed,
)
from linf.errors import UsageError
from linf.images.luma import PILLOW_GREY
from linf.images.read import Photo, read_photo
from linf.models.baselines import LIIF, Bicubic, LIIFConditioner
from linf.models.correlation import LatentCorrelation
from linf.models.encoders import EDSR
from linf.models.tiling import encode_tile
from linf.upscale import guard as guards
from linf.upscale.enlarge import Ask, enlarge

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


def photograph(channels: int = 3, dtype: type = np.uint8) -> Photo:
    """A detail of 24×31 pixels."""
    pixels = np.asarray(Image.open(bundled("heldout").hr[0]))[40:64, 200:231, :channels]
    return Photo(pixels.astype(dtype) * (257 if dtype is np.uint16 else 1))


# The closed form


def window(
    model: Any, image: Photo, size: tuple[int, int], low: tuple[slice, slice] | None = None, **asked: Any
) -> Mixture:
    """A mixture of some rows and columns of an image, by default of all."""
    rows, cols = low or tuple(slice(0, n) for n in image.pixels.shape[:2])
    tile = encode_tile(
        model.encoder,
        plane_of(image, model),
        0,
        (rows.start, rows.stop),
        (cols.start, cols.stop),
        peak=image.peak,
    )
    part = enlarged_part((rows, cols), image.pixels.shape[:2], size, model.patch_size)
    return Mixture(model, image, size, part, [tile], **asked)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("temperature", [0.0, 0.35, 1.0, "map"])
def test_a_mixture_is_the_models_sample(
    checkpoint: Path, temperature: float | str, channels: int, dtype: type
) -> None:
    model, image, size = linf.load(checkpoint), photograph(channels, dtype), (89, 115)
    mixture = window(model, image, size, seed=5)
    tau = torch.rand(size) if isinstance(temperature, str) else temperature
    lr = torch.from_numpy(image.pixels.astype(np.float32)).permute(2, 0, 1)[None] / image.peak
    wanted = model.sample(lr.expand(-1, 3, -1, -1), size, temperature=tau, seed=5)[0]
    if channels == 1:
        wanted = torch.tensordot(torch.tensor(PILLOW_GREY), wanted, 1)[None]
    torch.testing.assert_close(mixture.values(tau), wanted, rtol=0, atol=1e-6)
    made = mixture.at(tau)
    assert (made.pixels.dtype, made.pixels.shape) == (dtype, (89, 115, channels))


def test_a_mixture_has_what_upscale_gives(checkpoint: Path) -> None:
    model, image, size = linf.load(checkpoint), photograph(), (48, 62)
    image.alpha = image.pixels[..., 0]
    mixture = window(model, image, size)
    made = enlarge(model, image.pixels, size, Ask(temperature=0.8, uncertainty=True))
    apart = mixture.at(0.8).pixels.astype(int) - made.images[0]
    assert np.abs(apart).max() <= 1
    shares: list[float] = []
    assert made.deviation is not None
    np.testing.assert_allclose(mixture.deviation(shares.append), made.deviation, rtol=4e-3)
    assert shares[-1] == 1
    alpha = mixture.at(0.5).alpha
    assert alpha is not None
    by_pillow = Image.fromarray(image.alpha).resize(size[::-1], Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(alpha, by_pillow)


@pytest.mark.parametrize("latents", ["independent", "correlated"])
def test_another_sample_of_a_part_is_that_of_the_whole_image(checkpoint: Path, latents: str) -> None:
    model, image, size = linf.load(checkpoint), photograph(), (89, 115)
    model.correlation = LatentCorrelation(model.dim, [2.0, 4.0], reach=1)
    with torch.no_grad():
        model.correlation.taps[:, 1, 2] += 0.5 * torch.eye(model.dim)
    low = slice(5, 14), slice(8, 20)
    part = window(model, image, size, low)
    shares: list[float] = []
    part.draw(7, latents, shares.append)  # type: ignore[arg-type]
    assert shares[-1] == 1
    lr = torch.from_numpy(image.pixels.astype(np.float32)).permute(2, 0, 1)[None] / 255
    whole = model.sample(lr, size, temperature=1.0, seed=7, latents=latents)[0]
    assert abs(part.values(1.0) - whole[:, *part.part]).max() < 1 / 255
    rows, cols = part.part
    assert (rows.stop - rows.start, cols.stop - cols.start) == pytest.approx((9 * 3.7, 12 * 3.7), abs=3)


def test_the_temperature_can_be_a_map_in_bounded_memory(checkpoint: Path) -> None:
    model, image, size = linf.load(checkpoint), photograph(), (48, 62)
    tau = torch.rand(size)
    lr = torch.from_numpy(image.pixels / np.float32(255)).permute(2, 0, 1)[None]
    wanted = model.sample(lr, size, temperature=tau, seed=2)[0].permute(1, 2, 0) * 255
    for ask in (Ask(seed=2, temperatures=tau), Ask(seed=2, temperatures=tau, tile=16)):
        made = enlarge(model, image.pixels, size, ask).images[0]
        assert np.abs(made.astype(int) - wanted.round().clamp(0, 255).numpy()).max() <= 1


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("size", [(89, 115), (24, 31), (60, 70)])
def test_bicubic_of_a_part_is_that_of_the_whole_image(dtype: type, size: tuple[int, int]) -> None:
    image = photograph(dtype=dtype)
    whole = enlarge(Bicubic(), image.pixels, size, Ask()).images[0]
    part = slice(3, 20), slice(7, 31)
    np.testing.assert_array_equal(bicubic_part(image, size, part).pixels, whole[part])


def test_bicubic_of_a_part_takes_memory_for_the_part_alone() -> None:
    image = Photo(np.zeros((2000, 1500, 3), np.uint8))
    tracemalloc.start()
    bicubic_part(image, (4000, 3000), (slice(900, 1000), slice(500, 600)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < image.pixels.nbytes / 10


# Windows


def test_parts_stay_inside() -> None:
    assert around((100, 200), (50, 100), (10, 20)) == (slice(45, 55), slice(90, 110))
    assert around((100, 200), (0, 200), (10, 20)) == (slice(0, 10), slice(180, 200))
    assert around((4, 9), (99, -99), (10, 20)) == (slice(0, 4), slice(0, 9))
    for scale in (1, 2, 3.7, 8):
        rows, cols = close_up((3000, 4000), scale, (0, 4000))
        high, wide = rows.stop - rows.start, cols.stop - cols.start
        assert high * wide <= CLOSE_UP_PIXELS
        assert wide / high == pytest.approx(4 / 3, rel=0.02)
        assert (rows.start, cols.stop) == (0, 4000)
    assert close_up((20, 30), 3.7, (0, 0)) == (slice(0, 20), slice(0, 30))


@pytest.mark.parametrize("factor", [1, 6])
def test_a_close_up_opens_on_the_detail_and_not_in_the_sky(factor: int) -> None:
    rng = np.random.default_rng(0)
    sky = np.linspace(120, 200, 300)[:, None, None] * np.ones((1, 400, 3))
    sky[:, 200:] += 50  # One hard edge through all of it is less than a texture.
    sky[200:260, 60:140] += rng.normal(0, 20, (60, 80, 1))
    pixels = np.kron(sky.clip(0, 255).astype(np.uint8), np.ones((factor, factor, 1), np.uint8))
    y, x = most_detailed(Photo(pixels), (60 * factor, 80 * factor))
    assert (y / factor, x / factor) == pytest.approx((230, 100), abs=6)


def test_a_frame_is_drawn_around_what_is_shown() -> None:
    grey = Photo(np.full((500, 800, 3), 128, np.uint8))
    drawn = np.asarray(framed(grey, (slice(100, 200), slice(300, 500))))
    assert drawn.shape == (500, 800, 3)
    assert (drawn[150, 301] > 250).all()
    assert (drawn[150, 297] < 5).all()
    corner = np.asarray(framed(grey, (slice(0, 100), slice(0, 200))))
    assert (corner[50, 2] < 5).all()
    assert (corner[50, 7] > 250).all()
    assert (drawn[150, 400] == 128).all()
    assert (np.asarray(framed(grey, None)) == 128).all()
    assert (np.asarray(framed(grey, (slice(0, 500), slice(0, 800)))) == 128).all()
    deep = Photo(np.full((40, 50, 1), 30000, np.uint16), np.zeros((40, 50), np.uint16))
    assert framed(deep, (slice(0, 10), slice(0, 10))).getpixel((900, 700)) == (255, 255, 255)


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_is_small_and_there(tmp_path: Path, name: str) -> None:
    pytest.importorskip("gradio")
    image = read_photo(write_examples(tmp_path)[name])
    assert max(image.pixels.shape) == EXAMPLE_SIDE
    assert image.pixels.std() > 20


def test_an_example_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(EXAMPLES, "text", EXAMPLES["text"]._replace(package="no_such_package"))
    assert "text" not in write_examples(tmp_path)
    assert "no_such_package has no data/page.png" in caplog.text


def test_the_time_left_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [time_left(10, share) for share in (0.0, 0.5, 0.9)] == ["", ", 10 s left", ", 2 s left"]
    assert time_left(100, 0.25) == ", 5 min left"
    said: list[tuple[float, str]] = []
    stop = threading.Event()
    progress = Progress(lambda done, what: said.append((done, what)), stop, "Enlarging")
    progress(0.2)
    assert said == [(0, "Enlarging"), (0.2, "Enlarging")]
    stop.set()
    with pytest.raises(Cancelled):
        progress(0.3)


# The page's events


@pytest.fixture
def events(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The events of the page for a tiny LINF; their warnings are in ``events.warned``."""
    gradio = pytest.importorskip("gradio")
    from linf.demo.events import Events

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    others = {"twin": partial(linf.load, checkpoint), "LIIF": regression}
    made: Any = Events(linf.load(checkpoint), others)
    made.warned = []
    monkeypatch.setattr(gradio, "Warning", lambda message, **_: made.warned.append(message))
    return made


def regression() -> LIIF:
    torch.manual_seed(0)
    return LIIF(EDSR(blocks=1, channels=8), partial(LIIFConditioner, width=8, depth=1))


def asking(tab: str = "tab") -> Any:
    return SimpleNamespace(session_hash=tab)


def silent(*_: object) -> None:
    """No progress."""


def opened(events: Any, source: Path, tab: str = "tab", scale: float = 2) -> Any:
    """The session of a tab with an image."""
    events.open_image({"path": str(source)}, scale, "Bicubic", asking(tab), silent)
    return events.tabs.kept[tab].session


def seen(events: Any, view: str = "Close-up", against: str = "Bicubic", tab: str = "tab") -> list[Path]:
    """The files on both sides of the divider at temperature 0.5."""
    return list(events.mix(0.5, 1, view, against, True, asking(tab))[0])


def look(events: Any, view: str, against: str = "Bicubic", progress: Any = silent) -> Any:
    return events.look(view, against, 0.5, 1, asking(), progress)


def pixels_of(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda whole: b"",
    "cut off": lambda whole: whole[: len(whole) // 2],
    "text": lambda whole: b"no image",
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_file_gives_a_message(events: Any, photos: Path, tmp_path: Path, how: str) -> None:
    good, bad = next(photos.iterdir()), tmp_path / "holiday.png"
    bad.write_bytes(BROKEN[how](good.read_bytes()))
    gradio = pytest.importorskip("gradio")
    taken, *rest = events.open_image({"path": str(bad)}, 2, "Bicubic", asking(), silent)
    assert (taken, rest) == (None, [gradio.skip()] * 7)
    assert re.match(r"holiday\.png: (the file is empty|it is no PNG|cannot be read: )", events.warned[0])
    assert not events.tabs.kept
    opened(events, good)
    taken, *_ = events.open_image({"path": str(bad)}, 2, "Bicubic", asking(), silent)
    assert taken.name.startswith("yours-")


ODD = {
    "one pixel": Image.new("RGB", (1, 1), "red"),
    "a line": Image.effect_noise((1, 90), 50),
    "16 bits": Image.fromarray(np.arange(12 * 16, dtype=np.uint16).reshape(12, 16) * 300),
    "alpha": Image.effect_noise((20, 16), 80).convert("RGBA"),
    "CMYK": Image.effect_noise((20, 16), 80).convert("CMYK"),
    "palette": Image.effect_noise((20, 16), 80).convert("P"),
}


@pytest.mark.parametrize("what", ODD)
def test_odd_images_are_enlarged_as_they_are(events: Any, tmp_path: Path, what: str) -> None:
    path = tmp_path / "odd.tiff"
    ODD[what].save(path)
    session = opened(events, path, scale=3)
    for view in ("Close-up", "Whole image"):
        look(events, view)
        left, right = map(pixels_of, seen(events, view))
        assert left.shape[:2] == right.shape[:2] == tuple(3 * n for n in ODD[what].size[::-1])
        saved = read_photo(events.save(0.0, 1, view, asking()))
        assert saved.pixels.dtype == session.image.pixels.dtype
        assert saved.pixels.shape == (*right.shape[:2], session.image.pixels.shape[2])
        assert (saved.alpha is None) == (what != "alpha")
        assert events.measure(view, asking(), silent).is_file()
    assert events.warned == []


def test_an_image_reported_twice_or_by_the_page_is_enlarged_once(events: Any, photos: Path) -> None:
    from linf.demo.events import Answer

    source = next(photos.iterdir())
    session = opened(events, source)
    framed = events.tabs.kept["tab"].shown.framed(False)
    for upload in ({"path": str(source)}, {"path": str(framed)}, None):
        assert events.open_image(upload, 2, "Bicubic", asking(), silent) == Answer()
        assert events.tabs.kept["tab"].session is session


def test_an_error_of_the_model_is_shown_on_the_page(
    events: Any, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gradio = pytest.importorskip("gradio")

    def fail(*_: object, **__: object) -> None:
        raise UsageError("the image is too large")

    monkeypatch.setattr(Session, "make", fail)
    with pytest.raises(gradio.Error, match="the image is too large") as error:
        opened(events, next(photos.iterdir()))
    assert not error.value.print_exception
    assert not events.tabs.kept
    monkeypatch.setattr(Session, "make", lambda *_, **__: torch.empty(2**60))
    with pytest.raises(gradio.Error, match="Memory is too small") as error:
        opened(events, next(photos.iterdir()))
    assert not error.value.print_exception


def test_without_an_image_buttons_say_so_and_sliders_wait(events: Any) -> None:
    gradio = pytest.importorskip("gradio")
    from linf.demo.events import Answer

    assert events.mix(0.5, 1, "Whole image", "Bicubic", True, asking()) == (gradio.skip(),) * 2
    assert events.rescale(3, "Bicubic", asking(), silent) == Answer()
    for ask in (
        lambda: look(events, "Whole image"),
        lambda: events.resample("Close-up", "Bicubic", 0.5, 1, asking(), silent),
        lambda: events.enlarge_all("Bicubic", 0.5, 1, asking(), silent),
        lambda: events.measure("Close-up", asking(), silent),
        lambda: events.save(0.5, 1, "Close-up", asking()),
    ):
        with pytest.raises(gradio.Error, match="There is no image"):
            ask()


def test_a_tab_sees_its_own_image_and_old_tabs_are_dropped(events: Any, photos: Path, tmp_path: Path) -> None:
    from linf.demo.shown import KEPT_PREVIEWS
    from linf.demo.tabs import MAX_SESSIONS

    a, b = sorted(photos.iterdir())
    for number in range(MAX_SESSIONS + 1):
        opened(events, a if number % 2 else b, str(number))
    assert (
        len(events.tabs.kept) == MAX_SESSIONS == len([path for path in tmp_path.iterdir() if path.is_dir()])
    )
    for tab, source in (("1", a), ("2", b)):
        for _ in range(2 * KEPT_PREVIEWS):
            left, made = seen(events, tab=tab)
        image = read_photo(source)
        height, width = image.pixels.shape[:2]
        wanted = window(events.model, image, (2 * height, 2 * width)).at(0.5).pixels
        assert Image.open(made).size == Image.open(left).size == wanted.shape[1::-1]
        assert abs(pixels_of(made) - wanted).mean() < 4
        assert len(list(made.parent.iterdir())) <= KEPT_PREVIEWS + 4
        saved = events.save(0.5, 1, "Close-up", asking(tab))
        assert saved.name == f"{source.stem}_x2_t0.5.png"
        np.testing.assert_array_equal(pixels_of(saved), wanted)
    events.tabs.close(asking("2"))
    assert "2" not in events.tabs.kept
    assert not saved.parent.exists()


def test_a_tab_whose_image_was_dropped_is_warned_once(events: Any, photos: Path) -> None:
    gradio = pytest.importorskip("gradio")
    from linf.demo.tabs import MAX_SESSIONS

    source = sorted(photos.iterdir())[0]
    for number in range(MAX_SESSIONS + 1):
        opened(events, source, str(number))
    for _ in range(2):
        assert events.mix(0.5, 1, "Close-up", "Bicubic", True, asking("0")) == (gradio.skip(),) * 2
    assert len(events.warned) == 1
    assert "Drop one on the page" in events.warned[0]
    for tab in "01":
        opened(events, source, tab)
    seen(events, tab="1")
    assert len(events.warned) == 1


def test_a_scale_beyond_the_slider_is_that_of_its_end_which_is_said(events: Any, photos: Path) -> None:
    source = sorted(photos.iterdir())[0]
    height, width = read_photo(source).pixels.shape[:2]
    events.open_image({"path": str(source)}, None, "Bicubic", asking(), silent)
    for typed, scale in ((99, 8), (0.2, 1), (None, 1), (3, 3)):
        caption = events.rescale(typed, "Bicubic", asking(), silent).caption
        assert f"**{scale * width}×{scale * height}**" in caption
    assert [warning.split(":")[0] for warning in events.warned] == [
        "Scale 99 is not from 1 to 8",
        "Scale 0.2 is not from 1 to 8",
    ]


def test_a_region_stays_with_sample_scale_and_place_and_its_edge_is_seen(events: Any, photos: Path) -> None:
    source = sorted(photos.iterdir())[0]
    session = opened(events, source)
    height, width = session.low
    plain = pixels_of(seen(events)[1])
    half = Image.new("RGBA", (4 * width, 4 * height))
    half.paste((255, 0, 0, 153), (0, 0, 2 * width, 4 * height))  # The left half, translucent.
    events.paint({"layers": [half]}, "Close-up", asking())
    share = session.share((slice(0, 2 * height), slice(0, 2 * width)))
    assert share[:, : width - 8].min() > 0.99
    assert share[:, width + 8 :].max() < 0.01
    assert share.diff(dim=1).abs().max() < 0.2
    after = pixels_of(seen(events)[1])
    red = abs(after - (255, 59, 48)).max(2) < 90
    assert red[:, width - 4 : width + 4].any(1).all()
    assert abs(after - plain)[:, width + 12 :].max() == 0
    unmarked = pixels_of(events.mix(0.5, 1, "Close-up", "Bicubic", False, asking())[0][1])
    assert abs(unmarked - plain)[:, : width - 12].mean() > 1
    saved = pixels_of(events.save(0.5, 1, "Close-up", asking()))
    assert abs(saved - unmarked)[red].mean() < 0.2 * abs(saved - after)[red].mean()
    assert events.save(0.5, 1, "Close-up", asking()).name == f"{source.stem}_x2_t0.5_region1.png"
    events.resample("Close-up", "Bicubic", 0.5, 1, asking(), silent)
    answer = events.rescale(3, "Bicubic", asking(), silent)
    [layer] = answer.canvas["layers"]
    ink = np.asarray(Image.open(layer))[..., 3]
    assert ink.shape == session.low
    assert (ink[:, : width // 2 - 1] > 100).all()
    assert (ink[:, width // 2 + 1 :] == 0).all()
    events.paint({"layers": []}, "Close-up", asking())
    assert session.mask is None


def test_a_click_moves_the_close_up(events: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "CLOSE_UP_SIZE", (20, 24))
    source = tmp_path / "large.png"
    Image.open(bundled("heldout").hr[0]).resize((120, 90)).save(source)
    session = opened(events, source)
    rows, cols = session.window(False)
    assert (rows.stop - rows.start, cols.stop - cols.start) == (10, 12)
    answer = events.move(SimpleNamespace(index=(0, 0)), "Bicubic", asking(), silent)
    assert session.window(False) == (slice(0, 10), slice(0, 12))
    assert (answer.view, answer.heat) == ("Close-up", None)
    assert "You see the 24×21 of them" in answer.caption
    lr = torch.from_numpy(np.asarray(Image.open(source)) / np.float32(255)).permute(2, 0, 1)[None]
    whole = events.model.sample(lr, (180, 240), temperature=0.5, seed=0)[0].permute(1, 2, 0)
    wanted = (whole[:21, :24] * 255).round().clamp(0, 255).numpy()
    assert events.save(0.5, 1, "Close-up", asking()).name == "large_detail_x2_t0.5.png"
    assert abs(pixels_of(events.save(0.5, 1, "Close-up", asking())) - wanted).max() <= 1
    shown = Image.open(answer.upload)
    point = session.low[1] * 50 / 120, session.low[0] * 40 / 90
    clicked = (point[0] * shown.width / 120, point[1] * shown.height / 90)
    events.move(SimpleNamespace(index=clicked), "Bicubic", asking(), silent)
    assert session.point == pytest.approx((40, 50), abs=0.2)


def test_samples_scales_and_maps_encode_nothing_again(
    events: Any, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = opened(events, sorted(photos.iterdir())[0])
    encoded: list[object] = []
    monkeypatch.setattr(events.model.encoder, "forward", encoded.append)
    monkeypatch.setattr(session, "guard", lambda: None)
    before = session.made[False, True].mean.clone(), session.made[False, True].noise.clone()
    assert "sample 1" in events.resample("Close-up", "Bicubic", 0.5, 1, asking(), silent).caption
    after = session.made[False, True]
    assert torch.equal(before[0], after.mean)
    assert (before[1] - after.noise).abs().mean() > 0.01
    events.measure("Close-up", asking(), silent)
    events.rescale(3, "Bicubic", asking(), silent)
    look(events, "Whole image")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(events.model.conditioner, "maps", encoded.append)
        events.resample("Whole image", "Bicubic", 0.5, 1, asking(), silent)
        events.measure("Whole image", asking(), silent)
    assert encoded == []


def test_all_of_an_image_is_one_job_that_can_be_given_up(events: Any, tmp_path: Path) -> None:
    source = tmp_path / "large.png"
    Image.open(bundled("heldout").hr[0]).resize((120, 90)).save(source)
    session = opened(events, source, scale=4)
    assert (True, True) not in session.made

    def give_up(done: float, said: str) -> None:
        if done > 0:
            events.tabs.cancel(asking())

    assert look(events, "Whole image", progress=give_up).view == "Close-up"
    assert (True, True) not in session.made
    reports: list[float] = []
    answer = look(events, "Whole image", progress=lambda done, said: reports.append(done))
    assert answer.view == "Whole image"
    assert reports == sorted(reports)
    lr = torch.from_numpy(np.asarray(Image.open(source)) / np.float32(255)).permute(2, 0, 1)[None]
    wanted = events.model.sample(lr, (360, 480), temperature=0.5, seed=0)[0].permute(1, 2, 0) * 255
    saved = events.save(0.5, 1, "Whole image", asking())
    assert saved.name == "large_x4_t0.5.png"
    assert abs(pixels_of(saved) - wanted.round().clamp(0, 255).numpy()).max() <= 1
    assert pixels_of(seen(events, "Whole image")[1]).shape == (360, 480, 3)


def test_a_job_that_waits_for_its_turn_can_be_given_up(events: Any, photos: Path) -> None:
    opened(events, next(photos.iterdir()))
    events.tabs.cancel(asking())
    assert look(events, "Whole image").view == "Close-up"
    events.tabs.cancel(asking())  # Too late for that one, and not meant for the next.
    events.tabs.ask(asking())
    assert look(events, "Whole image").view == "Whole image"


def test_all_of_a_large_image_takes_bounded_memory(
    events: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "LARGEST_OUT", 1000)
    monkeypatch.setattr(previews, "PREVIEW_SIDE", 64)
    source = tmp_path / "large.png"
    Image.open(bundled("heldout").hr[0]).resize((60, 45)).save(source)
    session = opened(events, source)
    answer = look(events, "Whole image")
    assert (True, True) not in session.made
    assert "too large to change while you look" in answer.caption
    image = read_photo(source)
    wanted = enlarge(events.model, image.pixels, (90, 120), Ask(0.5)).images[0]
    saved = events.save(0.9, 1, "Whole image", asking())
    assert saved.name == "large_x2_t0.5.png"  # At which it was made.
    np.testing.assert_array_equal(pixels_of(saved), wanted)
    assert {Image.open(side).size for side in seen(events, "Whole image")} == {(60, 45)}
    assert 'content: "Bicubic"' in events.mix(0.9, 1, "Whole image", "twin", True, asking())[1]
    made = session.fixed
    look(events, "Whole image")
    assert session.fixed is made
    events.paint({"layers": [Image.new("RGBA", (60, 45), "red")]}, "Close-up", asking())
    events.enlarge_all("Bicubic", 0.5, 0.9, asking(), silent)
    inside = enlarge(events.model, image.pixels, (90, 120), Ask(0.9)).images[0]
    saved = events.save(0.5, 0.9, "Whole image", asking())
    assert saved.name == "large_x2_t0.5_region0.9.png"
    np.testing.assert_array_equal(pixels_of(saved), inside)


def test_a_slider_moved_over_a_large_image_keeps_the_files_of_the_close_up(
    events: Any, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "LARGEST_OUT", 1000)
    opened(events, next(photos.iterdir()))
    seen(events)
    look(events, "Whole image")
    lefts = {seen(events, "Whole image")[0] for _ in range(2 * previews.KEPT_PREVIEWS)}
    assert len(lefts) == 1  # Bicubic of all of it is made once.
    look(events, "Close-up")
    assert all(side.is_file() for side in seen(events))


def test_memory_that_comes_free_loses_nothing_that_was_made(
    events: Any, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = opened(events, next(photos.iterdir()))
    with monkeypatch.context() as patch:
        patch.setattr(sessions, "free_memory", lambda device: 0)
        assert "temperature 0.5" in look(events, "Whole image").caption
    assert all(side.is_file() for side in seen(events, "Whole image"))
    assert events.save(0.9, 1, "Whole image", asking()).name.endswith("_x2_t0.5.png")
    events.enlarge_all("Bicubic", 0.9, 1, asking(), silent)
    assert (True, True) in session.made


@pytest.mark.parametrize("against", ["Mean (τ = 0)", "twin", "LIIF"])
@pytest.mark.parametrize("view", ["Close-up", "Whole image"])
def test_it_is_compared_with_the_mean_and_other_models(
    events: Any, photos: Path, against: str, view: str
) -> None:
    image = read_photo(sorted(photos.iterdir())[0])
    opened(events, sorted(photos.iterdir())[0], scale=3.5)
    look(events, view, against)
    left, right = map(pixels_of, seen(events, view, against))
    lr = torch.from_numpy(image.pixels / np.float32(255)).permute(2, 0, 1)[None]
    size = tuple(round(3.5 * n) for n in image.pixels.shape[:2])
    model = regression() if against == "LIIF" else events.model
    wanted = model.sample(lr, size, temperature=0.5 if against == "twin" else 0.0, seed=0)[0]
    assert left.shape == right.shape == (*size, 3)
    assert (
        abs(left - as_shown((wanted.permute(1, 2, 0) * 255).round().clamp(0, 255).byte().numpy())).mean() < 2
    )
    if against == "twin":
        assert abs(left - right).mean() < 0.1
    assert f'content: "{against}"' in events.mix(0.5, 1, view, against, True, asking())[1]


def test_a_slider_moved_while_another_model_is_awaited_shows_none_under_its_name(
    events: Any, photos: Path
) -> None:
    gradio = pytest.importorskip("gradio")
    opened(events, next(photos.iterdir()))
    look(events, "Close-up", "twin")
    before = seen(events, against="twin")[0]
    early: list[Any] = []
    look(
        events,
        "Close-up",
        "LIIF",
        lambda *_: early.append(events.mix(0.5, 1, "Close-up", "LIIF", True, asking())),
    )
    assert early
    assert early[0] == (gradio.skip(), gradio.skip())
    after = seen(events, against="LIIF")[0]
    assert abs(pixels_of(after) - pixels_of(before)).mean() > 1


def test_what_is_still_being_made_is_not_downloaded_under_its_name(events: Any, photos: Path) -> None:
    gradio = pytest.importorskip("gradio")
    session = opened(events, next(photos.iterdir()))
    refused: list[str] = []

    def save(*_: object) -> None:
        with pytest.raises(gradio.Error, match="still being made") as error:
            events.save(0.5, 1, "Close-up", asking())
        refused.append(str(error.value))

    jobs = [
        lambda: events.rescale(3, "Bicubic", asking(), save),
        lambda: events.resample("Close-up", "Bicubic", 0.5, 1, asking(), save),
    ]
    for job in jobs:
        before = len(refused)
        job()
        assert len(refused) > before
    saved = events.save(0.5, 1, "Close-up", asking())
    assert saved.name.endswith("_x3_t0.5_sample1.png")
    assert Image.open(saved).size == session.size[::-1]


def test_the_deviation_is_downloaded_as_numbers(events: Any, photos: Path) -> None:
    source = sorted(photos.iterdir())[0]
    opened(events, source, scale=3.7)
    saved = events.save_map("Close-up", asking(), silent)
    assert saved.name == f"{source.stem}_x3.7_deviation.tiff"
    image = read_photo(source)
    size = tuple(round(3.7 * n) for n in image.pixels.shape[:2])
    wanted = enlarge(events.model, image.pixels, size, Ask(uncertainty=True)).deviation
    values = tifffile.imread(saved)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, wanted, rtol=4e-3)


def test_correlated_latents_are_those_of_the_library(events: Any, photos: Path) -> None:
    source = sorted(photos.iterdir())[0]
    image = read_photo(source)
    size = tuple(2 * n for n in image.pixels.shape[:2])
    events.model.correlation = LatentCorrelation(events.model.dim, [2.0], reach=1)
    with torch.no_grad():
        events.model.correlation.taps[:, 1, 2] += torch.eye(events.model.dim)
    opened(events, source)
    before = pixels_of(events.save(1.0, 1, "Close-up", asking()))
    events.correlate(True, "Close-up", "Bicubic", 1.0, 1, asking(), silent)
    saved = events.save(1.0, 1, "Close-up", asking())
    assert saved.name == f"{source.stem}_x2_t1_correlated.png"
    wanted = enlarge(events.model, image.pixels, size, Ask(1.0, latents="correlated")).images[0]
    assert abs(pixels_of(saved) - wanted).max() <= 1
    assert abs(pixels_of(saved) - before).mean() > 1
    another = {"path": str(sorted(photos.iterdir())[1])}
    for tab, kept in (("tab", True), ("other", False)):  # The box on the page says what holds.
        assert events.open_image(another, 2, "Bicubic", asking(tab), silent).correlated is kept


@pytest.mark.parametrize("view", ["Close-up", "Whole image"])
def test_a_consistent_result_is_that_of_the_library(
    events: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, view: str
) -> None:
    gradio = pytest.importorskip("gradio")
    monkeypatch.setattr(windows, "CLOSE_UP_SIZE", (40, 50))
    monkeypatch.setattr(guards, "REMOVED", 255.0)  # An untrained model changes every image.
    source = tmp_path / "large.png"
    Image.open(bundled("heldout").hr[0]).resize((60, 48)).save(source)
    session = opened(events, source, scale=3.3)
    before = session.window_enlarged(view == "Whole image")
    events.agree(True, view, "Bicubic", 0.8, 1, asking(), silent)
    look(events, view)
    events.resample(view, "Bicubic", 0.8, 1, asking(), silent)
    ask = Ask(0.8, seed=1, consistency=3)
    whole = enlarge(events.model, session.image.pixels, session.size, ask).images[0]
    saved = events.save(0.8, 1, view, asking())
    assert saved.name.endswith("_x3.3_t0.8_sample1_consistent.png")
    assert abs(pixels_of(saved) - whole[before]).max() <= 1
    with pytest.raises(gradio.Error, match="switch that off first"):
        events.measure(view, asking(), silent)
    events.agree(False, view, "Bicubic", 0.8, 1, asking(), silent)
    assert abs(pixels_of(events.save(0.8, 1, view, asking())) - whole[before]).mean() > 1


def test_a_noisy_image_is_not_made_consistent_which_is_said(
    events: Any, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = opened(events, sorted(photos.iterdir())[0])
    monkeypatch.setattr(guards, "REMOVED", 1e-9)
    answer = events.agree(True, "Close-up", "Bicubic", 0.5, 1, asking(), silent)
    assert (answer.consistent, session.consistent) == (False, False)
    assert events.warned[0].startswith("it is noisy")
    assert "--" not in events.warned[0]


# The command


def test_user_errors_are_one_line(run: Linf, tmp_path: Path) -> None:
    regression = tmp_path / "liif.safetensors"
    conditioner = partial(LIIFConditioner, width=8, depth=1)
    linf.save(LIIF(EDSR(blocks=1, channels=8), conditioner), regression)
    namesake = shutil.copy(regression, tmp_path / "default.safetensors")
    for arguments, message in {
        ("--model", str(regression)): f"{regression} holds a LIIF, which has no temperature",
        ("--model", "gone.ckpt"): "no checkpoint at gone.ckpt",
        ("--against", "gone.ckpt"): "no checkpoint at gone.ckpt",
        ("--against", str(regression), str(regression)): "two models called liif: rename one of the files",
        ("--against", str(namesake), "default"): "two models called default: rename one of the files",
        ("--port", "70000"): "--port 70000 is not a number from 1 to 65535",
        ("--device", "abacus"): "--device abacus is not here",
    }.items():
        done = run("demo", *arguments)
        assert_in_words(done.status, done.out, done.err, message)


def test_a_missing_gradio_gives_a_message(
    run: Linf, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "linf.demo.page", raising=False)
    done = run("demo", "--model", checkpoint)
    assert_in_words(done.status, done.out, done.err, "linf demo needs Gradio: pip install 'linf[demo]'")


def test_a_port_in_use_is_one_line(run: Linf, checkpoint: Path) -> None:
    pytest.importorskip("gradio")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("demo", "--model", checkpoint, "--port", str(port))
    assert_in_words(done.status, done.out, done.err, f"port {port}", "in use", "another --port")


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
def test_an_address_of_another_machine_is_one_line(run: Linf, checkpoint: Path, host: str) -> None:
    pytest.importorskip("gradio")
    done = run("demo", "--model", checkpoint, "--host", host)
    assert_in_words(done.status, done.out, done.err, f"cannot serve at {host}")


# A browser


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Where a `linf demo` of the default model is served, which in the end must stop without a word."""
    pytest.importorskip("gradio")
    pytest.importorskip("selenium")
    if not (CHROMIUM and DRIVER):
        pytest.skip("needs chromium and chromedriver: apt-get install chromium chromium-driver")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        from slider import served

        with served() as found:
            yield found


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """An image of 160×130 pixels."""
    Image.open(bundled("heldout").hr[0]).crop((140, 40, 300, 170)).save(tmp_path / "small.png")
    return tmp_path / "small.png"


def fetched(url: str) -> np.ndarray:
    with urlopen(url) as answer:
        return np.asarray(Image.open(answer).convert("RGB")).astype(int)


def as_shown(pixels: np.ndarray) -> np.ndarray:
    """What of (h,w,3) uint8 is left in a JPEG."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=95, subsampling=0)
    return np.asarray(Image.open(content)).astype(int)


def until(browser: Any, found: Callable[[], Any]) -> Any:
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, 120, poll_frequency=0.1).until(lambda _: found())


def press(browser: Any, label: str) -> None:
    """Click on the button with a label."""
    script = "[...document.querySelectorAll('button')].find(b => b.innerText.includes(arguments[0])).click()"
    browser.execute_script(script, label)


def click(browser: Any, label: str) -> None:
    """The same by the mouse: a browser asks before a page downloads a second file by itself."""
    button = next(b for b in browser.find_elements("tag name", "button") if label in b.text)
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    time.sleep(0.5)
    button.click()


def stroke(browser: Any) -> None:
    """Paint across the middle of the canvas."""
    from selenium.webdriver import ActionChains

    canvas = until(browser, lambda: browser.find_elements("css selector", "#canvas canvas"))[0]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    time.sleep(1)
    ActionChains(browser).move_to_element(canvas).click_and_hold().move_by_offset(15, 5).release().perform()


def differs(browser: Any, from_before: np.ndarray) -> np.ndarray:
    """(H,W): by how much what is right of the divider has changed."""
    from slider import sides

    return abs(fetched(sides(browser)[1]) - from_before).mean(2)


def strangers(browser: Any, address: str) -> set[str]:
    """Hosts that the page asked, other than its own."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [it["params"]["request"]["url"] for it in messages if it["method"] == "Network.requestWillBeSent"]
    assert len(urls) > 10
    return {urlsplit(url).netloc for url in urls if not url.startswith(("data:", "blob:"))} - {
        urlsplit(address).netloc
    }


@pytest.mark.slow
def test_a_user_enlarges_mixes_paints_compares_and_saves(address: str, small: Path, tmp_path: Path) -> None:
    from slider import chromium, move, sides, upload

    model, image, size = linf.load("photo"), read_photo(small), (481, 592)

    def wanted(temperature: float) -> np.ndarray:
        lr = torch.from_numpy(image.pixels / np.float32(255))
        sr = model.sample(lr.permute(2, 0, 1)[None], size, temperature=temperature, seed=0)
        return (sr[0].permute(1, 2, 0) * 255).round().clamp(0, 255).byte().numpy()

    def label(side: str) -> str:
        script = "return getComputedStyle(document.querySelector('#compare'), arguments[0]).content"
        return browser.execute_script(script, f"::{side}").strip('"')

    def shown(size: tuple[int, int]) -> list[np.ndarray]:
        """Both sides, once they are of a size (H, W)."""
        until(browser, lambda: [fetched(side).shape[:2] for side in sides(browser)] == [size] * 2)
        return [fetched(side) for side in sides(browser)]

    bicubic = enlarge(Bicubic(), image.pixels, size, Ask()).images[0]
    with chromium(1280, 1000, tmp_path) as browser:
        browser.get(address)
        until(browser, lambda: browser.find_elements("css selector", "#compare"))
        assert label("before") == label("after") == "none"
        assert not browser.find_element("id", "cancel").is_displayed()
        browser.save_screenshot(str(tmp_path / "desktop_1_empty.png"))
        upload(browser, small)
        browser.save_screenshot(str(tmp_path / "desktop_2_enlarged.png"))
        left, right = map(fetched, sides(browser))
        high, wide = right.shape[:2]
        assert (high, wide) == pytest.approx((420, 560), abs=4)
        framed = until(browser, lambda: browser.find_elements("css selector", "#upload img"))[0]
        assert (fetched(framed.get_attribute("src")).min(2) > 250).sum() > 200  # The frame is white.
        assert (label("before"), label("after")) == ("Bicubic", "LINF, τ = 0.5")

        press(browser, "Enlarge all of it")
        left, right = shown(size)
        assert abs(left - as_shown(bicubic)).mean() < 0.1
        assert abs(right - as_shown(wanted(0.5))).mean() < 0.1
        for value in (0.0, 0.3, 1.0):
            move(browser, value)
            seen, before = fetched(sides(browser)[1]), right
            assert abs(seen - as_shown(wanted(value))).mean() < 0.1
            assert abs(seen - before).mean() > 1
        np.testing.assert_array_equal(fetched(sides(browser)[0]), left)
        browser.find_element("css selector", "#against input[value^=Mean]").click()
        until(browser, lambda: label("before") == "Mean (τ = 0)")
        until(browser, lambda: abs(fetched(sides(browser)[0]) - as_shown(wanted(0.0))).mean() < 0.1)

        move(browser, 0.0)
        plain = fetched(sides(browser)[1])
        press(browser, "A region")
        stroke(browser)
        until(browser, lambda: differs(browser, plain)[200:280, 270:340].mean() > 3)
        assert differs(browser, plain)[:30].mean() == 0
        browser.save_screenshot(str(tmp_path / "desktop_3_region.png"))

        press(browser, "Where the model")
        press(browser, "Show the map")
        until(browser, lambda: browser.find_elements("css selector", "#heat img"))
        browser.execute_script("document.querySelector('#heat').scrollIntoView({block: 'end'})")
        time.sleep(1)
        browser.save_screenshot(str(tmp_path / "desktop_4_map.png"))

        press(browser, "Another sample")
        until(browser, lambda: "sample 1" in browser.find_element("css selector", "#caption").text)
        click(browser, "Download")
        saved = tmp_path / "small_x3.7_t0_region1_sample1.png"
        until(browser, saved.exists)
        at_the_edge = np.asarray(Image.open(saved))[:20].astype(int)
        assert abs(at_the_edge - wanted(0.0)[:20]).max() <= 1
        click(browser, "Download the map")
        until(browser, (tmp_path / "small_x3.7_deviation.tiff").exists)
        assert strangers(browser, address) == set()


@pytest.mark.slow
def test_a_long_job_is_cancelled_and_a_closed_tab_stops_its_own(
    address: str, small: Path, tmp_path: Path
) -> None:
    from slider import chromium, sides, upload

    large = tmp_path / "large.png"
    Image.open(bundled("heldout").hr[0]).save(large)

    def start() -> None:
        press(browser, "Enlarge all of it")
        until(browser, lambda: "s left" in browser.find_element("id", "compare").text)

    with chromium(1280, 1000, tmp_path) as browser:
        browser.get(address)
        upload(browser, large)
        before = sides(browser)
        start()
        browser.save_screenshot(str(tmp_path / "desktop_6_job.png"))
        assert browser.find_element("id", "cancel").is_displayed()
        browser.find_element("id", "cancel").click()
        until(browser, lambda: not browser.find_element("id", "cancel").is_displayed())
        assert browser.find_element("css selector", "#view input[value=Close-up]").is_selected()
        assert len(sides(browser)) == len(before) == 2
        start()
    with chromium(1280, 1000, tmp_path) as browser:  # The next tab need not wait for the end of the job.
        browser.get(address)
        upload(browser, small)


@pytest.mark.thorough
def test_the_scale_waits_for_its_turn_and_takes_keys(address: str, small: Path, tmp_path: Path) -> None:
    from selenium.webdriver import Keys
    from slider import RESCALE, chromium

    with chromium(1280, 1000, tmp_path) as browser:
        browser.get(address)
        file = until(browser, lambda: browser.find_elements("css selector", "#upload input[type=file]"))[0]
        file.send_keys(str(small))
        time.sleep(0.5)
        browser.execute_script(RESCALE)
        caption = browser.find_element("css selector", "#caption")
        until(browser, lambda: "640×520" in caption.text)
        browser.find_element("css selector", "#scale input[type=range]").send_keys(Keys.ARROW_LEFT)
        until(browser, lambda: "624×507" in caption.text)
        box = browser.find_element("css selector", "#scale input[type=number]")
        box.send_keys(Keys.CONTROL, "a")
        box.send_keys("2", Keys.ENTER)
        until(browser, lambda: "320×260" in caption.text)


@pytest.mark.thorough
def test_a_bad_file_gives_a_message_and_the_page_goes_on(address: str, small: Path, tmp_path: Path) -> None:
    from slider import chromium, sides, upload

    bad = tmp_path / "holiday.png"
    bad.write_bytes(small.read_bytes()[:2000])
    with chromium(1280, 1000, tmp_path) as browser:
        browser.get(address)
        until(browser, lambda: browser.find_elements("css selector", "#upload input[type=file]"))
        browser.find_element("css selector", "#upload input[type=file]").send_keys(str(bad))
        until(browser, lambda: "holiday.png: cannot be read" in browser.page_source)
        time.sleep(1)
        browser.save_screenshot(str(tmp_path / "desktop_5_bad.png"))
        upload(browser, small)
        assert fetched(sides(browser)[1]).shape[:2] == pytest.approx((420, 560), abs=4)


@pytest.mark.slow
def test_a_phone_shows_all_of_it_without_scrolling_sideways(
    address: str, small: Path, tmp_path: Path
) -> None:
    from slider import chromium, sides, upload

    def wide() -> int:
        return browser.execute_script("return document.documentElement.scrollWidth")

    with chromium(390, 844, tmp_path) as browser:
        browser.get(address)
        until(browser, lambda: browser.find_elements("css selector", "#compare"))
        assert wide() <= 390
        browser.save_screenshot(str(tmp_path / "phone_1_empty.png"))
        upload(browser, small)
        press(browser, "A region")
        plain = fetched(sides(browser)[1])
        stroke(browser)
        until(browser, lambda: differs(browser, plain).any())
        press(browser, "Where the model")
        press(browser, "Show the map")
        until(browser, lambda: browser.find_elements("css selector", "#heat img"))
        time.sleep(1)
        assert wide() <= 390
        height = browser.execute_script("return document.documentElement.scrollHeight")
        screen = {"width": 390, "height": height, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        time.sleep(1)
        browser.save_screenshot(str(tmp_path / "phone_2_all.png"))
