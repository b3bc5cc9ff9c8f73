"""Before and after of a detail: what a slider shows at first, and what a reader makes of it in a browser."""

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from helpers.evaluations import evaluation
from linf.evaluation.schema import nearest_system
from linf.report import find_runs, read_run, write_report
from linf.report.details import read_details
from linf.report.sections import all_figures
from linf.report.sliders import detail_sliders
from linf.report.temperature import MOST_CURVES

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


def test_a_slider_begins_with_bicubic_and_the_best_temperature(tmp_path: Path) -> None:
    folder = evaluation(tmp_path, temperatures=np.linspace(0, 1, 11).round(1), names=("one",), shown=True)
    (slider,) = detail_sliders(read_details([read_run(folder)])).values()
    # LPIPS is least at 0.5, which is none of the five temperatures that are evenly spaced.
    assert slider.titles[slider.before].startswith("bicubic ")
    assert slider.titles[slider.after].startswith("LINF, τ=0.5 ")
    assert [title.split()[0] for title in slider.titles[:2]] == ["LR", "bicubic"]
    assert slider.titles[-1] == "HR"
    shown = {
        title.get_text()
        for title in (axis.title for axis in all_figures([read_run(folder)])["details_Set5_x4_one"].axes)
    }
    assert any(text.startswith("τ=0.5\n") for text in shown)
    whole = np.asarray(Image.open(next(folder.rglob("one/τ=0.5.png"))))
    crop = np.asarray(Image.open(io.BytesIO(slider.crops[slider.after])))
    assert crop.shape == (96, 96, 3)
    assert any(
        np.array_equal(crop, whole[y : y + 96, x : x + 96])
        for y in range(len(whole) - 95)
        for x in range(whole.shape[1] - 95)
    )


def test_the_best_temperature_is_that_of_the_first_perceptual_metric() -> None:
    def row(system: str, tau: float | None, **figures: Any) -> dict[str, Any]:
        return {"system": system, "temperature": tau, **figures}

    rows = [row("bicubic", None, lpips_alex=0.1, dists=0.1)]
    assert nearest_system(rows) is None
    rows += [row("τ=0", 0, lpips_alex=0.3, dists=0.1), row("τ=0.4", 0.4, lpips_alex=0.2, dists=0.2)]
    assert nearest_system(rows) == "τ=0.4"
    assert nearest_system([row("τ=0", 0, psnr_y=30), row("τ=1", 1, psnr_y=20)]) is None
    assert nearest_system([row("τ=0", 0, lpips_alex=float("nan"), dists=0.1)]) == "τ=0"


@pytest.mark.thorough
def test_where_many_curves_would_cross_each_scale_has_its_own_panel(tmp_path: Path) -> None:
    for n in range(3):
        evaluation(tmp_path / str(n), f"run {n}", scales=(2, 3, 4), shift=0.1 * n)
    figure = all_figures(find_runs([tmp_path]))["temperature_Set5"]
    titles = [axis.get_title("left") for axis in figure.axes]
    assert titles[:4] == [*(f"PSNR (Y), dB ↑, ×{s}" for s in (2, 3, 4)), "LPIPS ↓, ×2"]
    curves = [sum(len(line.get_xdata()) == 3 for line in axis.lines) for axis in figure.axes]
    assert set(curves) == {3}
    few = all_figures(find_runs([tmp_path / "0"]))["temperature_Set5"]
    assert len(few.axes) == 6
    assert MOST_CURVES >= 3


@pytest.mark.slow
@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no Chromium with its driver")
@pytest.mark.parametrize("width", [390, pytest.param(1500, marks=pytest.mark.thorough)])
def test_a_reader_moves_the_divider_and_chooses_systems(width: int, tmp_path: Path) -> None:
    from selenium import webdriver
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select

    folder = evaluation(tmp_path / "run", names=("one",), shown=True)
    page = write_report([read_run(folder)], tmp_path / "report")
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    browser = webdriver.Chrome(options, webdriver.ChromeService(str(DRIVER)))
    try:
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        browser.get(page.as_uri())
        wide = browser.execute_script("return document.documentElement.scrollWidth")
        assert wide <= width, "the page scrolls sideways"
        stack = browser.find_element(By.CSS_SELECTOR, ".stack")
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", stack)
        after = stack.find_element(By.CSS_SELECTOR, ".after")
        side = stack.size["width"]
        ActionChains(browser).move_to_element_with_offset(stack, side // 4, 0).click().perform()
        clipped = float(after.value_of_css_property("clip-path").split()[-1].rstrip("%)"))
        assert clipped == pytest.approx(75, abs=3)
        choice = Select(browser.find_elements(By.CSS_SELECTOR, ".choices select")[1])
        choice.select_by_visible_text("HR")
        assert after.get_attribute("alt") == "HR"
        assert browser.execute_script("return arguments[0].naturalWidth", after) == 96
        nav = browser.find_element(By.TAG_NAME, "nav")
        beside = nav.rect["x"] + nav.rect["width"] <= browser.find_element(By.TAG_NAME, "h1").rect["x"]
        assert beside == (width > 1280)
    finally:
        browser.quit()


@pytest.mark.slow
def test_crops_are_files_too(tmp_path: Path) -> None:
    out = write_report(
        [read_run(evaluation(tmp_path / "run", names=("one",), scales=(4,), shown=True))], tmp_path / "r"
    )
    names = sorted(path.name for path in (out.parent / "crops").iterdir())
    assert len(names) == 6
    assert names[0].startswith("details_Set5_x4_one_0_LR")
    assert pd.Series(names).str.endswith(".png").all()
