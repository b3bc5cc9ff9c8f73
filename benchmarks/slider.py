"""The page of `linf demo` in a headless Chromium (Debian: apt-get install chromium chromium-driver)."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

import linf
from linf.data.sources import bundled
from linf.demo.session import Session
from linf.demo.shown import BY_BICUBIC, Shown
from linf.images.read import read_photo

MOVES = 30

MOVE = """
const [slider, value, done] = arguments;
const image = () => document.querySelectorAll('#compare img')[1];
const range = document.querySelector(slider + ' input[type=range]');
const before = image().src, start = performance.now();
range.value = value;
range.dispatchEvent(new Event('input', {bubbles: true}));
const look = () => image().src === before ? setTimeout(look, 1)
    : image().decode().then(() => requestAnimationFrame(() => done(performance.now() - start)));
look();
"""

RESCALE = """
const range = document.querySelector('#scale input[type=range]');
range.value = 4;
range.dispatchEvent(new Event('input', {bubbles: true}));
range.dispatchEvent(new Event('pointerup', {bubbles: true}));
"""


@contextmanager
def served(*arguments: str) -> Iterator[str]:
    """The address of a `linf demo` with these arguments, which ends in good order."""
    command = [sys.executable, "-m", "linf", "demo", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().split(",")[0]
        finally:
            server.terminate()
            out, err = server.communicate(timeout=60)
        ended = server.returncode, out, err
        assert ended == (143, "", ""), ended


@contextmanager
def chromium(width: int, height: int, downloads: Path) -> Iterator[webdriver.Chrome]:
    """A browser without a window, which logs what it asks the network for."""
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    browser = webdriver.Chrome(options, Service("/usr/bin/chromedriver"))
    # A window is never as narrow as a phone's.
    screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    browser.set_script_timeout(60)
    try:
        yield browser
    finally:
        browser.quit()


def upload(browser: webdriver.Chrome, image: Path) -> None:
    """Give the page an image, and wait until it is enlarged."""
    waiting = WebDriverWait(browser, 300, poll_frequency=0.1)
    shown = [side.get_attribute("src") for side in browser.find_elements(By.CSS_SELECTOR, "#compare img")]
    waiting.until(lambda b: b.find_elements(By.CSS_SELECTOR, "#upload input[type=file]"))
    browser.find_element(By.CSS_SELECTOR, "#upload input[type=file]").send_keys(str(image))
    waiting.until(lambda b: len(now := sides(b)) == 2 and now != shown)


def sides(browser: webdriver.Chrome) -> list[str]:
    """The addresses of what is left and right of the divider."""
    return browser.execute_script("return [...document.querySelectorAll('#compare img')].map(i => i.src)")


def move(browser: webdriver.Chrome, value: float, slider: str = "#temperature") -> float:
    """Milliseconds until a slider's new value is seen."""
    return float(browser.execute_async_script(MOVE, slider, value))


def opened(image: Path, scale: float) -> tuple[Session, Shown]:
    """A tab of the page in this process, with all of an image enlarged."""
    session = Session(linf.load("photo"), read_photo(image), image, scale)
    session.make(True)
    return session, Shown(session)


def mixing(image: Path) -> list[float]:
    """The milliseconds of a move that the server mixes and encodes, in this process."""
    _, shown = opened(image, 4.0)
    times = []
    for k in range(MOVES):
        start = time.perf_counter()
        shown.comparison(True, (k + 1) / MOVES, 1.0, BY_BICUBIC, True)
        times.append(1000 * (time.perf_counter() - start))
    return times


def samples() -> tuple[list[float], list[float]]:
    """Seconds until another sample can be seen, of all of an image of 800×500 at ×3.7, and of a close-up."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        image = Path(folder, "image.png")
        Image.open(bundled("heldout").hr[1]).convert("RGB").resize((800, 500)).save(image)
        session, shown = opened(image, 3.7)
        session.make(False)
        times: dict[bool, list[float]] = {True: [], False: []}
        for whole in (True, False):
            shown.comparison(whole, 0.5, 1.0, BY_BICUBIC, True)
            for _ in range(5):
                start = time.perf_counter()
                session.seed += 1
                session.make(whole)
                shown.comparison(whole, 0.5, 1.0, BY_BICUBIC, True)
                times[whole].append(time.perf_counter() - start)
        return times[True], times[False]


def measured() -> tuple[list[float], list[float]]:
    """Milliseconds of each move until its image is seen, and what of a move is mixing and encoding."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        image = Path(folder, "small.png")
        Image.open(bundled("heldout").hr[0]).crop((100, 0, 356, 256)).save(image)
        with served() as address, chromium(1280, 1000, Path(folder)) as browser:
            browser.get(address)
            upload(browser, image)
            browser.execute_script(RESCALE)
            caption = browser.find_element(By.ID, "caption")
            WebDriverWait(browser, 300).until(lambda b: "1024" in caption.text)
            browser.find_element(By.CSS_SELECTOR, "#view input[value='Whole image']").click()
            wide = "return [...document.querySelectorAll('#compare img')].map(i => i.naturalWidth)"
            WebDriverWait(browser, 300).until(lambda b: b.execute_script(wide) == [1024, 1024])
            seen = [move(browser, (k + 1) / MOVES) for k in range(MOVES)]
        return seen, mixing(image)
