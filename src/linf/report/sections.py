"""The sections of a report on a data set: a figure each, what is found in it, and how it is read."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from matplotlib import rc_context
from matplotlib.figure import Figure

from linf.report.calibration import calibration_figure, calibration_findings
from linf.report.consistency import consistency_figure, consistency_findings
from linf.report.crops import detail_figures
from linf.report.details import read_details
from linf.report.evaluations import EvaluationRun
from linf.report.gaps import gap_figure, gap_findings
from linf.report.plane import plane_figure, plane_findings
from linf.report.scale import scale_figure, scale_findings
from linf.report.selection import datasets
from linf.report.severity import severity_figure, severity_findings
from linf.report.style import STYLE
from linf.report.tables import safe_name
from linf.report.temperature import temperature_figure, temperature_findings


class Section(NamedTuple):
    """A section, which is left out where there is neither a figure nor anything found."""

    kind: str
    title: str
    draw: Callable[[Sequence[EvaluationRun], str], Figure | None]
    """Called with the runs of a report and the name of a data set."""
    find: Callable[[Sequence[EvaluationRun], str], list[str]]
    """Likewise; returns sentences."""
    caption: str
    """With ``{first}`` for the label of the first run."""

    def name(self, dataset: str) -> str:
        """The name of its figure."""
        return f"{self.kind}_{safe_name(dataset)}"


SECTIONS = (
    Section(
        "temperature",
        "Temperature",
        temperature_figure,
        temperature_findings,
        "Means over images against τ, with 95% bootstrap intervals over images where curves are few and images five or "
        "more. Level lines have no temperature; thin black lines are the closed form, and the detail that HR has. "
        "Rings mark the best perception. Bands show how much images differ, not whether runs do.",
    ),
    Section(
        "plane",
        "Perception and distortion",
        plane_figure,
        plane_findings,
        "Each run's path over τ. Up and to the right is better.",
    ),
    Section(
        "consistency",
        "Consistency with LR",
        consistency_figure,
        consistency_findings,
        "What each system keeps of LR, beside distortion and perception: at the lowest temperature and at that of the "
        "best perception.",
    ),
    Section(
        "scale",
        "Scale",
        scale_figure,
        scale_findings,
        "PSNR of each run, at its lowest temperature, and its gain over bicubic.",
    ),
    Section(
        "severity",
        "Degraded LR",
        severity_figure,
        severity_findings,
        "Metrics against the severity of the degradation. Colours stand for temperatures.",
    ),
    Section(
        "differences",
        "Differences",
        gap_figure,
        gap_findings,
        "Each run less {first}, as means over the images that both have, with 95% bootstrap intervals. Where an "
        "interval of five images or more does not hold 0, the difference is clear. Of twenty differences that do not "
        "exist, one is expected to look so.",
    ),
    Section(
        "calibration",
        "Calibration",
        calibration_figure,
        calibration_findings,
        "Share covered by central intervals. Above the diagonal, intervals are too wide; below it, too narrow.",
    ),
)


def all_figures(runs: Sequence[EvaluationRun]) -> dict[str, Figure]:
    """The figures of all sections and details, by their names, such as ``temperature_Set5``."""
    return section_figures(runs) | detail_figures(read_details(runs))


@rc_context(STYLE)
def section_figures(runs: Sequence[EvaluationRun]) -> dict[str, Figure]:
    """The figures of all sections for which there are data."""
    drawn = {of.name(dataset): of.draw(runs, dataset) for dataset in datasets(runs) for of in SECTIONS}
    return {name: figure for name, figure in drawn.items() if figure is not None}
