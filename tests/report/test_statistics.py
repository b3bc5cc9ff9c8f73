"""Intervals and verdicts against scipy and against the truth that they are to hold; seeds pooled; labels that tell."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from PIL import Image

from helpers.commands import Linf, assert_in_words
from helpers.evaluations import SHA, evaluation
from linf.evaluation.schema import CELL
from linf.report import find_runs, read_run, write_report
from linf.report.caveats import cost_finding
from linf.report.collection import member_seeds, with_distinct_labels
from linf.report.crops import detail_findings
from linf.report.details import read_details
from linf.report.differences import DIFFERENCES, against_first, differences, verdicts
from linf.report.gaps import gap_figure, gap_findings
from linf.report.plane import plane_figure, plane_findings
from linf.report.scale import scale_findings
from linf.report.sections import all_figures
from linf.report.statistics import LEVEL, judge, mean_intervals
from linf.report.tables import all_tables, intervals
from linf.report.typesetting import formatted, latex, markdown, ranks

NAMES = tuple(f"image {n}" for n in range(12))


def changed(folder: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Path:
    """An evaluation whose images have other figures, and its means with them."""
    images = change(pd.read_csv(folder / "images.csv", dtype={"image": str}, float_precision="round_trip"))
    images.to_csv(folder / "images.csv", index=False)
    keys = [*CELL, "temperature"]
    groups = images.groupby(keys, sort=False, dropna=False)
    means = groups.mean(numeric_only=True)
    means.insert(0, "images", groups.size())
    means.reset_index().to_csv(folder / "metrics.csv", index=False)
    return folder


def shifted(folder: Path, seed: int, by: float, spread: float) -> Path:
    """An evaluation whose LPIPS of every image differs by a random amount, bicubic's excepted."""

    def change(images: pd.DataFrame) -> pd.DataFrame:
        amount = by + spread * np.random.default_rng(seed).standard_normal(len(images))
        return images.assign(lpips_alex=images["lpips_alex"] + amount * (images["system"] != "bicubic"))

    return changed(folder, change)


# Intervals


def test_intervals_are_those_of_scipy() -> None:
    values = np.random.default_rng(3).gamma(2.0, size=(40, 3))
    low, high = mean_intervals(values)
    # Of 40 images the tails are those of this level.
    level = 1 - 2 * scipy.stats.norm.cdf(math.sqrt(40 / 39) * scipy.stats.t.ppf((1 - LEVEL) / 2, 39))
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, axis=0, confidence_level=level, n_resamples=40_000, method="percentile", rng=1
    ).confidence_interval
    width = theirs.high - theirs.low
    assert np.abs(low - theirs.low).max() < 0.03 * width.min()
    assert np.abs(high - theirs.high).max() < 0.03 * width.min()


@pytest.mark.parametrize(("images", "off"), [(5, 0.06), (14, 0.03), (100, 0.03)])
def test_intervals_hold_the_true_mean_as_often_as_they_say(images: int, off: float) -> None:
    """Of 800 data sets whose true mean is 0: no resampling can do better than 93.75 % with five images."""
    values = np.random.default_rng(images).standard_normal((images, 800))
    low, high = mean_intervals(values)
    assert ((low <= 0) & (high >= 0)).mean() == pytest.approx(LEVEL, abs=off)


def test_what_is_missing_or_infinite_has_no_part() -> None:
    values = np.random.default_rng(0).standard_normal((9, 4))
    whole = mean_intervals(values[1:, :1])
    values[0, 0], values[2, 1], values[1:, 2] = math.nan, math.inf, math.nan
    values[:, 3] = 0.1
    low, high = mean_intervals(values)
    assert (low[0], high[0]) == (whole[0][0], whole[1][0])
    assert np.isnan([*low[1:3], *high[1:3]]).all()
    assert low[3] == high[3] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("low", "high", "images", "better", "verdict"),
    [
        (0.1, 0.2, 9, 1, "better"),
        (0.1, 0.2, 9, -1, "worse"),
        (-0.2, -0.1, 9, -1, "better"),
        (-0.2, -0.1, 9, 0, "lower"),
        (-0.2, 0.1, 9, 1, "no clear difference"),
        (0.1, 0.2, 4, 1, "too few images"),
        (math.nan, math.nan, 1, 1, "too few images"),
        (math.nan, math.nan, 9, 1, "not finite"),
        (0, 0, 2, 1, "equal"),
    ],
)
def test_verdicts(low: float, high: float, images: int, better: int, verdict: str) -> None:
    assert judge(low, high, images, better) == verdict


def test_every_mean_has_its_interval(tmp_path: Path) -> None:
    run = read_run(shifted(evaluation(tmp_path, names=NAMES, scales=(4,)), 0, 0, 0.02))
    table = intervals(run).set_index(["system", "metric"])
    of = run.images[run.images["system"] == "τ=0.4"]
    low, high = mean_intervals(of[["lpips_alex"]].to_numpy())
    line = table.loc[("τ=0.4", "lpips_alex")]
    assert [line["low"], line["high"]] == [low[0], high[0]]
    assert line["mean"] == pytest.approx(run.value("Set5", 4, "τ=0.4", "lpips_alex"))
    assert line["low"] < line["mean"] < line["high"]


# Differences


def test_differences_are_paired(tmp_path: Path) -> None:
    """Images differ by decibels, and the runs by little: only in pairs is that clear."""
    one = read_run(evaluation(tmp_path / "one", names=NAMES, scales=(4,)))
    better = shifted(evaluation(tmp_path / "two", names=NAMES, scales=(4,)), 1, -0.004, 0.004)
    other = read_run(changed(better, lambda images: images.assign(psnr_y=images["psnr_y"] + 0.01)))
    table = differences(other, one).set_index(["system", "metric"])
    assert set(table.index.get_level_values("system")) == {"bicubic", "τ=0", "τ=0.4", "τ=0.8"}
    line = table.loc[("τ=0.4", "psnr_y")]
    assert [line[key] for key in ("difference", "low", "high")] == pytest.approx([0.01] * 3)
    assert line["verdict"] == "better"
    a, b = (run.images[run.images["system"] == "τ=0.4"]["lpips_alex"].to_numpy() for run in (other, one))
    low, high = mean_intervals((a - b)[:, None])
    line = table.loc[("τ=0.4", "lpips_alex")]
    assert [line["difference"], line["low"], line["high"]] == pytest.approx([(a - b).mean(), low[0], high[0]])
    assert line["verdict"] == "better"
    assert table.loc[("τ=0.4", "ssim"), ["difference", "verdict"]].tolist() == [0, "equal"]
    back = differences(one, other).set_index(["system", "metric"]).loc[("τ=0.4", "lpips_alex")]
    assert back["difference"] == -line["difference"]
    assert back["verdict"] == "worse"


def test_rounding_is_no_difference(tmp_path: Path) -> None:
    """Neither that of a mean over seeds of which all are the same, nor that of single precision on another device."""
    seeds = [evaluation(tmp_path / f"seed{n}", "seeds", names=NAMES, scales=(4,), seed=n) for n in range(7)]
    other = evaluation(tmp_path / "other", "other", names=NAMES, scales=(4,))
    device = changed(
        evaluation(tmp_path / "device", "device", names=NAMES, scales=(4,)),
        lambda images: images.assign(psnr_y=images["psnr_y"] + 4e-6),
    )
    pooled, once, there = find_runs([*seeds, other, device])
    assert len(pooled.members) == 7
    for table in (differences(pooled, once), differences(there, once)):
        assert set(table["system"]) == {"τ=0", "τ=0.4", "τ=0.8"}
        assert set(table["verdict"]) == {"equal"}


def test_only_images_of_both_runs_count(tmp_path: Path) -> None:
    one = read_run(evaluation(tmp_path / "one", names=NAMES[:9], scales=(4,)))
    other = read_run(evaluation(tmp_path / "two", names=NAMES[3:], scales=(2, 4), shift=0.5))
    table = differences(one, other)
    assert set(table["images"]) == {6}
    assert set(table["scale"]) == {4}


def test_bicubic_of_the_same_lr_is_not_compared(tmp_path: Path) -> None:
    """Neither where a run has more images, metrics or samples, nor where a mean over seeds differs by rounding."""
    one = find_runs([seeded(tmp_path / f"seed{seed}", seed) for seed in range(7)])
    others = [
        evaluation(tmp_path / "more", "more", names=(*NAMES, "one more"), scales=(4,)),
        evaluation(tmp_path / "less", "less", names=NAMES, scales=(4,), lpips=False),
        changed(
            evaluation(tmp_path / "samples", "samples", names=NAMES, scales=(4,)),
            lambda images: images.assign(diversity=images["diversity"].fillna(0)),
        ),
    ]
    for other in find_runs(others):
        assert set(differences(one[0], other)["system"]) == {"τ=0", "τ=0.4", "τ=0.8"}


def test_runs_that_lack_a_data_set_are_not_told_of_there(tmp_path: Path) -> None:
    """Neither as left out of a comparison, nor as runs without LPIPS; and the figure has those that are there."""
    folders = [evaluation(tmp_path / "first", "first", datasets=("Set5", "B100"), names=NAMES, scales=(4,))]
    folders += [evaluation(tmp_path / f"r{n}", f"r{n}", names=NAMES, scales=(4,), shift=n) for n in range(8)]
    folders += [evaluation(tmp_path / "last", "last", datasets=("B100",), names=NAMES, scales=(4,), shift=9)]
    runs = find_runs(folders)
    assert gap_findings(runs, "Set5")[-1] == "1 more run is in tables/differences.csv."
    assert all("last against first" in said for said in gap_findings(runs, "B100"))
    assert gap_figure(runs, "B100") is not None
    assert gap_findings(runs[::-1], "Set5") == []
    assert gap_figure(runs[::-1], "Set5") is None
    assert not any("LPIPS was not measured" in said for said in plane_findings(runs, "B100"))


def test_a_run_has_one_colour_in_all_figures(tmp_path: Path) -> None:
    """Also where the first run is a regression, whose colour comes after those of models with temperatures."""
    folders = [evaluation(tmp_path / "LTE", "LTE", "LTE", names=NAMES, scales=(4,))]
    folders += [evaluation(tmp_path / label, label, names=NAMES, scales=(4,), shift=1) for label in "ab"]
    runs, colours = find_runs(folders), []
    for figure in (plane_figure(runs, "Set5"), gap_figure(runs, "Set5")):
        assert figure is not None
        (legend,) = figure.legends
        texts = [text.get_text() for text in legend.get_texts()]
        colours.append(dict(zip(texts, (line.get_color() for line in legend.get_lines()), strict=True)))
    plane, gaps = colours
    assert gaps["a"] != gaps["b"]
    assert {label: gaps[label] for label in "ab"} == {label: plane[label] for label in "ab"}


def test_a_model_without_temperatures_is_paired_with_each(tmp_path: Path) -> None:
    linf = read_run(evaluation(tmp_path / "linf", names=NAMES, scales=(4,)))
    liif = read_run(evaluation(tmp_path / "liif", "LIIF", "LIIF", names=NAMES, scales=(4,), shift=0.25))
    dat = read_run(evaluation(tmp_path / "dat", "DAT ×4", "DAT ×4", names=NAMES, scales=(4,), shift=0.5))
    table = differences(linf, liif).set_index(["system", "metric"])["difference"]
    expected = linf.value("Set5", 4, "τ=0.8", "psnr_y") - liif.value("Set5", 4, "LIIF", "psnr_y")
    assert table["τ=0.8 – LIIF", "psnr_y"] == pytest.approx(expected)
    assert differences(liif, linf).set_index(["system", "metric"])["difference"][
        "LIIF – τ=0.8", "psnr_y"
    ] == (pytest.approx(-expected))
    assert list(pd.unique(differences(dat, liif)["system"])) == ["DAT ×4 – LIIF"]


def test_runs_over_other_images_are_ranked_and_compared_apart(tmp_path: Path) -> None:
    """A mean over the easier half of the images is above that over all of them, whatever the model."""
    folders = [evaluation(tmp_path / "few", "few", names=("one",), scales=(4,))]
    folders += [
        evaluation(tmp_path / name, name, model, scales=(4,))
        for name, model in (("all", "LINF"), ("LIIF",) * 2)
    ]
    runs = find_runs(folders)
    table = all_tables(runs)["results_Set5"]
    assert table.loc[table["system"] == "bicubic", "run"].tolist() == ["few", "all", "LIIF"]
    assert (ranks(table)["×4 PSNR (Y)"] == 1).groupby(table["run"]).sum().eq(1).all()
    few, every, _ = scale_findings(runs, "Set5")[:3]
    assert "LIIF" not in few
    assert "0.00 dB above LIIF" in every
    told = plane_findings(runs, "Set5")
    assert [sentence.split(",")[0] for sentence in told[:2]] == ["At ×4 (1 image)", "At ×4 (2 images)"]
    alike = scale_findings(find_runs(folders[1:]), "Set5")
    assert alike[0] == every


def test_runs_of_other_lr_are_ranked_and_compared_apart(tmp_path: Path) -> None:
    levels = [
        evaluation(
            tmp_path / f"{name}{sigma}", name, names=NAMES[:5], shift=by - sigma, severity={"noise σ": sigma}
        )
        for name, by in (("a", 0), ("b", 0.5))
        for sigma in (0.0, 10.0)
    ]
    for folder in levels:
        table = pd.read_csv(folder / "metrics.csv").assign(lr=folder.name[1:])
        table.to_csv(folder / "metrics.csv", index=False)
    runs = find_runs(levels)
    table = all_tables(runs)["results_Set5"]
    best = table[ranks(table)["×4 PSNR (Y)"] == 1]
    assert list(zip(best["run"], best["system"], strict=True)) == [
        ("a, noise σ 0", "τ=0"),
        ("a, noise σ 10", "bicubic"),
        ("b, noise σ 0", "τ=0"),
        ("b, noise σ 10", "bicubic"),
    ]
    assert set(against_first(runs)["run"]) == {"b, noise σ 0"}


@pytest.mark.parametrize(
    ("metric", "low", "high", "said"),
    [
        ("lpips_alex", 0.0001, 0.0009, "(by 0.0005 [0.0001, 0.0009])"),
        ("psnr_y", -0.036, -0.044, "(by 0.040 dB [0.036, 0.044])"),
        ("psnr_y", 0.25, 0.25 + 1e-15, "(by 0.25 dB [0.25, 0.25])"),
        ("detail", 0.02, 3, "(by 1.51% of HR's [0.02, 3.00])"),
    ],
)
def test_ends_of_intervals_do_not_round_to_0_or_to_each_other(
    metric: str, low: float, high: float, said: str
) -> None:
    low, high = sorted((low, high))
    line = ("Set5", 4, "τ=0", metric, 9, 1.0, 1.0, (low + high) / 2, low, high, "better")
    (sentence,) = verdicts(pd.DataFrame([line], columns=list(DIFFERENCES)), "a", "b")
    assert said in sentence


def test_verdicts_in_words(tmp_path: Path) -> None:
    one = read_run(evaluation(tmp_path / "one", "plain", names=NAMES, scales=(4,)))
    other = read_run(shifted(evaluation(tmp_path / "two", "ours", names=NAMES, scales=(4,)), 1, -0.01, 0.001))
    said = verdicts(differences(other, one), "ours", "plain")
    assert "Set5 ×4, SSIM: ours against plain is equal at bicubic, τ=0, τ=0.4, τ=0.8." not in said
    assert "Set5 ×4, SSIM: ours against plain is equal at τ=0, τ=0.4, τ=0.8." in said
    (lpips,) = [sentence for sentence in said if "LPIPS" in sentence]
    assert lpips.startswith(
        "Set5 ×4, LPIPS: ours against plain is better at τ=0, τ=0.4, τ=0.8 (by 0.010 [0.0"
    )
    liif = read_run(evaluation(tmp_path / "liif", "LIIF", "LIIF", names=NAMES, scales=(4,), shift=0.25))
    (psnr,) = [
        sentence for sentence in verdicts(differences(one, liif), "plain", "LIIF") if "(Y)" in sentence
    ]
    assert psnr.startswith("Set5 ×4, PSNR (Y): plain against LIIF is worse at τ=0, τ=0.4, τ=0.8 (by ")
    dat = read_run(evaluation(tmp_path / "dat", "DAT ×4", "DAT ×4", names=NAMES, scales=(4,), shift=0.5))
    (psnr,) = [
        sentence for sentence in verdicts(differences(dat, liif), "DAT ×4", "LIIF") if "(Y)" in sentence
    ]
    assert psnr == "Set5 ×4, PSNR (Y): DAT ×4 against LIIF is better (by 0.25 dB [0.25, 0.25])."
    wide = read_run(shifted(evaluation(tmp_path / "wide", "wide", names=NAMES, scales=(4,)), 1, 0, 0.1))
    (lpips,) = [
        sentence for sentence in verdicts(differences(wide, one), "wide", "plain") if "LPIPS" in sentence
    ]
    assert lpips == "Set5 ×4, LPIPS: wide against plain shows no clear difference at τ=0, τ=0.4, τ=0.8."
    few = verdicts(
        differences(*(read_run(evaluation(tmp_path / n, shift=0.1 * (n == "a"))) for n in "ab")), "a", "b"
    )
    assert few[-1] == "Fewer than 5 images (2) allow no verdict."
    assert not any("too few" in sentence for sentence in few), "said once"


# Seeds and labels


def seeded(folder: Path, seed: int, **given: Any) -> Path:
    return shifted(evaluation(folder, names=NAMES, scales=(4,), seed=seed, **given), seed, 0, 0.01)


def test_perception_is_called_by_the_metric_that_was_measured(tmp_path: Path) -> None:
    given: dict[str, Any] = {"names": NAMES[:2], "scales": (4,), "shown": True}
    named = {"lpips_alex": "dists"}
    one = changed(evaluation(tmp_path / "one", "ours", **given), lambda images: images.rename(columns=named))
    runs = [read_run(one), read_run(evaluation(tmp_path / "two", lpips=False, **given))]
    assert "PSNR (Y) and DISTS of the whole image" in detail_findings(runs, read_details(runs))[0]
    assert (
        plane_findings(runs, "Set5")[-1] == "DISTS was not measured for LINF: it was not among the metrics."
    )
    runs[1] = read_run(evaluation(tmp_path / "three", **given))
    assert "PSNR (Y) and DISTS or LPIPS of the whole image" in detail_findings(runs, read_details(runs))[0]
    assert (
        plane_findings(runs, "Set5")[-1] == "LPIPS was not measured for ours: it was not among the metrics."
    )


def test_seeds_are_pooled_as_mean_and_deviation(tmp_path: Path) -> None:
    folders = [seeded(tmp_path / f"s{seed}", seed) for seed in (1, 2, 3)]
    singles = [read_run(folder) for folder in folders]
    liif = evaluation(tmp_path / "liif", "LIIF", "LIIF", names=NAMES, scales=(4,))
    runs = find_runs([*folders, liif])
    assert [run.label for run in runs] == ["LINF, 3 seeds", "LIIF"]
    values = [run.value("Set5", 4, "τ=0.4", "lpips_alex") for run in singles]
    assert runs[0].value("Set5", 4, "τ=0.4", "lpips_alex") == pytest.approx(np.mean(values))
    assert runs[0].closed_form("Set5", 4, [0.4]) == pytest.approx(singles[0].closed_form("Set5", 4, [0.4]))
    table = all_tables(runs)["results_Set5"]
    line = table[table["system"] == "τ=0.4"].iloc[0]
    assert line["×4 LPIPS"] == pytest.approx(np.mean(values))
    assert line["×4 LPIPS ±"] == pytest.approx(np.std(values, ddof=1))
    said = f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"
    assert said in markdown(table)
    assert said.replace("±", r"$\pm$") in latex(table)
    psnr = formatted(table).set_index("system")["×4 PSNR (Y)"]
    assert "±" not in psnr["bicubic"] + psnr["τ=0.4"]  # Nothing differs there.
    assert "±" not in "".join(formatted(table).columns)
    assert formatted(table)["×4 LPIPS"].tolist()[-1] == f"{table['×4 LPIPS'].iloc[-1]:.3f}"


def test_seeds_are_pooled_where_one_lacks_the_distribution(tmp_path: Path) -> None:
    folders = [seeded(tmp_path / f"s{seed}", seed) for seed in (1, 2)]
    exact = read_run(folders[0]).closed_form("Set5", 4, [0, 0.4])
    for folder, wanted in zip(reversed(folders), (exact, []), strict=True):
        (folder / "distribution.csv").unlink()
        [run] = find_runs(folders)
        assert run.closed_form("Set5", 4, [0, 0.4]) == pytest.approx(wanted)


def test_checkpoints_of_one_training_are_no_seeds(tmp_path: Path) -> None:
    for seed, name in enumerate(("best", "last")):
        about = {"weights": name, "checkpoint": {"path": f"run/{name}.ckpt", "sha256": name}}
        evaluation(tmp_path / name, seed=seed, training={"seed": 7}, shift=seed, **about)
    assert [run.label for run in find_runs([tmp_path])] == ["LINF, best", "LINF, last"]
    same = {"weights": "best", "checkpoint": {"path": "copy/best.ckpt", "sha256": "best"}}
    evaluation(tmp_path / "last", seed=1, training={"seed": 7}, **same)
    assert [run.label for run in find_runs([tmp_path])] == ["LINF, 2 seeds"]


def test_seeds_of_a_training_are_pooled(tmp_path: Path) -> None:
    folders = [
        seeded(
            *(tmp_path / f"s{seed}", seed),
            training={"seed": seed, "data": {"crop": 48}},
            checkpoint={"path": f"runs/{seed}/model.safetensors", "sha256": SHA},
            weights=f"digest {seed}",
        )
        for seed in (1, 2)
    ]
    for folder, path in zip(folders, ("runs/1/model.safetensors", "runs/2/model.safetensors"), strict=True):
        (folder / ".hydra").mkdir()  # As `eval.py -m ckpt_path=A,B` leaves it.
        (folder / ".hydra" / "config.yaml").write_text(f"ckpt_path: {path}\nprior_path: null\nseed: 0\n")
    assert [run.label for run in find_runs(folders)] == ["LINF, 2 seeds"]
    about = json.loads((folders[1] / "run.json").read_text())
    (folders[1] / "run.json").write_text(json.dumps(about | {"training": {"seed": 2, "data": {"crop": 24}}}))
    assert [run.label for run in find_runs(folders)] == ["LINF, crop 48", "LINF, crop 24"]


FOLDER, DIV2K = ({"_target_": f"linf.data.{name}"} for name in ("heldout.training_images", "sources.div2k"))


@pytest.mark.parametrize(
    ("trainings", "files", "labels"),
    [
        (
            [{"data": {"root": f"/data/{name}", "train": FOLDER}} for name in ("T91", "BSDS400")],
            [{"path": "best.ckpt"}] * 2,
            ["LINF, images T91", "LINF, images BSDS400"],
        ),
        (
            [{"data": {"root": f"/scratch/{job}/T91", "train": FOLDER}} for job in (17, 18)],
            [{"path": "best.ckpt"}] * 2,
            ["LINF, 2 seeds"],
        ),
        (
            [{"data": {"root": f"/scratch/{job}", "train": DIV2K}} for job in (17, 18)],
            [{"path": "best.ckpt"}] * 2,
            ["LINF, 2 seeds"],
        ),
        (
            [{"trainer": {"max_steps": steps, "devices": 1}} for steps in (500, 9000)],
            [{"path": "best.ckpt"}] * 2,
            ["LINF, max_steps 500", "LINF, max_steps 9000"],
        ),
        (
            [{"trainer": {"max_steps": 500, "devices": n}} for n in (1, 2)],
            [{"path": "best.ckpt"}] * 2,
            ["LINF, 2 seeds"],
        ),
        (
            [{"callbacks": {"ema": ema, "curves": None}} for ema in (None, {"decay": 0.999})],
            [{"path": "best.ckpt"}] * 2,
            ["LINF, no decay", "LINF, decay 0.999"],
        ),
        (
            [{}, {}],
            [{"path": f"run/checkpoints/{name}.ckpt"} for name in ("best", "last")],
            ["LINF, best", "LINF, last"],
        ),
        (
            [{}, {}],
            [{"path": f"{n}/last.ckpt", "step": step} for n, step in enumerate((500, 300))],
            ["LINF, 0", "LINF, 1"],
        ),
        (
            [{}, {}],
            [{"path": f"{n}/best.ckpt", "step": step} for n, step in enumerate((500, 300))],
            ["LINF, 2 seeds"],
        ),
        (
            [{"trainer": {"max_time": "00:01:00:00"}}] * 2,
            [{"path": f"{n}/last.ckpt", "step": step} for n, step in enumerate((500, 300))],
            ["LINF, 2 seeds"],
        ),
    ],
)
def test_trainings_that_differ_in_more_than_their_seed_are_not_pooled(
    trainings: list[dict[str, Any]], files: list[dict[str, Any]], labels: list[str], tmp_path: Path
) -> None:
    for seed, (training, file) in enumerate(zip(trainings, files, strict=True)):
        about = {"training": training | {"seed": seed}, "checkpoint": file, "weights": f"digest {seed}"}
        evaluation(tmp_path / f"s{seed}", scales=(4,), names=("one",), **about)
    assert [run.label for run in find_runs([tmp_path])] == labels


def test_a_mean_over_seeds_is_told_apart_from_another_model(tmp_path: Path) -> None:
    for n, name in enumerate(("default", "default", "photo")):
        checkpoint = {"path": f"zoo/{name}.safetensors", "sha256": SHA}
        evaluation(tmp_path / f"{n}", seed=n, checkpoint=checkpoint, weights=name)
    runs = find_runs([tmp_path])
    assert [run.label for run in runs] == ["LINF, default, 2 seeds", "LINF, photo"]
    assert with_distinct_labels(runs) == runs


@pytest.mark.slow
@pytest.mark.usefixtures("unsaved")
def test_the_page_says_which_seed_and_checkpoint_each_folder_is_of(tmp_path: Path) -> None:
    for seed in (3, 4):
        checkpoint = {"path": f"runs/{seed}/best.ckpt", "sha256": SHA[seed:], "step": 1000 * seed}
        evaluation(tmp_path / f"s{seed}", training={"seed": seed}, checkpoint=checkpoint)
    page = write_report(find_runs([tmp_path]), tmp_path / "report").read_text()
    for seed in (3, 4):
        assert f"<dt>folder of training seed {seed}</dt><dd>{tmp_path}/s{seed}</dd>" in page
        assert f"<dd>runs/{seed}/best.ckpt, after step {seed},000</dd>" in page
    evaluation(tmp_path / "again" / "s0", training={"seed": 3}, checkpoint=checkpoint, seed=7)
    evaluation(tmp_path / "again" / "s1", training={"seed": 3}, checkpoint=checkpoint, seed=8)
    assert [said for _, said in member_seeds(find_runs([tmp_path / "again"])[0])] == ["seed 7", "seed 8"]


def test_other_weights_are_no_other_seed(tmp_path: Path) -> None:
    folders = [seeded(tmp_path / f"s{seed}", seed, weights=f"digest {seed}") for seed in (1, 2)]
    assert [run.label for run in find_runs(folders)] == ["LINF, seed 1", "LINF, seed 2"]


def test_equal_labels_are_told_apart_by_what_differs(tmp_path: Path) -> None:
    labels = ["LINF", "other", "LINF", "LINF, c"]
    runs = [evaluation(tmp_path / name, label) for name, label in zip("abcd", labels, strict=True)]
    # Where nothing recorded differs, the folders do.
    assert [run.label for run in find_runs(runs)] == ["LINF, a", "other", "LINF, c, c", "LINF, c"]


@pytest.mark.parametrize(
    ("key", "values", "words"),
    [
        ("samples", (1, 5), ["samples 1", "samples 5"]),
        ("training", ({"encoder": {"name": "RDN"}}, {"encoder": {"name": "EDSR"}}), ["RDN", "EDSR"]),
        ("training", ({"loss": {"l1": 10}}, {"loss": {"l1": 1.5}}), ["l1 10", "l1 1.5"]),
        (
            "checkpoint",
            tuple({"path": f"out/{name}/checkpoints/best.ckpt", "sha256": SHA} for name in ("a.b", "c")),
            ["a.b", "c"],
        ),
        (
            "checkpoint",
            tuple({"path": f"out/best{suffix}", "sha256": SHA} for suffix in (".ckpt", ".safetensors")),
            ["best.ckpt", "best.safetensors"],
        ),
        (
            "training",
            ({"steps": 1_000_001}, {"steps": 1_000_002}),
            ["steps 1000001", "steps 1000002"],
        ),
        ("git", ({"commit": "0123456789"}, {"commit": "abcdef0123"}), ["0123456", "abcdef0"]),
    ],
)
def test_runs_are_labelled_by_the_setting_that_differs(
    key: str, values: tuple[Any, ...], words: list[str], tmp_path: Path
) -> None:
    for n, value in enumerate(values):
        evaluation(tmp_path / str(n), "LINF", **{key: value})
    assert [run.label for run in find_runs([tmp_path])] == [f"LINF, {word}" for word in words]


def test_folders_of_one_name_at_different_depths_have_lines_of_their_own(tmp_path: Path) -> None:
    runs = find_runs([evaluation(tmp_path / name) for name in ("b", "n/b/c", "n/x/c")])
    assert len({run.label for run in runs}) == 3
    assert len(all_tables(runs)["results_Set5"]) == 1 + 3 * 3


def test_where_one_training_is_unknown_the_files_tell_runs_apart(tmp_path: Path) -> None:
    training = {"task": {"scheduler": {"_target_": "torch.optim.lr_scheduler.MultiStepLR"}}, "seed": 0}
    for name, known in (("model", training), ("copy", None)):
        checkpoint = {"path": f"out/{name}.safetensors", "sha256": SHA}
        evaluation(tmp_path / name, "LINF", checkpoint=checkpoint, training=known)
    assert [run.label for run in find_runs([tmp_path])] == ["LINF, copy", "LINF, model"]
    (tmp_path / "copy" / "run.json").unlink()
    same = {"path": "out/model.safetensors", "sha256": SHA}
    evaluation(tmp_path / "copy", "LINF", checkpoint=same, training={"task": {"scheduler": None}})
    assert [run.label for run in find_runs([tmp_path])] == ["LINF, no scheduler", "LINF, MultiStepLR"]


def test_recorded_config_tells_runs_apart(tmp_path: Path) -> None:
    for n, rounds in enumerate((0, 3)):
        folder = evaluation(tmp_path / str(n), "LINF")
        (folder / ".hydra").mkdir()
        (folder / ".hydra/config.yaml").write_text(
            f"run_dir: x{n}\nseed: 0\nconsistency:\n  rounds: {rounds}\n"
        )
    assert [run.label for run in find_runs([tmp_path])] == ["LINF, rounds 0", "LINF, rounds 3"]


def test_infinite_differences_are_not_said_to_be_of_few_images(tmp_path: Path) -> None:
    def perfect(images: pd.DataFrame, *names: str) -> pd.DataFrame:
        there = images["image"].isin(names) & (images["system"] != "bicubic")
        return images.assign(lr_psnr=images["lr_psnr"].mask(there, math.inf))

    one, two = (evaluation(tmp_path / name, name, names=NAMES, scales=(4,)) for name in ("one", "two"))
    first = read_run(changed(one, lambda of: perfect(of, NAMES[0])))
    for others in ((), NAMES[1:2]):  # The difference is infinite, and then infinity less infinity.
        second = read_run(changed(two, lambda of, others=others: perfect(of, *others)))
        table = differences(first, second)
        assert set(table[table["metric"] == "lr_psnr"]["verdict"]) == {"not finite"}
        said = "Set5 ×4, LR-PSNR: one against two has no finite difference at τ=0, τ=0.4, τ=0.8."
        assert said in verdicts(table, "one", "two")


# The figure and the command


def test_the_figure_shows_differences_with_their_intervals(tmp_path: Path) -> None:
    one = evaluation(tmp_path / "one", "plain", names=NAMES, scales=(4,))
    other = shifted(evaluation(tmp_path / "two", "ours", names=NAMES, scales=(4,)), 1, -0.01, 0.005)
    runs = find_runs([one, other])
    figure = all_figures(runs)["differences_Set5"]
    axis = next(axis for axis in figure.axes if "LPIPS" in axis.get_title("left"))
    table = differences(runs[1], runs[0]).query("metric == 'lpips_alex' and system != 'bicubic'")
    assert [text.get_text() for text in axis.get_xticklabels()] == ["0", "0.4", "0.8"]
    assert figure.legends[0].get_texts()[0].get_text() == "plain (0)"
    drawn = next(line for line in axis.lines if len(line.get_ydata()) == 3)
    assert drawn.get_ydata() == pytest.approx(table["difference"])
    bars = [path.vertices[:, 1] for path in axis.collections[0].get_paths()]
    assert np.array(bars) == pytest.approx(table[["low", "high"]].to_numpy())
    assert "differences_Set5" not in all_figures(runs[:1])


def test_the_axis_of_differences_has_each_temperature_once_and_in_order(tmp_path: Path) -> None:
    given = {"names": NAMES, "scales": (4,)}
    folders = [
        evaluation(tmp_path / "first", "first", temperatures=(0, 0.2, 0.4, 0.8), **given),
        evaluation(tmp_path / "few", "few", temperatures=(0, 0.8), **given),
        evaluation(tmp_path / "others", "others", temperatures=(0.2, 0.4), **given),
        evaluation(tmp_path / "LIIF", "LIIF", "LIIF", **given),
    ]
    axis = all_figures(find_runs(folders))["differences_Set5"].axes[0]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["0", "0.2", "0.4", "0.8"]


def test_the_figure_of_differences_has_no_intervals_over_few_images(tmp_path: Path) -> None:
    one = evaluation(tmp_path / "one", "plain", names=NAMES[:4], scales=(4,))
    other = shifted(evaluation(tmp_path / "two", "ours", names=NAMES[:4], scales=(4,)), 1, -0.01, 0.005)
    axis = all_figures(find_runs([one, other]))["differences_Set5"].axes[0]
    assert len(next(line for line in axis.lines if len(line.get_ydata()) == 3).get_ydata()) == 3
    bars = np.array([path.vertices[:, 1] for path in axis.collections[0].get_paths()])
    assert np.isnan(bars).all()


@pytest.fixture
def linf(run: Linf) -> Linf:
    """`run`, as here runs are evaluations."""
    return run


def test_compare_command(linf: Linf, tmp_path: Path) -> None:
    one = evaluation(tmp_path / "one", "LINF", names=NAMES, scales=(4,), samples=1)
    other = shifted(
        evaluation(tmp_path / "two", "LINF", names=NAMES, scales=(4,), samples=5), 1, -0.01, 0.001
    )
    done = linf("compare", other, one, "--out", tmp_path / "gaps.csv")
    assert (done.status, done.err) == (0, "")
    assert "first   LINF, samples 5" in done.out
    assert "Set5 ×4, 12 images" in done.out
    assert (
        "Set5 ×4, LPIPS: LINF, samples 5 against LINF, samples 1 is better at τ=0, τ=0.4, τ=0.8" in done.out
    )
    table = pd.read_csv(tmp_path / "gaps.csv")
    assert table.query("metric == 'lpips_alex' and system == 'τ=0'")["verdict"].tolist() == ["better"]
    again = linf("compare", other, one, "--out", tmp_path / "gaps.csv")
    assert_in_words(again.status, again.out, again.err, "gaps.csv exists", "--force")
    assert linf("compare", other, one, "--out", tmp_path / "gaps.csv", "--force").status == 0


def test_compare_says_where_images_differ(linf: Linf, tmp_path: Path) -> None:
    one = evaluation(tmp_path / "one", "a", names=NAMES, scales=(4,))
    other = evaluation(tmp_path / "two", "b", names=NAMES, scales=(4,))
    changed(other, lambda images: images.assign(psnr_y=images["psnr_y"] + 0.5))
    done = linf("compare", one, other)
    assert "note: Set5 ×4: bicubic differs by 0.50 dB between runs, so their images differ." in done.out


def test_what_cannot_be_compared_is_an_error_line(linf: Linf, tmp_path: Path) -> None:
    one = evaluation(tmp_path / "one", "a", names=NAMES[:2])
    other = evaluation(tmp_path / "two", "b", names=NAMES[2:4])
    done = linf("compare", one, other)
    assert_in_words(done.status, done.out, done.err, "no image", "in common", str(one), str(other))
    done = linf("compare", tmp_path, other)
    assert_in_words(done.status, done.out, done.err, str(tmp_path), "2 evaluations that differ", "a; b")


def test_costs_stand_in_the_table_of_results(tmp_path: Path) -> None:
    folder, untimed = (evaluation(tmp_path / name, name, names=NAMES) for name in ("run", "untimed"))
    systems = ("bicubic", "τ=0", "τ=0.4", "τ=0.8")
    pd.DataFrame(
        {
            **{
                "scale": 4,
                "system": systems,
                "parameters": [0, 2.06, 2.06, 2.06],
                "gmacs": [0, 10.2, 10.3, 10.3],
            },
            **{"seconds": [0.001, 0.1, 0.2, 0.2], "memory": [5, 25, 26, 26]},
            **{"lr_size": "64×64", "device": "x86_64 CPU, 2 threads"},
        }
    ).to_csv(folder / "cost.csv", index=False)
    run = read_run(folder)
    table = all_tables([run])["results_Set5"]
    assert [name for name in table if "(" in name and "PSNR" not in name] == [
        *("×4 parameters (M)", "×4 MACs (G)", "×4 time (s)", "×4 memory (MB)")
    ]
    assert table["×4 time (s)"].tolist() == [0.001, 0.1, 0.2, 0.2]
    assert "are of one image from 64×64 LR pixels on x86_64 CPU, 2 threads." in cost_finding([run])
    assert cost_finding([replace(run, cost=run.cost[:0])]) == ""
    # Beside a run without, they are numbers still, which stand on the right.
    for runs in ([folder, untimed], [untimed, folder]):
        table = all_tables(find_runs(runs))["results_Set5"]
        assert all(pd.api.types.is_numeric_dtype(table[name]) for name in table.columns[2:])


@pytest.mark.slow
def test_the_page_shows_differences(tmp_path: Path) -> None:
    plain = [seeded(tmp_path / f"s{seed}", seed) for seed in (1, 2)]
    other = shifted(evaluation(tmp_path / "two", "ours", names=NAMES, scales=(4,)), 1, -0.03, 0.001)
    out = write_report(find_runs([*plain, other]), tmp_path / "report")
    page = out.read_text()
    assert "Set5 ×4, LPIPS: ours against LINF, 2 seeds is better at τ=0, τ=0.4, τ=0.8 (by 0.03" in page
    assert all(f"<dt>folder of seed {n}</dt><dd>{folder}</dd>" in page for n, folder in enumerate(plain, 1))
    assert 'alt="Set5: Differences"' in page
    assert Image.open(out.parent / "figures/differences_Set5.png").size[0] > 600
    written = pd.read_csv(out.parent / "tables/differences.csv")
    assert set(written["run"]) == {"ours"}
    assert "better" in (out.parent / "tables/differences.md").read_text()


def test_a_peer_of_one_scale_is_missed_beyond_it(tmp_path: Path) -> None:
    linf = read_run(evaluation(tmp_path / "linf", scales=(2, 4, 8)))
    missed = "No run is of a network of ×4 alone, resized beyond it: model=spandrel."
    assert missed in scale_findings([linf], "Set5")
    folder = evaluation(tmp_path / "dat", "DAT ×4", "DAT ×4", scales=(2, 4, 8), shift=0.5)
    about = json.loads((folder / "run.json").read_text())
    about["model"]["config"] = {"network": {"name": "DAT", "scale": 4}}
    (folder / "run.json").write_text(json.dumps(about))
    said = scale_findings([linf, read_run(folder)], "Set5")
    assert missed not in said
    assert any("below DAT ×4 at ×8, a scale it was not trained on" in sentence for sentence in said)
    assert missed not in scale_findings([read_run(evaluation(tmp_path / "in", scales=(2, 4)))], "Set5")
