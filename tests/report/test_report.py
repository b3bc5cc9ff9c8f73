"""Reports: what is read, what figures and tables hold, the findings, and the self-contained page."""

import base64
import io
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock
from xml.etree import ElementTree

import matplotlib.cbook
import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
from hydra.utils import instantiate
from matplotlib.figure import Figure
from PIL import Image

from helpers.commands import Compose, Linf, assert_in_words
from helpers.evaluations import SHA, evaluation
from helpers.figures import overlapping
from linf.errors import UsageError
from linf.evaluation.schema import METRICS
from linf.report import find_runs, read_run, write_report
from linf.report.calibration import calibration_findings
from linf.report.caveats import caveats, metric_sentences, source_findings
from linf.report.consistency import consistency_findings
from linf.report.crops import detail_findings
from linf.report.details import read_details
from linf.report.differences import differences
from linf.report.plane import plane_findings
from linf.report.scale import scale_findings
from linf.report.sections import all_figures
from linf.report.sliders import detail_sliders
from linf.report.story import story
from linf.report.style import series_style
from linf.report.tables import all_tables, published_results, safe_name
from linf.report.temperature import deviation_findings
from linf.report.typesetting import escape_latex, html_tables, latex, markdown, ranks


@pytest.fixture
def linf(run: Linf) -> Linf:
    """`run`, as here runs are evaluations."""
    return run


# Reading


@pytest.fixture(scope="module")
def real(composed: Compose, checkpoint: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``eval.py`` leaves, over two details of photographs."""
    folder = tmp_path_factory.mktemp("real")
    given = (f"ckpt_path={checkpoint}", "data=folder", f"data.root={photos}", f"run_dir={folder}")
    config = composed("eval", *given, "data.num_workers=0", "data.test_scales=[2,3.3]", "samples=2")
    pl.seed_everything(config.seed, workers=True)
    with mock.patch.dict(os.environ, LINF_CACHE=str(tmp_path_factory.mktemp("without_weights"))):
        data, task, trainer = instantiate(config.data), instantiate(config.task), instantiate(config.trainer)
        trainer.test(task, data, verbose=False)
    return folder


def test_an_evaluation_is_read_as_it_was_written(real: Path) -> None:
    run = read_run(real)
    for name in ("metrics", "images", "distribution", "calibration"):
        written = pd.read_csv(real / f"{name}.csv", dtype={"image": str})
        pd.testing.assert_frame_equal(getattr(run, name), written, check_dtype=False)
    assert run.label == json.loads((real / "run.json").read_text())["label"]
    assert run.headline == "psnr_y"
    assert run.samples


def test_closed_form_agrees_with_samples(real: Path) -> None:
    run = read_run(real)
    (dataset,) = set(run.metrics["dataset"])
    for scale in (2, 3.3):
        of = run.curve(dataset, scale)
        law = run.closed_form(dataset, scale, of["temperature"])
        assert law == pytest.approx(of["psnr_y"].to_numpy(), abs=0.3)  # Two small images, and clamping.


def test_closed_form_is_a_mean_of_decibels(tmp_path: Path) -> None:
    run = read_run(evaluation(tmp_path))
    for scale in (2, 4):
        of = run.curve("Set5", scale)
        assert run.closed_form("Set5", scale, of["temperature"]) == pytest.approx(of["psnr_y"], abs=1e-9)
    assert not len(run.closed_form("Set5", 3, [0, 1]))


def test_folders_are_found_at_any_depth_and_once(tmp_path: Path) -> None:
    a, b, c = (evaluation(tmp_path / name, name[-1]) for name in ("grid/x/a", "grid/b", "c"))
    assert [run.folder for run in find_runs([tmp_path / "grid", b, c])] == [b, a, c]
    assert [run.label for run in find_runs([c, tmp_path])] == ["c", "b", "a"]


def test_names_like_numbers_stay_text(tmp_path: Path) -> None:
    run = read_run(evaluation(tmp_path, names=("0001", "NA"), datasets=("007", "None")))
    assert list(run.images["image"].unique()) == ["0001", "NA"]
    assert list(run.metrics["dataset"].unique()) == ["007", "None"]


def test_scales_that_print_alike_are_one(tmp_path: Path) -> None:
    for name, scale in (("a", 3.3333333), ("b", 3.33333)):
        evaluation(tmp_path / name, name, scales=(2, scale))
    table = all_tables(find_runs([tmp_path]))["results_Set5"]
    assert table["×3.33333 PSNR (Y)"].notna().all()


def spoil(change: Callable[[str], str], name: str = "metrics.csv") -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(change((folder / name).read_text())) and None


SPOILT: dict[str, tuple[Callable[[Path], Any], tuple[str, ...]]] = {
    "no table": (
        lambda folder: (folder / "metrics.csv").unlink(),
        ("metrics.csv is missing", "not finished"),
    ),
    "empty table": (
        spoil(lambda text: ""),
        ("metrics.csv is empty: repeat its `linf eval …` with hydra.run.dir=",),
    ),
    "header alone": (spoil(lambda text: text.splitlines()[0] + "\n"), ("no lines",)),
    "cut in a line": (spoil(lambda text: text[: len(text) // 2]), ("truncated at line",)),
    "cut at the end of a field": (spoil(lambda text: text.rstrip("\n")), ("truncated at line",)),
    "cut at the end of a line": (
        spoil(lambda text: text.rstrip("\n").rsplit("\n", 1)[0] + "\n", "images.csv"),
        ("do not belong together",),
    ),
    "twice": (spoil(lambda text: text + text.splitlines()[-1] + "\n"), ("do not belong together",)),
    "open quote": (spoil(lambda text: text + '"'), ("damaged",)),
    "words for numbers": (
        spoil(lambda text: text.replace("τ=0.4,0.4,", "τ=0.4,warm,")),
        ("temperature", "warm"),
    ),
    "no column": (spoil(lambda text: text.replace("temperature", "heat", 1)), ("lacks temperature",)),
    "law cut": (spoil(lambda text: text[:-20], "distribution.csv"), ("distribution.csv", "truncated")),
    "bytes": (
        lambda folder: (folder / "metrics.csv").write_bytes(b"\xff\xfe"),
        ("cannot read", "metrics.csv", "no text: repeat its `linf eval …` with hydra.run.dir="),
    ),
    "record cut": (
        spoil(lambda text: text[:40], "run.json"),
        ("run.json", "truncated", "evaluate in another folder"),
    ),
    "record of others": (spoil(lambda text: '{"state": "done"}', "run.json"), ("not written by", "label")),
    "another type": (
        spoil(lambda text: text.replace('"skipped": {}', '"skipped": []'), "run.json"),
        ("see its skipped",),
    ),
    "lr of another type": (
        spoil(lambda text: text.replace("{", '{"lr": {"Set5": {"4": 1}}, ', 1), "run.json"),
        ("see its lr",),
    ),
    "a prior without its file": (
        spoil(lambda text: text.replace("{", '{"prior": {"a": 1}, ', 1), "run.json"),
        ("see its prior",),
    ),
    "a list for a number": (
        spoil(lambda text: text.replace('"seed": 0', '"seed": [0, 1]'), "run.json"),
        ("see its seed",),
    ),
    "weights of another type": (
        spoil(lambda text: text.replace("{", '{"weights": [], ', 1), "run.json"),
        ("see its weights",),
    ),
    "model.config of another type": (
        spoil(lambda text: text.replace('"config": {', '"config": 7, "_": {'), "run.json"),
        ("see its model.config",),
    ),
    "a list": (spoil(lambda text: "[]", "run.json"), ("not written by",)),
    "other headline": (
        spoil(lambda text: text.replace('"psnr_y", "border"', '"x", "border"'), "run.json"),
        ("headline",),
    ),
    "nothing": (
        lambda folder: [path.unlink() for path in folder.iterdir()],
        ("no evaluation", "linf eval ckpt_path="),
    ),
}


@pytest.mark.parametrize("case", SPOILT)
def test_unreadable_evaluation_is_an_error_line(case: str, linf: Linf, tmp_path: Path) -> None:
    change, words = SPOILT[case]
    folder = evaluation(tmp_path / "run", headline="")
    change(folder)
    done = linf("report", folder, "--out", tmp_path / "out")
    assert_in_words(done.status, done.out, done.err, str(folder), *words)
    assert not (tmp_path / "out").exists()


def test_tables_without_their_record_are_not_left_out_in_silence(linf: Linf, tmp_path: Path) -> None:
    for name in ("whole", "lost"):
        evaluation(tmp_path / "runs" / name)
    (tmp_path / "runs" / "lost" / "run.json").unlink()
    done = linf("report", tmp_path / "runs", "--out", tmp_path / "out")
    lost = tmp_path / "runs" / "lost" / "run.json"
    assert_in_words(done.status, done.out, done.err, f"{lost} is missing", "bring the file back")


@pytest.mark.parametrize(("name", "word"), [("nowhere", "missing"), ("file", "is a file")])
def test_missing_folder_is_an_error_line(name: str, word: str, linf: Linf, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = linf("report", tmp_path / name)
    assert_in_words(done.status, done.out, done.err, name, word)


@pytest.mark.slow
@pytest.mark.usefixtures("unsaved")
def test_files_beside_the_evaluations_of_a_pattern_are_left_out(linf: Linf, tmp_path: Path) -> None:
    folder = evaluation(tmp_path / "sweep" / "0", headline="")
    (tmp_path / "sweep" / "multirun.yaml").touch()
    done = linf("report", *(tmp_path / "sweep").iterdir(), "--out", tmp_path / "out")
    assert done.status == 0, done.err
    assert done.out.endswith(f"{tmp_path / 'out' / 'index.html'}, 1 evaluation\n")
    assert folder.is_dir()


@pytest.mark.parametrize("name", ["HR.png", "τ=0.png", "deviation.npy"])
def test_truncated_image_is_an_error_line(name: str, linf: Linf, tmp_path: Path) -> None:
    folder = evaluation(tmp_path / "run", shown=True)
    path = next(folder.rglob(name))
    path.write_bytes(path.read_bytes()[:60])
    done = linf("report", folder, "--out", tmp_path / "out")
    assert_in_words(done.status, done.out, done.err, str(path))


# Figures


def test_consistency_with_lr_stands_beside_distortion_and_perception(tmp_path: Path) -> None:
    plain = evaluation(tmp_path / "a", "plain", scales=(4,))
    peer = evaluation(tmp_path / "b", "LIIF", "LIIF", scales=(4,), shift=0.5)
    runs = find_runs([plain, peer])
    figure = all_figures(runs)["consistency_Set5"]
    assert not overlapping(figure)
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == [
        "bicubic",
        "plain",
        "plain",
        "LIIF",
    ]
    assert [text.get_text() for text in figure.axes[3].texts] == ["", "τ=0", "τ=0.4", ""]
    rows = [(runs[0], "bicubic"), (runs[0], "τ=0"), (runs[0], "τ=0.4"), (runs[1], "LIIF")]
    titles = ("PSNR (Y), dB ↑", "LPIPS ↓", "LR-PSNR, dB ↑")
    for axis, title, name in zip(figure.axes, titles, ("psnr_y", "lpips_alex", "lr_psnr"), strict=False):
        assert axis.get_title("left") == title
        drawn = [tuple(line.get_xydata()[0]) for line in axis.lines]
        assert drawn == [(run.value("Set5", 4, system, name), n) for n, (run, system) in enumerate(rows)]
    low, best = (METRICS["lr_psnr"].quantity(runs[0].value("Set5", 4, f"τ={t}", "lr_psnr")) for t in (0, 0.4))
    assert (
        consistency_findings(runs, "Set5")[0] == f"plain at ×4: LR-PSNR is {low} at τ=0 and {best} at τ=0.4."
    )
    assert consistency_findings(runs[:1], "Set5") == []
    assert "consistency_Set5" not in all_figures(runs[:1]), "its curves over τ say as much"


def test_curves_have_no_interval_over_few_images(tmp_path: Path) -> None:
    for count in (4, 5):
        run = read_run(evaluation(tmp_path / f"{count}", names=tuple("abcde")[:count], scales=(4,)))
        axis = all_figures([run])["temperature_Set5"].axes[0]
        assert len(axis.collections) == (count == 5)


def test_deviations_over_samples_are_in_a_sentence_and_a_table(real: Path) -> None:
    run = read_run(real)
    (dataset,) = set(run.metrics["dataset"])
    table = all_tables([run])["deviations"]
    of = run.deviations[(run.deviations["scale"] == 3.3) & (run.deviations["temperature"] == 0.8)]
    mean = table[(table["scale"] == 3.3) & (table["system"] == "τ=0.8")]["psnr_y"].item()
    assert mean == pytest.approx(of["psnr_y"].mean())
    said = f"the samples of an image at τ=0.8 have a standard deviation of {mean:.2g} dB of PSNR (Y)."
    assert deviation_findings([run], dataset, 3.3) == [f"{run.label} at ×3.3: {said}"]


def test_deviations_that_are_no_numbers_are_not_told(tmp_path: Path) -> None:
    folder = evaluation(tmp_path, scales=(4,))
    images = pd.read_csv(folder / "images.csv").dropna(subset="temperature")
    images.assign(psnr_y=0.25, lpips_alex=math.nan).to_csv(folder / "deviations.csv", index=False)
    [said] = deviation_findings([read_run(folder)], "Set5", 4)
    assert said.endswith("have a standard deviation of 0.25 dB of PSNR (Y).")
    images.assign(psnr_y=math.nan, lpips_alex=math.nan).to_csv(folder / "deviations.csv", index=False)
    assert deviation_findings([read_run(folder)], "Set5", 4) == []


def test_curves_agree_with_the_table(tmp_path: Path) -> None:
    run = read_run(evaluation(tmp_path, temperatures=(0, 0.3, 0.6, 0.9)))
    figure = all_figures([run])["temperature_Set5"]
    drawn = {
        axis.get_title("left"): [np.asarray(line.get_ydata()) for line in axis.lines] for axis in figure.axes
    }
    titles = ["PSNR (Y), dB ↑", "LPIPS ↓", "detail, % of HR's", "SSIM ↑", "LR-PSNR, dB ↑"]
    titles += ["diversity, grey levels"]
    assert list(drawn) == titles
    names = ("psnr_y", "lpips_alex", "detail", "ssim", "lr_psnr", "diversity")
    for title, name in zip(titles, names, strict=True):
        for scale in (2, 4):
            wanted = [run.curve("Set5", scale)[name].to_numpy()]
            if name != "diversity":
                wanted.append(np.full(2, run.value("Set5", scale, "bicubic", name)))
            if name == "psnr_y":
                wanted.append(run.closed_form("Set5", scale, np.linspace(0, 0.9, 101)))
            best = wanted[0][run.curve("Set5", scale)["lpips_alex"].idxmin()]
            for values in [*wanted, np.array([best])]:
                assert any(len(y) == len(values) and np.allclose(y, values) for y in drawn[title])


def test_plane_is_best_at_the_top_right(tmp_path: Path) -> None:
    figure = all_figures([read_run(evaluation(tmp_path))])["plane_Set5"]
    for axis in figure.axes:
        assert axis.get_xlim()[0] < axis.get_xlim()[1]
        assert axis.get_ylim()[0] > axis.get_ylim()[1]
    labels = {text.get_text() for text in figure.axes[0].texts}
    assert {"τ=0", "τ=0.4", "τ=0.8"} == labels


@pytest.mark.slow
def test_learned_prior_is_drawn(tmp_path: Path) -> None:
    run = read_run(evaluation(tmp_path, prior=True, shown=True))
    figures = all_figures([run])
    for axis, scale in zip(figures["plane_Set5"].axes, (2, 4), strict=True):
        (star,) = [line for line in axis.lines if line.get_marker() == "*"]
        at = [run.value("Set5", scale, "prior", name) for name in ("psnr_y", "lpips_alex")]
        assert [star.get_xdata()[0], star.get_ydata()[0]] == at
    assert any(axis.get_title().startswith("prior\n") for axis in figures["details_Set5_x4_one"].axes)
    assert all_tables([run])["results_Set5"]["system"].tolist()[-1] == "prior"


@pytest.mark.slow
def test_published_points_match_data_set_scale_and_psnr(tmp_path: Path) -> None:
    protocol = {"name": "generative", "headline": "psnr_rgb", "border": "ceil(s)"}
    names = ("div2k-valid", "Set5")
    runs = [read_run(evaluation(tmp_path / "rgb", datasets=names, protocol=protocol))]
    figures = all_figures(runs)

    def hollow(figure: Figure) -> list[tuple[str, int]]:
        return [
            (axis.get_title("left"), sum(line.get_fillstyle() == "none" for line in axis.lines))
            for axis in figure.axes
        ]

    table = published_results()
    of = table[(table["dataset"] == "div2k-valid") & (table["scale"] == 4) & table["lpips"].notna()]
    assert hollow(figures["plane_div2k-valid"]) == [("div2k-valid ×2", 0), ("div2k-valid ×4", len(of))]
    assert hollow(figures["plane_Set5"]) == [("Set5 ×2", 0), ("Set5 ×4", 0)]
    on_y = all_figures([read_run(evaluation(tmp_path / "y", datasets=names))])
    assert hollow(on_y["plane_div2k-valid"]) == [("div2k-valid ×2", 0), ("div2k-valid ×4", 0)]


def test_published_results_have_sources() -> None:
    table = published_results()
    assert table["source"].str.len().min() > 10
    assert set(table["psnr_kind"]) <= {"psnr_y", "psnr_rgb"}
    assert table["psnr"].between(15, 45).all()
    assert table["lpips"].dropna().between(0, 1).all()
    assert not table.duplicated(["dataset", "scale", "system", "psnr_kind"]).any()


def test_scales_beyond_training_are_shaded(tmp_path: Path) -> None:
    run = read_run(evaluation(tmp_path, scales=(2, 3, 4, 6, 8)))
    absolute, gain = all_figures([run])["scale_Set5"].axes
    low, high = absolute.patches[0].get_x(), absolute.get_xlim()[1]
    assert (low, high) == (4, pytest.approx(low + absolute.patches[0].get_width()))
    curve = next(line for line in gain.lines if len(line.get_xdata()) == 5)
    expected = [
        run.value("Set5", s, "τ=0", "psnr_y") - run.value("Set5", s, "bicubic", "psnr_y")
        for s in (2, 3, 4, 6, 8)
    ]
    assert curve.get_ydata() == pytest.approx(expected)


def noisy(folder: Path, sigma: float, **given: Any) -> Path:
    """An evaluation whose LR images have noise, each level of which costs 0.2 dB."""
    evaluation(folder, severity={"blur σ": 0.0, "noise σ": sigma}, shift=-0.2 * sigma, **given)
    table = pd.read_csv(folder / "metrics.csv").assign(lr=f"bicubic, noise σ {sigma:g}")
    table.to_csv(folder / "metrics.csv", index=False)
    return folder


def test_a_run_is_compared_with_bicubic_of_its_own_lr(tmp_path: Path) -> None:
    """Noise costs bicubic 3 dB and the model 2 dB, so that the model gains most where there is noise."""
    for sigma in (0, 10):
        folder = noisy(tmp_path / f"{sigma}", sigma)
        table = pd.read_csv(folder / "metrics.csv")
        table.loc[table["system"] == "bicubic", ["psnr_y", "lr_psnr"]] -= 0.3 * sigma
        table.to_csv(folder / "metrics.csv", index=False)
    rival = evaluation(tmp_path / "rival", "LIIF", "LIIF", shift=9)
    runs = find_runs([tmp_path / "0", tmp_path / "10", rival])
    clean, degraded, _ = runs
    gains = {
        run: [
            run.value("Set5", s, "τ=0", "psnr_y") - run.value("Set5", s, "bicubic", "psnr_y") for s in (2, 4)
        ]
        for run in (clean, degraded)
    }
    assert gains[degraded] == pytest.approx([gain + 1 for gain in gains[clean]])
    curves = all_figures(runs)["scale_Set5"].axes[1].lines
    for run, line in zip((clean, degraded), curves, strict=False):
        assert line.get_ydata() == pytest.approx(gains[run])
    told = scale_findings(runs, "Set5")
    for run, sentence in zip((clean, degraded), told, strict=False):
        assert sentence == f"{run.label} (τ=0): PSNR (Y) {gains[run][1]:.2f} dB above bicubic at ×4."
    # Elsewhere bicubic is named by its LR where there are several, and not where there is one.
    at = {run: METRICS["lr_psnr"].quantity(run.value("Set5", 4, "bicubic", "lr_psnr")) for run in gains}
    beside = [text for text in consistency_findings(runs[:2], "Set5") if "bicubic" in text]
    assert beside == [
        f"LR-PSNR of bicubic (LR: bicubic, noise σ {sigma}) at ×4 is {at[run]}."
        for sigma, run in ((0, clean), (10, degraded))
    ]
    assert "bicubic (LR: bicubic, noise σ 10) has LPIPS" in str(story(runs))
    # Each bicubic is drawn, in the colour of the first run of its LR.
    figures, names = all_figures(runs[:2]), [f"bicubic (LR: bicubic, noise σ {sigma})" for sigma in (0, 10)]
    levels = {run: run.value("Set5", 2, "bicubic", "psnr_y") for run in gains}
    for kind in ("temperature", "plane", "scale"):
        figure = figures[f"{kind}_Set5"]
        assert set(names) < {text.get_text() for text in figure.legends[0].get_texts()}
        for n, run in enumerate(gains):
            drawn = [
                line
                for line in figure.axes[0].lines
                if levels[run] in (*np.atleast_1d(line.get_xdata()), *np.atleast_1d(line.get_ydata()))
            ]
            assert drawn, (kind, run.label)
            assert {line.get_color() for line in drawn} == {series_style(n, 0, False)["color"]}
    rows = [text.get_text() for text in figures["consistency_Set5"].axes[0].get_yticklabels()]
    assert rows[:3] == [*names, clean.label]
    told = plane_findings(runs[:2], "Set5")[:2]
    for sigma, run, sentence in zip((0, 10), gains, told, strict=True):
        assert sentence.startswith(f"At ×4 (LR: bicubic, noise σ {sigma}), {run.label}, τ=0.4 has the lowest")
    said = "bicubic differs by 3.00 dB between runs, so their LR images differ."
    assert caveats(runs[:2]) == [f"Set5 ×{s}: {said}" for s in (2, 4)]
    assert "(LR: " not in str(story(runs[:1]))


@pytest.mark.slow
@pytest.mark.usefixtures("unsaved")
def test_metrics_are_drawn_against_the_severity(tmp_path: Path) -> None:
    runs = find_runs([noisy(tmp_path / f"{sigma}", sigma) for sigma in (10, 0, 5)])
    assert [run.label for run in runs] == ["LINF, noise σ 10", "LINF, noise σ 0", "LINF, noise σ 5"]
    axes = all_figures(runs)["severity_Set5"].axes
    assert [axis.get_xlabel() for axis in axes] == ["noise σ"] * 4
    assert axes[0].get_title(loc="left") == "PSNR (Y), dB ↑, ×2"
    drawn = {tuple(line.get_xdata()): line.get_ydata() for line in axes[0].lines[:1]}
    ordered = sorted(runs, key=lambda run: run.severity["noise σ"])
    assert list(drawn) == [(0, 5, 10)]
    assert list(drawn[0, 5, 10]) == [run.value("Set5", 2, "τ=0", "psnr_y") for run in ordered]
    # Bicubic has other LR images in each run, and a line of its own.
    table = all_tables(runs)["results_Set5"]
    assert (table["system"] == "bicubic").sum() == 3
    page = write_report(runs, tmp_path / "report").read_text()
    assert "over noise σ: " in page
    assert 'alt="Set5: Degraded LR"' in page


def test_two_models_of_one_label_have_lines_of_their_own(tmp_path: Path) -> None:
    folders = [
        noisy(
            tmp_path / f"{name}{sigma}", sigma, checkpoint={"path": f"zoo/{name}.safetensors", "sha256": SHA}
        )
        for name in ("default", "photo")
        for sigma in (0, 5)
    ]
    runs = find_runs(folders)
    assert [run.label for run in runs] == [
        f"LINF, {name}, noise σ {sigma}" for name in ("default", "photo") for sigma in (0, 5)
    ]
    assert len(all_figures(runs)["severity_Set5"].axes[0].lines) == 2 * 3 + 1


def test_what_a_model_knows_of_its_latents_tells_no_models_apart(tmp_path: Path) -> None:
    names = ("default", "photo")
    for name in names:
        evaluation(tmp_path / name, checkpoint={"path": f"zoo/{name}.safetensors", "sha256": SHA})
    path = tmp_path / "default" / "run.json"
    about = json.loads(path.read_text())
    known = {"correlation": {"name": "LatentCorrelation", "scales": [2]}, "tails": {"2": [4, 0.8]}}
    about["model"]["config"] = about["model"].get("config", {}) | known
    path.write_text(json.dumps(about))
    runs = find_runs([tmp_path / name for name in names])
    assert [run.label for run in runs] == [f"LINF, {name}" for name in names]


def test_only_one_setting_is_an_axis(tmp_path: Path) -> None:
    other = evaluation(tmp_path / "jpeg", severity={"JPEG quality": 30})
    runs = find_runs([noisy(tmp_path / "0", 0), noisy(tmp_path / "5", 5), other])
    assert "severity_Set5" not in all_figures(runs)
    assert "severity_Set5" not in all_figures(find_runs([tmp_path / "5", evaluation(tmp_path / "clean")]))


def test_detail_shows_where_systems_differ(tmp_path: Path) -> None:
    folder = evaluation(tmp_path, shown=True)
    figure = all_figures([read_run(folder)])["details_Set5_x4_one"]
    titles = [axis.get_title() for axis in figure.axes if axis.get_visible() and axis.get_title()]
    assert [title.split("\n")[0] for title in titles] == [
        *("one ×4", "LR", "bicubic", "HR"),
        *("τ=0", "τ=0.4", "τ=0.8", "HR", "σ at τ=1", "best τ"),
    ]
    frame = figure.axes[0].patches[0]
    assert frame.get_x() <= 96
    assert frame.get_x() + frame.get_width() >= 128
    assert frame.get_y() <= 24
    assert frame.get_y() + frame.get_height() >= 56
    hr = np.asarray(Image.open(next(folder.rglob("one/HR.png"))))
    shown = next(axis.images[0].get_array() for axis in figure.axes if axis.get_title() == "HR")
    y, x = int(frame.get_y()), int(frame.get_x())
    assert np.array_equal(shown, hr[y : y + 96, x : x + 96])
    deviation = next(axis.images[0] for axis in figure.axes if axis.get_title().startswith("σ"))
    assert np.asarray(deviation.get_array()) == pytest.approx(25.5, abs=0.01)
    best = next(axis for axis in figure.axes if axis.get_title().startswith("best τ"))
    assert all(edge.get_visible() for edge in best.spines.values()), (
        "framed, for it is white here where τ is highest everywhere, and so is the page"
    )
    psnr = (
        read_run(folder).images.query("image == 'one' and scale == 4 and system == 'τ=0.4'")["psnr_y"].iloc[0]
    )
    assert titles[5].split("\n")[1].startswith(f"{psnr:.2f} / ")


def test_details_show_each_lr_and_bicubic_of_it(tmp_path: Path) -> None:
    for label, model in (("clean", "LINF"), ("noisy", "LINF"), ("regression", "LIIF")):
        evaluation(tmp_path / label, label, model, names=("one",), shown=True)
    for label in ("noisy", "regression"):
        (path,) = (tmp_path / label).rglob("one/LR.png")
        pixels = np.asarray(Image.open(path))
        Image.fromarray(255 - pixels).save(path)
    (path,) = (tmp_path / "noisy").rglob("best_temperature.npy")
    np.save(path, np.load(path) * 2)
    runs = find_runs([tmp_path / label for label in ("clean", "noisy", "regression")])
    figure = all_figures(runs)["details_Set5_x4_one"]
    rows: dict[int, list[str]] = {}
    shown = {}
    for axis in figure.axes:
        if axis.get_visible() and axis.get_title():
            title, row = axis.get_title().split("\n")[0], axis.get_subplotspec().rowspan.start
            rows.setdefault(row, []).append(title)
            shown[row, title] = axis.images[0].get_array()
    top, clean, noisy, regression = range(4)
    samples = ["τ=0", "τ=0.4", "τ=0.8", "HR", "σ at τ=1", "best τ"]
    assert rows[top] == ["one ×4", "LR", "bicubic", "HR"]
    assert rows[clean] == samples
    assert rows[noisy] == ["LR", "bicubic", *samples]
    assert rows[regression] == ["LR", "bicubic", "regression", "HR"]
    assert np.array_equal(shown[noisy, "LR"], 255 - shown[top, "LR"])
    greys = [axis.images[0].get_clim() for axis in figure.axes if axis.get_title().startswith("best τ")]
    assert greys == [pytest.approx((0, 0.8), abs=1e-3)] * 2, "one scale for the maps of all rows"
    assert "noisy, LR" in detail_sliders(read_details(runs))["details_Set5_x4_one"].titles


@pytest.mark.parametrize(
    ("other", "columns"),
    [
        # Of eleven five that both have, and the best, which is at 0.5 of these and at 0.6 of those.
        (np.linspace(0, 1, 11).round(1), ["0", "0.2", "0.5", "0.6", "0.8", "1"]),
        ((0, 0.25, 0.6), ["0", "0.2", "0.25", "0.5", "0.6", "0.8", "1"]),
    ],
)
def test_details_have_each_temperature_in_one_column(
    other: tuple[float, ...], columns: list[str], tmp_path: Path
) -> None:
    given: dict[str, Any] = {"names": ("one",), "scales": (4,), "shown": True}
    first = evaluation(tmp_path / "a", "a", temperatures=np.linspace(0, 1, 11).round(1), **given)
    second = evaluation(tmp_path / "b", "b", temperatures=other, **given)
    images = pd.read_csv(second / "images.csv")
    images.loc[images["temperature"] == 0.6, "lpips_alex"] = 0.01
    images.to_csv(second / "images.csv", index=False)
    figure = all_figures(find_runs([first, second]))["details_Set5_x4_one"]
    at: dict[str, list[tuple[int, int]]] = {}
    for axis in figure.axes:
        title, spec = axis.get_title().split("\n")[0], axis.get_subplotspec()
        if axis.get_visible() and spec is not None and spec.rowspan.start and title:
            at.setdefault(title, []).append((spec.rowspan.start, spec.colspan.start))
    wanted = [*(f"τ={t}" for t in columns), "HR", "σ at τ=1", "best τ"]
    assert sorted(at, key=lambda title: at[title][0][1]) == wanted
    for title, places in at.items():
        assert len({column for _, column in places}) == 1, title
    shown = {row: {title for title in at if row in dict(at[title])} for row in (1, 2)}
    assert {f"τ={t:g}" for t in other} & {f"τ={t}" for t in columns} <= shown[2]


def test_details_show_images_that_all_runs_have(tmp_path: Path) -> None:
    evaluation(tmp_path / "a", "a", names=("one", "two", "three"), shown=True)
    evaluation(tmp_path / "b", "b", names=("two", "three"), shown=True)
    evaluation(tmp_path / "c", "c", "LIIF", names=("three",), shown=True)
    evaluation(tmp_path / "d", "d")
    runs = find_runs([tmp_path])
    names = [name for name in all_figures(runs) if name.startswith("details")]
    assert names == ["details_Set5_x4_three"]
    assert any("d did not keep these images." in said for said in detail_findings(runs, read_details(runs)))


CROWDS: dict[str, Callable[[Path], None]] = {
    "one run": lambda folder: evaluation(folder, shown=True) and None,
    "21 temperatures, 5 scales": lambda folder: (
        evaluation(folder, temperatures=np.linspace(0, 1, 21), scales=(2, 2.5, 3, 3.2, 4, 6, 8), shown=True) and None
    ),
    "eleven runs": lambda folder: [
        evaluation(
            folder / str(n),
            f"{model} with quite a long name, number {n}, of EDSR",
            model,
            shift=0.2 * n,
            scales=(2, 3, 4),
            shown=n < 4,
        )
        for n, model in enumerate(["LINF"] * 9 + ["LIIF", "LTE"])
    ]
    and None,
    "published": lambda folder: evaluation(
        folder, datasets=("div2k-valid",), protocol={"name": "generative", "headline": "psnr_rgb", "border": "ceil(s)"}
    ) and None,
    "odd names": lambda folder: evaluation(
        folder, r"_a $x^2$ & <i>100%</i> \foo {q} #1 ~ |p|", datasets=("a/b_$c$ <d>",), names=("na/me", "0"), shown=True
    ) and None,
    "one temperature": lambda folder: evaluation(folder, temperatures=(0.4,), scales=(4,)) and None,
}  # fmt: skip
IN_CI = ("one run", "eleven runs", "odd names")


@pytest.mark.parametrize(
    "crowd",
    [
        pytest.param(crowd, marks=pytest.mark.slow if crowd in IN_CI else pytest.mark.thorough)
        for crowd in CROWDS
    ],
)
def test_no_text_overlaps_or_leaves_the_figure(crowd: str, tmp_path: Path) -> None:
    CROWDS[crowd](tmp_path)
    for name, figure in all_figures(find_runs([tmp_path])).items():
        assert not overlapping(figure), name
        if figure.legends:  # It takes no room from the panels, in inches.
            assert min(axis.get_window_extent().height / figure.dpi for axis in figure.axes) > 1.6, name


def test_labels_are_drawn_literally(tmp_path: Path) -> None:
    labels = ["$x^2$", "_hidden", "a_b"]
    runs = [read_run(evaluation(tmp_path / str(n), label)) for n, label in enumerate(labels)]
    figures = all_figures(runs)
    gaps = [text.get_text() for text in figures.pop("differences_Set5").legends[0].get_texts()]
    assert [text.replace(r"\$", "$").strip() for text in gaps] == ["$x^2$ (0)", "_hidden", "a_b"]
    assert not any(matplotlib.cbook.is_math_text(text) for text in gaps)
    rows = [text.get_text() for text in figures.pop("consistency_Set5").axes[0].get_yticklabels()]
    assert [text.replace(r"\$", "$").strip() for text in rows[1::2]] == labels
    assert not any(matplotlib.cbook.is_math_text(text) for text in rows)
    for figure in figures.values():
        shown = [text.get_text() for text in figure.legends[0].get_texts()]
        assert [text.replace(r"\$", "$").strip() for text in shown[:3]] == labels
        assert not any(matplotlib.cbook.is_math_text(text) for text in shown)


def test_series_differ_in_grey() -> None:
    looks = [series_style(n, n, False) for n in range(30)]
    assert len({(str(of["linestyle"]), of["marker"]) for of in looks}) == 30


def test_drawing_changes_no_matplotlib_settings(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    all_figures([read_run(evaluation(tmp_path, shown=True))])
    assert dict(matplotlib.rcParams) == before
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


# Tables


def test_results_table_has_bicubic_once(tmp_path: Path) -> None:
    evaluation(tmp_path / "a", "LINF")
    evaluation(tmp_path / "b", "LIIF", "LIIF", lpips=False, scales=(2, 3))
    runs = find_runs([tmp_path])
    table = all_tables(runs)["results_Set5"]
    systems = [("", "bicubic"), ("LINF", "τ=0"), ("LINF", "τ=0.4"), ("LINF", "τ=0.8"), ("LIIF", "LIIF")]
    assert list(zip(table["run"], table["system"], strict=True)) == systems
    assert [c for c in table if c.startswith("×3")] == ["×3 PSNR (Y)", "×3 SSIM", "×3 detail", "×3 LR-PSNR"]
    assert table["×4 LPIPS"].tolist() == pytest.approx(
        [runs[0].value("Set5", 4, system, "lpips_alex") for _, system in systems[:4]] + [math.nan],
        nan_ok=True,
    )
    assert table["×3 PSNR (Y)"].notna().tolist() == [True, False, False, False, True]


@pytest.mark.thorough
@pytest.mark.usefixtures("unsaved")
def test_the_best_of_all_runs_is_bold_and_the_second_underlined(tmp_path: Path) -> None:
    evaluation(tmp_path / "a", "LINF")
    evaluation(tmp_path / "b", "LIIF", "LIIF", shift=0.25)
    table = all_tables(find_runs([tmp_path]))["results_Set5"]
    assert table["system"].tolist() == ["bicubic", "τ=0", "τ=0.4", "τ=0.8", "LIIF"]
    of = ranks(table)
    assert of["×2 PSNR (Y)"].tolist() == [0, 2, 0, 0, 1]
    assert of["×2 LPIPS"].tolist() == [0, 0, 1, 2, 0]
    assert not of["×2 diversity"].any()
    bold, second = (of == 1).to_numpy().sum(), (of == 2).to_numpy().sum()
    assert (latex(table).count("textbf"), latex(table).count("underline")) == (bold, second)
    assert (markdown(table).count("**"), markdown(table).count("<ins>")) == (2 * bold, second)
    page = write_report(find_runs([tmp_path]), tmp_path / "report").read_text()
    assert len(re.findall(r'class="[^"]*\bbest\b', page)) == bold
    assert len(re.findall(r'class="[^"]*\bsecond\b', page)) == second


def test_equal_values_share_a_rank(tmp_path: Path) -> None:
    evaluation(tmp_path / "a", "one")
    evaluation(tmp_path / "b", "two")
    of = ranks(all_tables(find_runs([tmp_path]))["results_Set5"])
    assert of["×4 LPIPS"].tolist() == [0] + [0, 1, 2] * 2
    alone = all_tables([read_run(evaluation(tmp_path / "c", "bicubic", "Bicubic"))])["results_Set5"]
    assert not ranks(alone).any(axis=None)


NAMES = (r"a_b $x^2$ & <i>100%</i> \foo {q} #1 ~ |p| `*`", "Set_5 & <b>")


KINDS = ("distribution", "calibration", "metrics", "intervals", "differences")


def check_latex(text: str) -> None:
    """Braces and environments are balanced, and each line has as many cells as its tabular has columns."""
    plain = re.sub(r"\\[\\&%$#_{}]", lambda match: "\n" if match[0] == r"\\" else "", text)
    plain = re.sub(r"(?m)^% .*$|(?<={)%$", "", plain)  # Comments.
    assert plain.count("{") == plain.count("}")
    assert not re.search(r"[%#_^~<>|]", plain), "a special character that is not escaped"
    assert plain.count("$") % 2 == 0
    assert len(re.findall(r"\\begin\{tabular\}", text)) == len(re.findall(r"\\end\{tabular\}", text)) > 0
    for sides, body in re.findall(r"\\begin\{tabular\}\{(\w+)\}\n(.*?)\n\\end\{tabular\}", text, flags=re.S):
        lines = [line for line in body.split("\n") if line.endswith(r"\\")]
        assert len(lines) >= 2
        for line in lines:
            spans = sum(int(n) - 1 for n in re.findall(r"\\multicolumn\{(\d+)\}", line))
            assert len(re.findall(r"(?<!\\)&", line)) + 1 + spans == len(sides)


def test_special_characters_in_every_table_format(tmp_path: Path) -> None:
    evaluation(tmp_path / "a", NAMES[0], datasets=NAMES[1:], scales=(2, 3, 4, 6))
    evaluation(tmp_path / "b", "b", datasets=NAMES[1:])
    tables = all_tables(find_runs([tmp_path]))
    assert set(tables) == {f"results_{safe_name(NAMES[1])}", *KINDS}
    for table in tables.values():
        check_latex(latex(table))
        lines = markdown(table).splitlines()
        assert len(lines) == len(table) + 2
        assert {len(re.split(r"(?<!\\)\|", line)) - 2 for line in lines} == {len(table.columns)}
        again = pd.read_csv(
            io.StringIO(table.to_csv(index=False)), keep_default_na=False, na_values={"x": []}
        )
        assert list(again) == list(table)


def test_long_names_in_any_letters_fit_in_file_names(tmp_path: Path) -> None:
    name = "ночнойгород" * 8  # Two bytes a letter.
    folder = evaluation(
        tmp_path / "run", f"LINF {name}", datasets=[name], names=[name], scales=(4,), shown=True
    )
    runs = find_runs([folder])
    names = list(all_tables(runs))
    for figure, slider in detail_sliders(read_details(runs)).items():
        names += [figure, *slider.files(figure)]
    assert len(names) > 8
    for each in names:
        (tmp_path / f"{each}.csv").touch()
    assert safe_name("a" * 60) != safe_name("a" * 61)


def test_a_table_of_one_scale_has_no_line_of_what_was_measured_at_another() -> None:
    figures = {f"×2 {name}": [0.5, math.nan] for name in METRICS}
    figures |= {f"×4 {name}": [math.nan, 0.25] for name in METRICS}
    table = pd.DataFrame({"run": ["two", "four"], "system": "τ=0", **figures})
    for text in (html_tables("results", table), latex(table)):
        assert (text.count("two"), text.count("four"), text.count("nan"), text.count("–")) == (1, 1, 0, 0)


def test_escape_latex() -> None:
    assert escape_latex(r"50% of a_b & c\d{e}") == r"50\% of a\_b \& c\textbackslash{}d\{e\}"
    assert escape_latex("[1,4] *") == "{[}1,4] {*}"  # Neither is an argument of the line's end before.
    assert escape_latex("τ=0 ×4 −1 ∞") == r"$\tau$=0 $\times$4 $-$1 $\infty$"


@pytest.mark.slow
def test_infinite_and_missing_values_in_tables(tmp_path: Path) -> None:
    folder = evaluation(tmp_path)
    for name in ("metrics", "images"):
        table = pd.read_csv(folder / f"{name}.csv")
        table.loc[table["system"] == "τ=0", ["psnr_y", "lr_psnr"]] = math.inf
        table.loc[table["system"] == "τ=0.8", "lpips_alex"] = math.nan
        table.to_csv(folder / f"{name}.csv", index=False)
    out = write_report([read_run(folder)], tmp_path / "report").parent
    texts = {kind: (out / "tables" / f"results_Set5.{kind}").read_text() for kind in ("csv", "md", "tex")}
    assert ",inf," in texts["csv"]
    assert "∞" in texts["md"]
    assert r"$\infty$" in texts["tex"]
    assert "nan" not in "".join(texts.values()) + Page(out / "index.html").text.lower().replace("nano", "")


# The page


class Page:
    """A page as XML, which is stricter than HTML."""

    def __init__(self, path: Path) -> None:
        self.source = path.read_text(encoding="utf-8")
        assert self.source.startswith("<!DOCTYPE html>")
        self.root = ElementTree.fromstring(self.source.removeprefix("<!DOCTYPE html>"))
        self.text = " ".join(" ".join(self.root.find("body").itertext()).split())  # type: ignore[union-attr]

    @property
    def images(self) -> list[bytes]:
        sources = [image.attrib["src"] for image in self.root.iter("img")]
        return [base64.b64decode(source.split(",", 1)[1], validate=True) for source in sources]


@pytest.mark.slow
def test_page_is_self_contained(tmp_path: Path) -> None:
    evaluation(tmp_path / "runs/a", names=("one",), shown=True)
    evaluation(tmp_path / "runs/b", "LIIF", "LIIF", names=("one",), shown=True)
    page = Page(write_report(find_runs([tmp_path / "runs"]), tmp_path / "report"))
    assert {element.tag for element in page.root.iter()}.isdisjoint({"link", "iframe", "object", "base"})
    assert [script.attrib for script in page.root.iter("script")] == [{}]
    ids = [element.attrib["id"] for element in page.root.iter() if "id" in element.attrib]
    assert len(set(ids)) == len(ids)
    for element in page.root.iter():
        for key, value in element.attrib.items():
            assert key not in ("srcset", "onload", "style")
            assert key != "href" or value.removeprefix("#") in ids
            assert key != "src" or value.startswith("data:image/")
    assert not re.search(r"url\(|@import|https?://", page.source)
    assert len(page.images) == 5 + 1 + 2
    folders = [tmp_path / "report" / name for name in ("figures", "crops")]
    files = {path.read_bytes() for folder in folders for path in folder.iterdir()}
    assert set(page.images) <= files
    for image in page.images:
        if image.startswith(b"\x89PNG"):
            Image.open(io.BytesIO(image)).load()
        else:
            assert ElementTree.fromstring(image).tag.endswith("svg")


@pytest.mark.slow
def test_report_is_deterministic(tmp_path: Path) -> None:
    runs = find_runs([evaluation(tmp_path / "run", scales=(2, 4), names=("one",), shown=True)])
    one, two = (write_report(runs, tmp_path / name).parent for name in ("one", "two"))
    files = sorted(path.relative_to(one) for path in one.rglob("*.*"))
    assert {path.parts[0] for path in files} == {"index.html", "figures", "crops", "tables"}
    for path in files:
        assert (one / path).read_bytes() == (two / path).read_bytes()


@pytest.mark.usefixtures("unsaved")
def test_rules_for_phones_are_not_overruled(tmp_path: Path) -> None:
    style = write_report([read_run(evaluation(tmp_path / "run"))], tmp_path / "out").read_text()
    # Of equal rules the last holds.
    for rule in ("figure", "figcaption", "dl", "dd"):
        assert max(m.start() for m in re.finditer(rf"^{rule} \{{", style, re.M)) < style.index(
            f"\n  {rule} {{"
        )


@pytest.mark.slow
@pytest.mark.usefixtures("unsaved")
def test_page_has_findings(tmp_path: Path) -> None:
    evaluation(tmp_path / "runs/a", "LINF")
    evaluation(tmp_path / "runs/b", "LIIF", "LIIF", shift=0.25)
    runs = find_runs([tmp_path / "runs"])
    text = Page(write_report(runs, tmp_path / "report")).text
    linf = runs[0]
    lpips = [linf.value("Set5", 4, f"τ={t:g}", "lpips_alex") for t in (0, 0.4, 0.8)]
    psnr = [linf.value("Set5", 4, f"τ={t:g}", "psnr_y") for t in (0, 0.4, 0.8)]
    assert min(lpips) == lpips[1]
    assert (
        f"LINF at ×4: LPIPS falls from {lpips[0]:.3f} at τ=0 to {lpips[1]:.3f} at τ=0.4, "
        f"at a cost of {psnr[0] - psnr[1]:.2f} dB of PSNR (Y)."
    ) in text
    assert "LINF: the closed form, which does not clamp, is within 0.00 dB of the samples." in text
    gain = psnr[0] - linf.value("Set5", 4, "bicubic", "psnr_y")
    assert f"LINF (τ=0): PSNR (Y) {gain:.2f} dB above bicubic and 0.25 dB below LIIF at ×4." in text
    assert f"LIIF the highest PSNR (Y) ({psnr[0] + 0.25:.2f} dB" in text
    assert (
        f"the 50% intervals hold {0.5**0.8:.1%} (too wide) and the 90% intervals hold {0.9**0.8:.1%} "
        "(as they should) of HR values"
    ) in text
    for word in (SHA, "abc123", "2,057,176 parameters", "Figure" and "No run has kept images."):
        assert word in text


@pytest.mark.usefixtures("unsaved")
def test_missing_metrics_are_explained(tmp_path: Path) -> None:
    run = read_run(evaluation(tmp_path / "run", lpips=False, temperatures=(0.4,), scales=(4,)))
    assert set(all_figures([run])) == {"temperature_Set5", "calibration_Set5"}
    text = Page(write_report([run], tmp_path / "report")).text
    assert text.count("LPIPS was not measured for LINF: the weights alexnet are not here.") == 1
    assert "LINF at ×4 was evaluated at τ=0.4 alone" in text
    assert "Only ×4 was evaluated" in text
    assert "without lpips_alex the weights alexnet are not here" in text


def test_a_report_needs_no_psnr(tmp_path: Path) -> None:
    folder = evaluation(tmp_path / "run")
    for name in ("metrics", "images"):
        table = pd.read_csv(folder / f"{name}.csv").drop(columns=["psnr_y", "psnr_rgb", "lr_psnr"])
        table.to_csv(folder / f"{name}.csv", index=False)
    run = read_run(folder)
    assert set(all_figures([run])) == {"temperature_Set5", "calibration_Set5"}
    assert "×4 LPIPS" in all_tables([run])["results_Set5"]
    write_report([run], tmp_path / "report")


def test_bicubic_alone_is_a_report(tmp_path: Path) -> None:
    run = read_run(
        evaluation(tmp_path / "run", "bicubic", "Bicubic", checkpoint=None, git=None, max_trained_scale=None)
    )
    text = Page(write_report([run], tmp_path / "report")).text
    for said in (
        "No run has temperatures here.",
        "No run predicts a distribution whose calibration could be measured.",
        "unknown",
    ):
        assert said in text
    assert set(all_tables([run])) == {"results_Set5", "published", "metrics", "intervals"}


def test_a_report_says_how_its_tables_are_read(tmp_path: Path) -> None:
    evaluation(tmp_path / "a", "a")
    evaluation(tmp_path / "b", "b", names=("one", "two", "three"), samples=5, consistency=3)
    evaluation(tmp_path / "LIIF", "LIIF", "LIIF", datasets=("B100",), names=("one",), samples=1)
    runs = find_runs([tmp_path])
    assert metric_sentences(runs) == (
        "Higher is better for PSNR (Y), SSIM and LR-PSNR; lower is better for LPIPS; neither is better for detail and "
        "diversity. Units are dB for PSNR (Y) and LR-PSNR, % of HR's for detail and grey levels for diversity."
    )
    assert source_findings(runs, "Set5")[0] == (
        "Means over 2 or 3 images, and over 2 or 5 samples of each at τ above 0."
    )
    assert source_findings(runs, "B100")[0] == "Means over 1 image."
    assert calibration_findings(runs, "Set5")[-1] == (
        "The distribution of b, with its likelihood, calibration and σ, is the model's own, before images are made "
        "consistent with LR."
    )
    assert "consistent" not in str(calibration_findings(runs[1:2], "Set5"))


def test_caveats_name_runs_that_cannot_be_compared(tmp_path: Path) -> None:
    evaluation(tmp_path / "a", "a", names=("one",))
    evaluation(tmp_path / "b", "b", git={"commit": "abc", "dirty": True})
    evaluation(
        tmp_path / "c", "c", protocol={"name": "div2k", "headline": "psnr_rgb", "border": "ceil(s) + 6"}
    )
    told = " ".join(caveats(find_runs([tmp_path])))
    assert (
        "The runs follow different protocols (PSNR (RGB), border ceil(s) + 6; PSNR (Y), border ceil(s))"
        in told
    )
    assert "Set5 ×2: the runs were evaluated on 1 and 2 images, so their figures cannot be compared." in told
    assert "Evaluated with uncommitted changes to the code: b." in told
    assert caveats(find_runs([tmp_path / "a"])) == []


def test_caveats_name_metrics_with_other_weights(tmp_path: Path) -> None:
    for name, weights in (("a", "12"), ("b", "34")):
        evaluation(tmp_path / name, name, measured_by={"lpips_alex": f"LPIPS (weights {weights})"})
    evaluation(tmp_path / "earlier", "earlier")
    by = "LPIPS (weights 12); LPIPS (weights 34)"
    assert caveats(find_runs([tmp_path])) == [
        f"LPIPS was measured with different networks or weights ({by}), so its figures cannot be compared."
    ]
    assert caveats(find_runs([tmp_path / "a", tmp_path / "earlier"])) == []


def test_diversity_of_more_samples_is_not_compared(tmp_path: Path) -> None:
    """It grows with their number: 0.56 of the deviation for two, 0.84 for five."""
    runs = find_runs([evaluation(tmp_path / f"{n}", f"of {n}", samples=n) for n in (2, 5)])
    assert caveats(runs) == [
        "The runs drew 2 and 5 samples of an image, and diversity grows with their number, so its figures cannot be "
        "compared."
    ]
    assert {"psnr_y", "lr_psnr"} < {*differences(*runs)["metric"]}
    assert "diversity" not in {*differences(*runs)["metric"]}
    alike = find_runs([evaluation(tmp_path / f"alike {n}", f"{n}", samples=2, seed=n) for n in (0, 1)])
    assert caveats(alike) == []
    assert "diversity" in {*differences(*alike)["metric"]}
    regression = read_run(evaluation(tmp_path / "LIIF", "LIIF", "LIIF", samples=1))
    assert caveats([runs[0], regression]) == [], "it does not sample"


def test_caveats_name_nonfinite_values(tmp_path: Path) -> None:
    folder = evaluation(tmp_path)
    for name in ("metrics", "images"):
        table = pd.read_csv(folder / f"{name}.csv")
        table.loc[(table["system"] == "τ=0.8") & (table["scale"] == 4), "nonfinite"] = 17
        table.to_csv(folder / f"{name}.csv", index=False)
    run = read_run(folder)
    assert caveats([run]) == [
        "LINF: some values were not finite, most of them in Set5 ×4 τ=0.8 (17 per image)."
    ]
    assert "×4 non-finite" in all_tables([run])["results_Set5"]


@pytest.mark.slow
def test_names_are_escaped_in_html(tmp_path: Path) -> None:
    folder = evaluation(
        tmp_path / "run", NAMES[0], datasets=NAMES[1:], names=("<script>alert(1)</script>", "&amp;")
    )
    (folder / ".hydra").mkdir()
    (folder / ".hydra/config.yaml").write_text("name: <b>eval</b> & more\nlist: [1, 2]\n")
    page = Page(write_report([read_run(folder)], tmp_path / "report"))
    assert NAMES[0] in page.text
    assert NAMES[1] in page.text
    assert "name: <b>eval</b> & more list: [1, 2]" in page.text
    assert not any("alert" in "".join(script.itertext()) for script in page.root.iter("script"))
    made = {path.name for path in (tmp_path / "report").iterdir()}
    assert made == {"index.html", "figures", "crops", "tables"}


@pytest.mark.slow
def test_a_real_evaluation_makes_a_report(real: Path, tmp_path: Path) -> None:
    run = read_run(real)
    page = Page(write_report([run], tmp_path / "report"))
    assert "LPIPS was not measured for" in page.text  # No weights are kept for the tests.
    assert "linf weights fetch alexnet" in page.text
    names = {path.stem for path in (tmp_path / "report/figures").iterdir()}
    assert {name.split("_")[0] for name in names} == {"temperature", "scale", "calibration", "details"}
    assert len(page.images) == 3 + 2 * 3
    for name, figure in all_figures([run]).items():
        assert not overlapping(figure), name


# The folder and the command


def plain(folder: Path, label: str = "bicubic") -> Path:
    """An evaluation that has tables and no figure."""
    return evaluation(folder, label, "Bicubic", scales=(4,))


def test_report_command(linf: Linf, tmp_path: Path) -> None:
    plain(tmp_path / "runs/a", "LINF")
    plain(tmp_path / "runs/b", "LINF")
    done = linf("report", tmp_path / "runs")
    assert (done.status, done.err) == (0, "")
    assert done.out == "report/index.html, 2 evaluations\n"
    assert Page(tmp_path / "report/index.html").text.count("LINF, b") > 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report", "runs"]


def test_older_report_is_replaced_only_with_force(linf: Linf, tmp_path: Path) -> None:
    run, out = plain(tmp_path / "run"), tmp_path / "out"
    out.mkdir()  # Nothing is lost there.
    assert linf("report", run, "--out", out).status == 0
    (out / "figures/old.png").touch()
    done = linf("report", run, "--out", out)
    assert_in_words(done.status, done.out, done.err, str(out), "--force")
    assert (out / "figures/old.png").exists()
    assert linf("report", run, "--out", out, "--force").status == 0
    assert not (out / "figures/old.png").exists()
    assert (out / "index.html").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_other_folders_are_never_replaced(force: tuple[str, ...], linf: Linf, tmp_path: Path) -> None:
    run, mine = plain(tmp_path / "run"), tmp_path / "mine"
    mine.mkdir()
    (mine / "index.html").write_text("<html>mine</html>")
    (tmp_path / "file").write_text("mine")
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for out in (mine, tmp_path / "file", run, tmp_path):
        done = linf("report", run, "--out", out, *force)
        assert_in_words(done.status, done.out, done.err, str(out), "choose another --out")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == kept


def test_report_that_holds_evaluations_is_not_replaced(tmp_path: Path) -> None:
    out = write_report([read_run(plain(tmp_path / "run"))], tmp_path / "out").parent
    run = read_run(plain(out / "run"))
    with pytest.raises(UsageError, match="other than a report"):
        write_report([run], out, force=True)
    assert (out / "run/run.json").exists()


@pytest.mark.parametrize("when", ["while it is made", "while it is moved", "by Ctrl-C then"])
def test_interrupted_writing_leaves_the_old_report(
    when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = read_run(plain(tmp_path / "run"))
    old = write_report([run], tmp_path / "out").read_bytes()
    rename, calls = os.rename, []

    def stop(*arguments: Any) -> Any:
        raise KeyboardInterrupt

    def second(a: Path, b: Path) -> None:
        calls.append(b)
        if len(calls) == 2 and when == "by Ctrl-C then":
            stop()
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        rename(a, b)

    if when == "while it is made":
        monkeypatch.setattr("linf.report.page.latex", stop)
        with pytest.raises(KeyboardInterrupt):
            write_report([run], tmp_path / "out", force=True)
    else:
        monkeypatch.setattr("os.rename", second)
        with pytest.raises((UsageError, KeyboardInterrupt), match=r"No space left|^$"):
            write_report([run], tmp_path / "out", force=True)
    assert (tmp_path / "out/index.html").read_bytes() == old
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]


def test_unwritable_folder_is_an_error_line(linf: Linf, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = linf("report", plain(tmp_path / "run"), "--out", tmp_path / "file/report")
    assert_in_words(done.status, done.out, done.err, "cannot write")


@pytest.mark.slow
def test_report_imports_no_training_libraries() -> None:
    heavy = ["pytorch_lightning", "hydra", "omegaconf", "wandb", "matplotlib.pyplot"]
    code = f"import sys, linf.report; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
