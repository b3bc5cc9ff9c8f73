"""Finding of a report: how the columns of time, memory and multiplications were measured."""

from collections.abc import Sequence

from linf.report.evaluations import EvaluationRun


def cost_finding(runs: Sequence[EvaluationRun]) -> str:
    """How the columns of seconds, memory and multiplications were measured; nothing where they were not."""
    timed = [run.cost for run in runs if len(run.cost)]
    if not timed:
        return ""
    sizes, devices = (
        " and ".join(sorted({str(v) for of in timed for v in of[name]})) for name in ("lr_size", "device")
    )
    return (
        f"Time, memory beyond the weights, and multiplications (MACs) are of one image from {sizes} LR pixels on "
        f"{devices}."
    )
