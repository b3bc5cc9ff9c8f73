"""`linf demo`: its page shows what the model gives, also in a browser, and explains errors."""

import io
import json
import re
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

import linf
from helpers.commands import Linf, assert_in_words
from helpers.paths import ROOT
from linf.data.sources import bundled
from linf.demo import mixture as mixing
from linf.demo import session
from linf.demo.mixture import Mixture, around, cut, detail
from linf.images.luma import PILLOW_GREY
from linf.images.read import Photo, read_photo
from linf.models.baselines import LIIF, Bicubic, LIIFConditioner
from linf.models.encoders import EDSR
from linf.upscale.enlarge import Ask, enlarge

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


def photograph(channels: int = 3, dtype: type = np.uint8) -> Photo:
    """A detail of 24×31 pixels."""
    pixels = np.asarray(Image.open(bundled("heldout").hr[0]))[40:64, 200:231, :channels]
    return Photo(pixels.astype(dtype) * (257 if dtype is np.uint16 else 1))


# The closed form


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("temperature", [0.0, 0.35, 1.0, "map"])
def test_a_mixture_is_the_models_sample(
    checkpoint: Path, temperature: float | str, channels: int, dtype: type
) -> None:
    model, image = linf.load(checkpoint), photograph(channels, dtype)
    mixture = Mixture(model, image, 3.7, seed=5)
    assert mixture.size == (89, 115)
    tau = torch.rand(mixture.size) if isinstance(temperature, str) else temperature
    lr = torch.from_numpy(image.pixels.astype(np.float32)).permute(2, 0, 1)[None] / image.peak
    wanted = model.sample(lr.expand(-1, 3, -1, -1), mixture.size, temperature=tau, seed=5)[0]
    if channels == 1:
        wanted = torch.tensordot(torch.tensor(PILLOW_GREY), wanted, 1)[None]
    torch.testing.assert_close(mixture.values(tau), wanted, rtol=0, atol=1e-6)
    made = mixture.at(tau)
    assert (made.pixels.dtype, made.pixels.shape) == (dtype, (89, 115, channels))
    part = slice(10, 50), slice(60, 115)
    np.testing.assert_array_equal(mixture.at(tau, part).pixels, cut(made, part).pixels)


def test_a_mixture_has_what_upscale_gives(checkpoint: Path) -> None:
    model, image = linf.load(checkpoint), photograph()
    image.alpha = image.pixels[..., 0]
    mixture = Mixture(model, image, 2)
    made = enlarge(model, image.pixels, (48, 62), Ask(temperature=0.8, uncertainty=True))
    apart = mixture.at(0.8).pixels.astype(int) - made.images[0]
    assert np.abs(apart).max() <= 1
    shares: list[float] = []
    np.testing.assert_array_equal(mixture.deviation(model, shares.append), made.deviation)
    assert shares[-1] == 1
    assert mixture.bicubic().pixels.shape == (48, 62, 3)
    for whole in (mixture.at(0.5), mixture.bicubic()):
        assert whole.alpha is not None
        assert whole.alpha.shape == (48, 62)


def test_a_region_is_whole_inside_and_soft_at_its_edge(checkpoint: Path) -> None:
    mixture = Mixture(linf.load(checkpoint), photograph(), 4)
    painted = Image.new("L", (62, 48))
    ImageDraw.Draw(painted).rectangle((0, 0, 30, 47), fill=153)  # The left half, translucent.
    share = mixture.region(painted)
    assert share.shape == mixture.size
    assert (share[:, :40] == 1).all()
    assert (share[:, -40:] == 0).all()
    assert share.diff(dim=1).abs().max() < 0.2
    tau = 0.2 + (0.9 - 0.2) * share
    torch.testing.assert_close(mixture.values(tau)[..., :40], mixture.values(0.9)[..., :40])
    torch.testing.assert_close(mixture.values(tau)[..., -40:], mixture.values(0.2)[..., -40:])


def test_parts_stay_inside() -> None:
    assert around((100, 200), (50, 100), (10, 20)) == (slice(45, 55), slice(90, 110))
    assert around((100, 200), (0, 200), (10, 20)) == (slice(0, 10), slice(180, 200))
    assert around((4, 9), (99, -99), (10, 20)) == (slice(0, 4), slice(0, 9))
    assert detail((400, 600), 3.7, (200, 300)) == (slice(0, 400), slice(0, 600))
    for scale in (1, 3.7, 8):
        rows, cols = detail((3000, 4000), scale, (0, 4000))
        high, wide = rows.stop - rows.start, cols.stop - cols.start
        assert high * wide <= min(mixing.LARGEST_IN, mixing.LARGEST_OUT / scale**2)
        assert wide / high == pytest.approx(4 / 3, rel=0.01)
        assert (rows.start, cols.stop) == (0, 4000)


# The page's events


@pytest.fixture
def events(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The events of the page for a tiny LINF; their warnings are in ``events.warned``."""
    gradio = pytest.importorskip("gradio")
    from linf.demo.events import Events

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    made: Any = Events(linf.load(checkpoint))
    made.warned = []
    monkeypatch.setattr(gradio, "Warning", lambda message, **_: made.warned.append(message))
    return made


def asking(tab: str = "tab") -> Any:
    return SimpleNamespace(session_hash=tab)


def silent(*_: object) -> None:
    """No progress."""


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
    taken, *rest = events.open_image({"path": str(bad)}, 2, asking(), silent)
    assert (taken, rest) == (None, [gradio.skip()] * 4)
    assert re.match(r"holiday\.png: (the file is empty|it is no PNG|cannot be read: )", events.warned[0])
    assert not events.sessions
    events.open_image({"path": str(good)}, 2, asking(), silent)
    assert list(events.sessions) == ["tab"]


def test_an_image_reported_twice_is_enlarged_once(events: Any, photos: Path) -> None:
    gradio = pytest.importorskip("gradio")
    upload = {"path": str(next(photos.iterdir()))}
    events.open_image(upload, 2, asking(), silent)
    before = events.sessions["tab"]
    assert events.open_image(upload, 2, asking(), silent) == (gradio.skip(),) * 5
    assert events.open_image(None, 2, asking(), silent) == (gradio.skip(),) * 5
    assert events.sessions["tab"] is before


def test_an_error_of_the_model_is_shown_on_the_page(
    events: Any, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gradio = pytest.importorskip("gradio")

    def fail(*_: object) -> None:
        raise ValueError("the image is too large")

    monkeypatch.setattr(session.Session, "enlarge", fail)
    with pytest.raises(gradio.Error, match="the image is too large"):
        events.open_image({"path": str(next(photos.iterdir()))}, 2, asking(), silent)
    assert not events.sessions


def test_without_an_image_buttons_say_so_and_sliders_wait(events: Any) -> None:
    gradio = pytest.importorskip("gradio")
    assert events.mix(0.5, 1, "Whole", asking()) == gradio.skip()
    for ask in (lambda: events.resample(asking(), silent), lambda: events.save(0.5, 1, asking())):
        with pytest.raises(gradio.Error, match="There is no image"):
            ask()


def test_a_tab_sees_its_own_image_and_old_tabs_are_dropped(events: Any, photos: Path, tmp_path: Path) -> None:
    from linf.demo.events import MAX_SESSIONS

    a, b = sorted(photos.iterdir())
    for number in range(MAX_SESSIONS + 1):
        events.open_image({"path": str(a if number % 2 else b)}, 2, asking(str(number)), silent)
    assert len(events.sessions) == MAX_SESSIONS == len([path for path in tmp_path.iterdir() if path.is_dir()])
    for tab, source in (("1", a), ("2", b)):
        for _ in range(2 * session.KEPT_PREVIEWS):
            bicubic, made = events.mix(0.5, 1, "Whole", asking(tab))
        mixture = Mixture(events.model, read_photo(source), 2)
        assert Image.open(made).size == Image.open(bicubic).size == mixture.size[::-1]
        assert abs(np.asarray(Image.open(made)) - mixture.at(0.5).pixels.astype(int)).mean() < 4
        assert len(list(made.parent.iterdir())) <= session.KEPT_PREVIEWS + 3
        saved = events.save(0.5, 1, asking(tab))
        assert saved.name == f"{source.stem}_x2_t0.5.png"
        np.testing.assert_array_equal(np.asarray(Image.open(saved)), mixture.at(0.5).pixels)


def test_a_tab_whose_image_was_dropped_is_warned_once(events: Any, photos: Path) -> None:
    gradio = pytest.importorskip("gradio")
    from linf.demo.events import MAX_SESSIONS

    for number in range(MAX_SESSIONS + 1):
        events.open_image({"path": str(sorted(photos.iterdir())[0])}, 2, asking(str(number)), silent)
    for _ in range(2):
        assert events.mix(0.5, 1, "Whole", asking("0")) == gradio.skip()
    assert len(events.warned) == 1
    assert "Drop one on the page" in events.warned[0]
    for tab in "01":
        events.open_image({"path": str(sorted(photos.iterdir())[0])}, 2, asking(tab), silent)
    events.mix(0.5, 1, "Whole", asking("1"))
    assert len(events.warned) == 1


def test_a_scale_beyond_the_slider_is_that_of_its_end(events: Any, photos: Path) -> None:
    source = sorted(photos.iterdir())[0]
    height, width = read_photo(source).pixels.shape[:2]
    events.open_image({"path": str(source)}, None, asking(), silent)
    for typed, scale in ((99, 8), (0.2, 1), (None, 1), (3, 3)):
        caption = events.rescale(typed, asking(), silent)[0]
        assert f"**{scale * width}×{scale * height}**" in caption
    caption = events.open_image({"path": str(source)}, 2, asking(), silent)[1]
    assert f"**{2 * width}×{2 * height}**" in caption


def test_a_region_stays_with_another_sample_and_goes_with_another_scale(events: Any, photos: Path) -> None:
    events.open_image({"path": str(sorted(photos.iterdir())[0])}, 2, asking(), silent)
    tab = events.sessions["tab"]
    events.paint({"layers": [Image.new("RGBA", tab.size[::-1], "red")]}, asking())
    assert (tab.enlargement.region == 1).all()
    events.resample(asking(), silent)
    assert (tab.enlargement.region == 1).all()
    assert "sample 1" in events.rescale(3, asking(), silent)[0]
    assert tab.enlargement.region is None


def test_a_click_moves_the_close_up_and_then_the_detail(
    events: Any, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gradio = pytest.importorskip("gradio")

    monkeypatch.setattr(session, "CLOSE_UP_SIZE", (10, 12))
    monkeypatch.setattr(mixing, "LARGEST_IN", 400)
    source = sorted(photos.iterdir())[0]
    _, caption, *_ = events.open_image({"path": str(source)}, 2, asking(), silent)
    tab = events.sessions["tab"]
    high, wide = tab.enlargement.mixture.lr.pixels.shape[:2]
    assert high * wide <= 400
    assert "This is a detail of your image of" in caption
    inside = tab.enlargement.part[0].start + 1, tab.enlargement.part[1].start + 1
    before = tab.enlargement.mixture
    answer = events.move(SimpleNamespace(index=inside[::-1]), asking(), silent)
    assert (answer[0], answer[1:], tab.enlargement.mixture) == ("Close-up", (gradio.skip(),) * 3, before)
    made = events.mix(0.5, 1, "Close-up", asking())[1]
    close = before.at(0.5, (slice(0, 10), slice(0, 12))).pixels
    assert abs(np.asarray(Image.open(made)) - close.astype(int)).mean() < 6
    events.move(SimpleNamespace(index=(0, 0)), asking(), silent)
    assert (tab.enlargement.part[0].start, tab.enlargement.part[1].start) == (0, 0)
    assert tab.enlargement.mixture is not before


def test_another_sample_has_other_noise_and_the_same_mean(events: Any, photos: Path) -> None:
    events.open_image({"path": str(sorted(photos.iterdir())[0])}, 2, asking(), silent)
    before = events.sessions["tab"].enlargement.mixture
    assert "sample 1" in events.resample(asking(), silent)
    after = events.sessions["tab"].enlargement.mixture
    assert torch.equal(before.mean, after.mean)
    assert not torch.equal(before.noise, after.noise)


def test_sixteen_bits_grey_and_a_profile_come_back(events: Any, tmp_path: Path) -> None:
    deep = Photo(np.arange(12 * 16, dtype=np.uint16).reshape(12, 16, 1) * 300)
    Image.fromarray(deep.pixels[..., 0]).save(tmp_path / "deep.png")
    events.open_image({"path": str(tmp_path / "deep.png")}, 3, asking(), silent)
    saved = read_photo(events.save(0.0, 1, asking()))
    assert (saved.pixels.dtype, saved.pixels.shape) == (np.uint16, (36, 48, 1))


# The command


def test_user_errors_are_one_line(run: Linf, tmp_path: Path) -> None:
    regression = tmp_path / "liif.safetensors"
    conditioner = partial(LIIFConditioner, width=8, depth=1)
    linf.save(LIIF(EDSR(blocks=1, channels=8), conditioner), regression)
    for arguments, message in {
        ("--model", str(regression)): f"{regression} holds a LIIF, which has no temperature",
        ("--model", "gone.ckpt"): "no checkpoint at gone.ckpt",
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
    """An image of 100×80 pixels."""
    Image.open(bundled("heldout").hr[0]).crop((180, 60, 280, 140)).save(tmp_path / "small.png")
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
def test_a_user_enlarges_mixes_paints_and_saves(address: str, small: Path, tmp_path: Path) -> None:
    from slider import chromium, move, sides, upload

    model, image = linf.load("photo"), read_photo(small)

    def wanted(temperature: float) -> np.ndarray:
        lr = torch.from_numpy(image.pixels / np.float32(255))
        sr = model.sample(lr.permute(2, 0, 1)[None], (296, 370), temperature=temperature, seed=0)
        return (sr[0].permute(1, 2, 0) * 255).round().clamp(0, 255).byte().numpy()

    bicubic = enlarge(Bicubic(), image.pixels, (296, 370), Ask()).images[0]
    with chromium(1280, 1000, tmp_path) as browser:
        browser.get(address)
        until(browser, lambda: browser.find_elements("css selector", "#compare"))
        browser.save_screenshot(str(tmp_path / "desktop_1_empty.png"))
        upload(browser, small)
        browser.save_screenshot(str(tmp_path / "desktop_2_enlarged.png"))
        left, right = map(fetched, sides(browser))
        assert abs(left - as_shown(bicubic)).mean() < 0.1
        assert abs(right - as_shown(wanted(0.5))).mean() < 0.1
        for value in (0.0, 0.3, 1.0):
            move(browser, value)
            seen, before = fetched(sides(browser)[1]), right
            assert abs(seen - as_shown(wanted(value))).mean() < 0.1
            assert abs(seen - before).mean() > 1
        np.testing.assert_array_equal(fetched(sides(browser)[0]), left)

        move(browser, 0.0)
        plain = fetched(sides(browser)[1])
        press(browser, "A region")
        stroke(browser)
        until(browser, lambda: differs(browser, plain)[128:168, 165:205].mean() > 3)
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
        press(browser, "Download")
        saved = tmp_path / "small_x3.7_t0.png"
        until(browser, saved.exists)
        at_the_edge = np.asarray(Image.open(saved))[:20].astype(int)
        assert abs(at_the_edge - wanted(0.0)[:20]).max() <= 1
        assert strangers(browser, address) == set()


@pytest.mark.slow
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
        until(browser, lambda: "400×320" in caption.text)
        browser.find_element("css selector", "#scale input[type=range]").send_keys(Keys.ARROW_LEFT)
        until(browser, lambda: "390×312" in caption.text)
        box = browser.find_element("css selector", "#scale input[type=number]")
        box.send_keys(Keys.CONTROL, "a")
        box.send_keys("2", Keys.ENTER)
        until(browser, lambda: "200×160" in caption.text)


@pytest.mark.slow
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
        assert fetched(sides(browser)[1]).shape == (296, 370, 3)


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
