"""What each figure shows, in sentences worked out from the data; what is missing, and why."""

from collections.abc import Sequence

import numpy as np

from linf.report.crops import SIDE, places
from linf.report.evaluations import Run
from linf.report.figures import drawn_scales
from linf.report.plane import drawn_panels, perception, regressed, sampled
from linf.report.tables import METRICS, datasets, headline, of_any, published_points, scales


def temperature(runs: Sequence[Run], dataset: str) -> list[str]:
    """What each run's best temperature buys, and whether the closed form says what was sampled."""
    drawn, at = sampled(runs, dataset), drawn_scales(runs, dataset)
    if not drawn:
        return ["No run has temperatures here."]
    told = [_bought(run, dataset, at[-1], headline(runs), perception([run], dataset)) for run in drawn]
    told += [sentence for run in drawn for sentence in _law(run, dataset, at)]
    told += _without_lpips([run for run in drawn if perception([run], dataset) is None])
    left = [f"×{s:g}" for s in scales(runs, dataset) if s not in at]
    return told + [f"Not drawn, but in the table: {', '.join(left)}."] * bool(left)


def _bought(run: Run, dataset: str, scale: float, first: str, name: str | None) -> str:
    who, of, psnr = f"{run.label} at ×{scale:g}", run.curve(dataset, scale), METRICS[first]
    if not len(of) or first not in of:
        return f"{who} was not evaluated."
    if name is not None and of[name].notna().sum() > 1:
        of = of[of[name].notna()]
    else:
        name = None
    low, high = of.iloc[0], of.iloc[-1]
    if len(of) == 1:
        return f"{who} was evaluated at {low['system']} alone: {psnr.title} {psnr(low[first])}."
    if name is None:
        return (
            f"{who}: {psnr.title} goes from {psnr(low[first])} at {low['system']} to {psnr(high[first])} "
            f"at {high['system']}."
        )
    metric, best = METRICS[name], of.loc[of[name].idxmin()]
    if best["system"] == low["system"]:
        return f"{who}: {metric.title} is least at {low['system']} ({metric(low[name])}); a higher τ buys nothing."
    cost = low[first] - best[first]
    return (
        f"{who}: {metric.title} falls from {metric(low[name])} at {low['system']} to {metric(best[name])} at "
        f"{best['system']}" + (f", for {psnr(cost)} of {psnr.title}." if np.isfinite(cost) else ".")
    )


def _law(run: Run, dataset: str, at: Sequence[float]) -> list[str]:
    gaps = []
    for scale in at:
        of = run.curve(dataset, scale)
        law = run.closed_form(dataset, scale, of["temperature"])
        if len(law) and run.headline in of:
            gaps += [gap for gap in abs(law - of[run.headline]) if np.isfinite(gap)]
    if not gaps:
        return []
    return [
        f"{run.label}: the closed form, which is before clamping, is within {max(gaps):.2f} dB of the samples."
    ]


def _without_lpips(runs: Sequence[Run]) -> list[str]:
    reasons: dict[str, list[str]] = {}
    for run in runs:
        why = (run.about.get("skipped") or {}).get("lpips_alex", "it was not among the metrics")
        reasons.setdefault(str(why), []).append(run.label)
    return [f"LPIPS was not measured for {_and(labels)}: {why}." for why, labels in reasons.items()]


def _and(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def plane(runs: Sequence[Run], dataset: str) -> list[str]:
    """Who is best in perception, who in distortion, and whether anything published can stand beside."""
    name, first = perception(runs, dataset), headline(runs)
    if name is None:
        return _without_lpips(runs)
    told, psnr, metric = [], METRICS[first], METRICS[name]
    drawn, there = drawn_panels(runs, dataset), scales(runs, dataset)
    trained = [s for s in drawn_scales(runs, dataset) if s in drawn] or drawn
    points = _points(runs, dataset, trained[-1], name, first)
    if points:
        near, sharp = min(points, key=lambda point: point[1]), max(points, key=lambda point: point[2])
        at = f"At ×{trained[-1]:g}"
        told = [
            f"{at} {metric.title} is least for {near[0]} ({metric(near[1])} at {psnr(near[2])}), and {psnr.title} "
            f"highest for {sharp[0]} ({psnr(sharp[2])} at {metric(sharp[1])})."
        ]
        if near[0] == sharp[0]:
            told = [f"{at} {near[0]} is best in both, {metric.title} and {psnr.title}."]
    known = published_points(runs, dataset, name)
    read = "; ".join(dict.fromkeys(known["source"]))
    told += [f"Hollow points are published, of other training data and code ({read})."] * bool(read)
    told += [f"No published pair of {psnr.title} and LPIPS is known here for these images."] * (not read)
    if len(drawn) < len(there):
        told.append(f"{len(drawn)} of {len(there)} scales are drawn.")
    return told + _without_lpips([run for run in runs if perception([run], dataset) is None])


def _points(runs: Sequence[Run], dataset: str, scale: float, *metrics: str) -> list[tuple[str, float, float]]:
    """Of each system of each run: its name, and two metrics."""
    points = []
    for run in runs:
        of = run.metrics[(run.metrics["dataset"] == dataset) & (run.metrics["scale"] == scale)]
        for system in of["system"] if set(metrics) <= set(of) else ():
            who = run.label if system == run.system else f"{run.label}, {system}"
            x, y = (run.value(dataset, scale, system, metric) for metric in metrics)
            if np.isfinite([x, y]).all():
                points.append(("bicubic" if system == "bicubic" else who, x, y))
    return points


def scale(runs: Sequence[Run], dataset: str) -> list[str]:
    """What each run gains over bicubic and over the regressions, in and beyond its trained scales."""
    there, first, told = scales(runs, dataset), headline(runs), []
    rivals = regressed(runs, dataset)
    for run in [*sampled(runs, dataset), *rivals]:
        limit = run.about.get("max_trained_scale")
        inside = [s for s in there if not limit or s <= limit]
        parts = []
        for s in [*inside[-1:], *[s for s in there if s not in inside][-1:]]:
            own = run.value(dataset, s, run.best_guess(dataset, s), first)
            others = {
                rival.label: rival.value(dataset, s, rival.system, first)
                for rival in rivals
                if rival is not run
            }
            others = {"bicubic": of_any(runs, dataset, s, "bicubic", first)} | others
            gains = [
                f"{_over(own - value)} {name}" for name, value in others.items() if np.isfinite(own - value)
            ]
            parts += [f"{_and(gains)} at ×{s:g}" + ", beyond its training" * (s not in inside)] * bool(gains)
        guess = f" ({run.best_guess(dataset, there[0])})" if run.samples else ""
        told += [f"{run.label}{guess}: {METRICS[first].title} {'; '.join(parts)}."] * bool(parts)
    return told + [f"Only ×{there[0]:g} was evaluated, so there is no curve over scales."] * (len(there) == 1)


def _over(gain: float) -> str:
    return f"{abs(gain):.2f} dB {'above' if gain >= 0 else 'below'}"


def calibration(runs: Sequence[Run], dataset: str) -> list[str]:
    """Whether predicted intervals hold what they should, at the largest trained scale."""
    told, s = [], drawn_scales(runs, dataset)[-1]
    for run in sampled(runs, dataset):
        who = f"{run.label} at ×{s:g}"
        tables = (run.calibration, run.distribution)
        of, law = (table[(table["dataset"] == dataset) & (table["scale"] == s)] for table in tables)
        means = of[of["kind"] == "pixel"].groupby("nominal")["covered"].mean()
        if not len(means) or not len(law):
            told.append(f"{who}: calibration was not measured.")
            continue
        nominal = min(means.index, key=lambda p: abs(p - 0.9))
        off = means[nominal] - nominal
        word = "as they should" if abs(off) < 0.02 else "too wide" if off > 0 else "too narrow"
        told.append(
            f"{who}: the {nominal:.0%} intervals hold {means[nominal]:.1%} of HR's values ({word}); whitened residuals "
            f"have variance {law['whitened_var'].mean():.2f}, where 1 is right; {law['bits_per_dim'].mean():.2f} bits "
            "per dimension."
        )
    return told or ["No run has a law that could be calibrated."]


def details(runs: Sequence[Run]) -> list[str]:
    """How to read the images, and which runs lack them."""
    chosen = places(runs)
    if not chosen:
        return ["No run has written images."]
    told = [
        f"The square of {SIDE} pixels in which the systems differ most; above each, {METRICS[headline(runs)].title} "
        "and LPIPS of the whole image, where measured."
    ]
    having = [run for of in chosen.values() for run in of]
    lacking = [run.label for run in runs if run not in having]
    return told + [f"{_and(lacking)} did not write these images."] * bool(lacking)


def notes(runs: Sequence[Run]) -> list[str]:
    """What stands against comparing the runs, and what went wrong in them."""
    told = []
    protocols = {(run.headline, str(run.about["protocol"].get("border"))) for run in runs}
    if len(protocols) > 1:
        words = sorted(f"{METRICS[first].title}, border {border}" for first, border in protocols)
        told.append(
            f"The runs follow different protocols ({'; '.join(words)}): their figures cannot be compared."
        )
    for dataset in datasets(runs):
        for s in scales(runs, dataset):
            counts, values = (
                sorted({v for run in runs if np.isfinite(v := run.value(dataset, s, "bicubic", column))})
                for column in ("images", headline(runs))
            )
            where = f"{dataset} ×{s:g}"
            if len(counts) > 1:
                told.append(
                    f"{where}: the runs saw {_and([f'{n:g}' for n in counts])} images and cannot be compared."
                )
            elif len(protocols) == 1 and np.ptp(values or [0]) > 0.01:
                gap = np.ptp(values)
                told.append(
                    f"{where}: bicubic differs by {gap:.2f} dB between runs, so they saw other LR images."
                )
    for run in runs:
        if "nonfinite" in run.metrics and run.metrics["nonfinite"].any():
            worst = run.metrics.loc[run.metrics["nonfinite"].idxmax()]
            told.append(
                f"{run.label}: values that were not finite, most of them in {worst['dataset']} ×{worst['scale']:g} "
                f"{worst['system']} ({worst['nonfinite']:g} an image)."
            )
    dirty = [run.label for run in runs if (run.about.get("git") or {}).get("dirty")]
    return told + [f"Made with code that differs from its commit: {_and(dirty)}."] * bool(dirty)
