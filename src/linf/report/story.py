"""What a report says first: what a flow has learned, at which scales, and what its temperature is worth."""

from collections.abc import Sequence

import numpy as np

from linf.coordinates import Scale
from linf.evaluation.schema import METRICS
from linf.report.evaluations import EvaluationRun, lines_at
from linf.report.selection import (
    bicubics,
    curve_scales,
    datasets,
    perceptual_metric,
    regression_runs,
    sampling_runs,
    single_scales,
)

MOST_IN_STORY = 3
"""Runs that the story is about; figures show all."""


def story(runs: Sequence[EvaluationRun]) -> list[tuple[str, str, list[str]]]:
    """The steps of the paper's argument on the first data set: a flow learns the distribution of texture, at any scale;
    its samples have more texture than a mean; the temperature steers how much; texture is drawn in patches.

    Returns:
        For each step the kind of the figure that shows it, a title, and a sentence for each run that was measured so;
        no steps where no run samples.
    """
    dataset = datasets(runs)[0]
    sampling = sampling_runs(runs, dataset)
    drawn, left_out = sampling[:MOST_IN_STORY], len(sampling) - MOST_IN_STORY
    if not drawn:
        return []
    scale = curve_scales(runs, dataset)[-1]
    steps = [
        ("calibration", "A distribution", [_distribution(run, dataset, scale) for run in drawn]),
        ("scale", "Any scale", [_scales(run, dataset) for run in drawn]),
        (
            "details",
            "Texture",
            [*(_texture(run, dataset, scale) for run in drawn), _beside(runs, dataset, scale)],
        ),
        ("temperature", "Temperature", [_temperature(run, dataset, scale) for run in drawn]),
        ("plane", "Patches", [_patches(drawn, dataset, scale)]),
    ]
    known = [
        (kind, title, [sentence for sentence in sentences if sentence]) for kind, title, sentences in steps
    ]
    known = [step for step in known if step[-1]]
    if known and left_out > 0:
        runs_are = "runs are" if left_out > 1 else "run is"
        known[0][-1].append(f"{left_out} more {runs_are} only in the figures and tables below.")
    return known


def _distribution(run: EvaluationRun, dataset: str, scale: Scale) -> str:
    if not (found := run.covered(dataset, scale)):
        return ""
    held = " and ".join(f"its {p:.0%} intervals hold {share:.1%}" for p, share in found.items())
    bits = lines_at(run.distribution, dataset, scale)["bits_per_dim"].mean()
    before = ", before images are made consistent with LR" * bool(run.about.get("consistency"))
    return (
        f"{run.label} predicts the distribution of each patch of HR{before}. At ×{scale:g}, {held} of HR "
        f"values, and their likelihood is {bits:.2f} bits per dimension."
    )


def _scales(run: EvaluationRun, dataset: str) -> str:
    gains = {
        s: run.value(dataset, s, run.best_guess(dataset, s), run.headline)
        - run.value(dataset, s, "bicubic", run.headline)
        for s in single_scales([run], dataset)
    }
    known = [(s, gain) for s, gain in gains.items() if np.isfinite(gain)]
    if len(known) < 2:
        return ""
    listed = ", ".join(f"{METRICS[run.headline].format(gain)} dB at ×{s:g}" for s, gain in known)
    title = METRICS[run.headline].title
    if any(gain < 0 for _, gain in known):
        return f"{run.label} serves all scales: its {title} differs from bicubic's by {listed}."
    return f"{run.label} serves all scales: its {title} is above bicubic's by {listed}."


def _best(run: EvaluationRun, dataset: str, scale: Scale) -> str | None:
    """The temperature with the best perception, or else with as much detail as HR; None where neither was measured."""
    of = run.curve(dataset, scale)
    name = perceptual_metric([run], dataset)
    if name in of and of[name].notna().any():
        return str(of.loc[of[name].idxmin(), "system"])
    if "detail" in of and of["detail"].notna().any():
        return str(of.loc[(of["detail"] - 100).abs().idxmin(), "system"])
    return None


def _texture(run: EvaluationRun, dataset: str, scale: Scale) -> str:
    """What texture the mean has, and a sample."""
    best, least = _best(run, dataset, scale), run.best_guess(dataset, scale)
    if best is None or least != "τ=0":
        return ""
    text = f"{run.label} at ×{scale:g}: its mean (τ=0), an image as regression estimates it, has "
    text += _looks(run, dataset, scale, least)
    return text + f"; a sample at {best} has {_looks(run, dataset, scale, best)}" * (best != least) + "."


def _beside(runs: Sequence[EvaluationRun], dataset: str, scale: Scale) -> str:
    """What texture bicubic has, and models of regression."""
    rivals = [(run.label, run, run.system) for run in regression_runs(runs, dataset)[:MOST_IN_STORY]]
    of_bicubic = bicubics(runs, dataset, scale)[:MOST_IN_STORY]
    systems = [(who, of[0], "bicubic") for who, of in of_bicubic] + rivals
    parts = [f"{who} has {look}" for who, run, name in systems if (look := _looks(run, dataset, scale, name))]
    return f"At ×{scale:g}, {'; '.join(parts)}." if parts else ""


def _looks(run: EvaluationRun, dataset: str, scale: Scale, system: str) -> str:
    """Perception and detail of a system, where measured."""
    name = perceptual_metric([run], dataset)
    values = {each: run.value(dataset, scale, system, each) for each in (name, "detail") if each}
    return " and ".join(
        f"{METRICS[each].quantity(value)} detail"
        if each == "detail"
        else f"{METRICS[each].title} {value:.3f}"
        for each, value in values.items()
        if np.isfinite(value)
    )


def _temperature(run: EvaluationRun, dataset: str, scale: Scale) -> str:
    """What the steps from the lowest temperature to the best and to the highest cost and gain."""
    curve, best = run.curve(dataset, scale)["system"].tolist(), _best(run, dataset, scale)
    if len(curve) < 2:  # None, where it was not evaluated at this scale.
        return ""
    systems = list(dict.fromkeys([curve[0], best or curve[-1], curve[-1]]))
    names = [run.headline, perceptual_metric([run], dataset) or "detail"]
    parts = []
    for name in names:
        values = [run.value(dataset, scale, system, name) for system in systems]
        if np.isfinite(values).all():
            *first, last = values
            path = [*map(METRICS[name].format, first), METRICS[name].quantity(last)]
            parts.append(f"{METRICS[name].title} {' → '.join(path)}")
    return f"{run.label} at ×{scale:g}, {' → '.join(systems)}: {', '.join(parts)}." if parts else ""


def _patches(runs: Sequence[EvaluationRun], dataset: str, scale: Scale) -> str:
    """What runs of different patch sizes reach at their best, or the one size that all have."""
    sizes = {
        run.label: ((run.about["model"].get("config") or {}).get("flow") or {}).get("patch_size")
        for run in runs
    }
    known = sorted({size for size in sizes.values() if size})
    if len(known) == 1:
        return (
            f"Texture is drawn in patches of {known[0]}×{known[0]} pixels; evaluate a model with another "
            "model.flow.patch_size beside it to see what they gain."
        )
    name = perceptual_metric(runs, dataset)
    parts = [
        f"{sizes[run.label]}×{sizes[run.label]} pixels "
        f"{METRICS[name].format(run.value(dataset, scale, best, name))} ({run.label}, {best})"
        for run in runs
        if name and sizes[run.label] and (best := _best(run, dataset, scale)) is not None
    ]
    return (
        f"{METRICS[name].title} at ×{scale:g} by patch: {', '.join(parts)}."
        if name and len(parts) > 1
        else ""
    )
