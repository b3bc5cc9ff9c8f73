"""What a report is about: its data sets and scales, the runs on them, and the metrics that were measured."""

import math
from collections.abc import Sequence

from linf.coordinates import AxisScales, Scale, axis_scales
from linf.evaluation.schema import METRICS, PERCEPTUAL, TABLES
from linf.report.evaluations import EvaluationRun


def datasets(runs: Sequence[EvaluationRun]) -> list[str]:
    """All data sets, in the order in which the runs name them."""
    return list(dict.fromkeys(name for run in runs for name in run.metrics["dataset"]))


def scales(runs: Sequence[EvaluationRun], dataset: str) -> list[Scale]:
    """All scales at which a data set was evaluated, in increasing order."""
    of = [run.metrics[run.metrics["dataset"] == dataset]["scale"] for run in runs]
    return sorted({scale for column in of for scale in column})


def single_scales(runs: Sequence[EvaluationRun], dataset: str) -> list[float]:
    """Those of `scales` that are one number for both axes, as a curve over scales has them."""
    return [scale for scale in scales(runs, dataset) if not isinstance(scale, AxisScales)]


def curve_scales(runs: Sequence[EvaluationRun], dataset: str) -> list[Scale]:
    """The scales for which curves are drawn: those trained on, and only the largest ones if runs are many."""
    evaluated = scales(runs, dataset)
    limits = [run.about["max_trained_scale"] for run in runs if run.about.get("max_trained_scale")]
    trained = [s for s in evaluated if not limits or max(axis_scales(s)) <= min(limits)] or evaluated
    # At most twelve curves in one panel.
    return trained[-max(1, 12 // max(1, len(sampling_runs(runs, dataset)))) :]


def runs_on(runs: Sequence[EvaluationRun], dataset: str) -> list[EvaluationRun]:
    """The runs on a data set."""
    return [run for run in runs if dataset in datasets([run])]


def sampling_runs(runs: Sequence[EvaluationRun], dataset: str) -> list[EvaluationRun]:
    """The runs whose model samples, of those on a data set."""
    return [run for run in runs if any(len(run.curve(dataset, scale)) for scale in scales([run], dataset))]


def regression_runs(runs: Sequence[EvaluationRun], dataset: str) -> list[EvaluationRun]:
    """The runs of LIIF and LTE on a data set."""
    return runs_on([run for run in runs if not run.samples and run.system != "bicubic"], dataset)


def model_runs(runs: Sequence[EvaluationRun], dataset: str) -> list[EvaluationRun]:
    """The runs of models on a data set, in the order of their colours in all figures: those that sample come first."""
    return [*sampling_runs(runs, dataset), *regression_runs(runs, dataset)]


def measured_metrics(runs: Sequence[EvaluationRun], dataset: str) -> list[str]:
    """The metrics that were measured on a data set, in the order of `METRICS`, unknown ones last."""
    found = []
    for run in runs:
        of = run.metrics[run.metrics["dataset"] == dataset].drop(columns=list(TABLES["metrics"]))
        found += of.columns[of.notna().any()].tolist()
    order = [*METRICS, *found]
    return sorted(set(found), key=order.index)


def common_headline(runs: Sequence[EvaluationRun]) -> str:
    """The PSNR that most runs put first."""
    names = [run.headline for run in runs]
    return max(names, key=names.count)


def perceptual_metric(runs: Sequence[EvaluationRun], dataset: str) -> str | None:
    """The metric that stands for perception, or None where none was measured."""
    return next((name for name in PERCEPTUAL if name in measured_metrics(runs, dataset)), None)


def bicubic_at(runs: Sequence[EvaluationRun], dataset: str, scale: Scale, metric: str) -> float:
    """Bicubic's mean from the first run that has it, for it is the same in all whose LR is; not a number where none has
    it. A run is compared with its own: put it first.
    """
    values = (run.value(dataset, scale, "bicubic", metric) for run in runs)
    return next((value for value in values if not math.isnan(value)), math.nan)


def comparable_at(one: EvaluationRun, other: EvaluationRun, dataset: str, scale: Scale) -> bool:
    """Whether the means of two runs are over as many images, whose LR came from the same place."""
    return _images(one, dataset, scale) == _images(other, dataset, scale)


def _images(run: EvaluationRun, dataset: str, scale: Scale) -> tuple[str, int]:
    """Where LR came from, and how many images there are; 0 where bicubic was not evaluated."""
    number = run.value(dataset, scale, "bicubic", "images")
    return run.lr(dataset, scale), 0 if math.isnan(number) else int(number)


def bicubics(
    runs: Sequence[EvaluationRun], dataset: str, scale: Scale
) -> list[tuple[str, list[EvaluationRun]]]:
    """Bicubic's name and the runs that have it, for each LR of a data set and each number of its images; of several,
    the name says which.
    """
    of: dict[tuple[str, int], list[EvaluationRun]] = {}
    for run in runs:
        if (images := _images(run, dataset, scale))[1]:
            of.setdefault(images, []).append(run)
    lrs, numbers = ({images[n] for images in of} for n in (0, 1))
    found = []
    for (lr, number), each in of.items():
        words = [f"LR: {lr}"] * (len(lrs) > 1)
        words += [f"{number} image{'s' * (number > 1)}"] * (len(numbers) > 1)
        found.append(("bicubic" + f" ({', '.join(words)})" * bool(words), each))
    return found
