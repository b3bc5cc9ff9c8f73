"""What a report says first."""

import json
from pathlib import Path

import pytest

from helpers.evaluations import evaluation
from linf.report import find_runs, read_run
from linf.report.page import render_page
from linf.report.publish import sheet_captions
from linf.report.story import story
from linf.report.tables import all_tables


def told(paths: list[Path]) -> dict[str, str]:
    return {title: " ".join(sentences) for _, title, sentences in story(find_runs(paths))}


def test_the_story_says_what_the_tables_hold(tmp_path: Path) -> None:
    folder = evaluation(tmp_path / "a", "LINF")
    evaluation(tmp_path / "b", "LIIF", "LIIF", shift=0.25)
    run, steps = read_run(folder), told([tmp_path])
    assert list(steps) == ["A distribution", "Any scale", "Texture", "Temperature"]

    def value(system: str, metric: str, scale: int = 4) -> float:
        return run.value("Set5", scale, system, metric)

    assert (
        f"its 50% intervals hold {0.5**0.8:.1%} and its 90% intervals hold {0.9**0.8:.1%} of HR values"
        in steps["A distribution"]
    )
    gains = [value("τ=0", "psnr_y", s) - value("bicubic", "psnr_y", s) for s in (2, 4)]
    assert f"above bicubic's by {gains[0]:.2f} dB at ×2, {gains[1]:.2f} dB at ×4." in steps["Any scale"]
    assert f"LIIF has LPIPS {value('τ=0', 'lpips_alex'):.3f} and 30% of HR's detail." in steps["Texture"]
    assert f"At ×4, bicubic has LPIPS {value('bicubic', 'lpips_alex'):.3f} and 4% of" in steps["Texture"]
    best = value("τ=0.4", "lpips_alex")
    assert f"a sample at τ=0.4 has LPIPS {best:.3f} and 41% of HR's detail." in steps["Texture"]
    psnr, lpips = ([value(f"τ={t:g}", name) for t in (0, 0.4, 0.8)] for name in ("psnr_y", "lpips_alex"))
    assert (
        f"τ=0 → τ=0.4 → τ=0.8: PSNR (Y) {' → '.join(f'{v:.2f}' for v in psnr)} dB, "
        f"LPIPS {' → '.join(f'{v:.3f}' for v in lpips)}."
    ) in steps["Temperature"]


def test_a_model_below_bicubic_is_not_said_to_be_above(tmp_path: Path) -> None:
    (run,) = find_runs([evaluation(tmp_path, shift=-20)])
    gains = [
        run.value("Set5", s, "τ=0", "psnr_y") - run.value("Set5", s, "bicubic", "psnr_y") for s in (2, 4)
    ]
    assert max(gains) < 0
    listed = f"−{-gains[0]:.2f} dB at ×2, −{-gains[1]:.2f} dB at ×4"
    assert f"its PSNR (Y) differs from bicubic's by {listed}." in told([tmp_path])["Any scale"]


def test_without_lpips_detail_tells_of_texture(tmp_path: Path) -> None:
    steps = told([evaluation(tmp_path, lpips=False)])
    assert "a sample at τ=0.8 has 75% of HR's detail." in steps["Texture"]
    assert "detail 30 → 75% of HR's" in steps["Temperature"]


def test_a_run_without_the_largest_scale_is_left_out_there(tmp_path: Path) -> None:
    evaluation(tmp_path / "a", "one", scales=(2, 4))
    evaluation(tmp_path / "b", "other", scales=(2,))
    steps = told([tmp_path])
    assert "one at ×4, τ=0 → τ=0.4 → τ=0.8" in steps["Temperature"]
    assert "other" not in " ".join(steps.values())


def test_runs_that_the_story_is_not_about_are_counted(tmp_path: Path) -> None:
    for n in range(5):
        (first, *_) = told([evaluation(tmp_path / str(n), f"run {n}").parent]).values()
        assert first.endswith("2 more runs are only in the figures and tables below.") == (n == 4)
        assert ("1 more run is only" in first) == (n == 3)


@pytest.mark.parametrize("sizes", [(3, 3), (1, 3)])
def test_patches_of_different_sizes_are_compared(sizes: tuple[int, int], tmp_path: Path) -> None:
    for n, size in enumerate(sizes):
        about = evaluation(tmp_path / str(n), f"run {n}") / "run.json"
        content = json.loads(about.read_text())
        content["model"]["config"]["flow"] = {"patch_size": size}
        about.write_text(json.dumps(content))
    said = told([tmp_path])["Patches"]
    assert ("Texture is drawn in patches of 3×3 pixels" in said) == (sizes == (3, 3))
    assert ("1×1 pixels 0.202 (run 0, τ=0.4), 3×3 pixels 0.202 (run 1, τ=0.4)" in said) == (sizes == (1, 3))


def test_a_report_begins_with_the_story_only_where_a_model_samples(tmp_path: Path) -> None:
    runs = [read_run(evaluation(tmp_path / "a", names=("one",), scales=(4,)))]
    page = render_page(runs, {"temperature_Set5": "data:,"}, all_tables(runs), [], {})
    assert '<a href="#temperature-1">Temperature</a>' in page
    assert '<h3 id="temperature-1">Temperature</h3>' in page
    assert story([read_run(evaluation(tmp_path / "b", "LIIF", "LIIF"))]) == []


def test_a_contact_sheet_marks_the_best_temperature(tmp_path: Path) -> None:
    run = read_run(evaluation(tmp_path))
    captions = sheet_captions(("Set5", "one", 4.0), run.images, "psnr_y")
    line = run.images.query("image == 'one' and scale == 4 and system == 'τ=0.4'").iloc[0]
    psnr, lpips = line["psnr_y"], line["lpips_alex"]
    assert captions["τ=0.4"] == f"{psnr:.2f} dB\nLPIPS {lpips:.3f} ★ best τ"
    assert [name for name, said in captions.items() if "★" in said] == ["τ=0.4"]
    assert list(captions) == ["bicubic", "τ=0", "τ=0.4", "τ=0.8"]
