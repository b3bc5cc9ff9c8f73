"""All figures of a report."""

from collections.abc import Sequence

from matplotlib import rc_context
from matplotlib.figure import Figure

from linf.report.calibration import calibration_figure
from linf.report.collection import with_distinct_labels
from linf.report.consistency import consistency_figure
from linf.report.crops import detail_figures
from linf.report.evaluations import EvaluationRun
from linf.report.gaps import gap_figure
from linf.report.plane import plane_figure
from linf.report.scale import scale_figure
from linf.report.selection import curve_scales, datasets
from linf.report.severity import severity_figure
from linf.report.style import STYLE
from linf.report.tables import safe_name
from linf.report.temperature import temperature_figure


def all_figures(runs: Sequence[EvaluationRun]) -> dict[str, Figure]:
    """Every figure for which there are data, by its name, such as ``temperature_Set5``."""
    runs = with_distinct_labels(runs)
    kinds = {
        "temperature": temperature_figure,
        "plane": plane_figure,
        "scale": scale_figure,
        "severity": severity_figure,
        "calibration": calibration_figure,
    }
    figures: dict[str, Figure | None] = {}
    with rc_context(STYLE):
        for dataset in datasets(runs):
            for kind, draw in kinds.items():
                figures[f"{kind}_{safe_name(dataset)}"] = draw(runs, dataset)
            gaps = gap_figure(runs, dataset, curve_scales(runs, dataset)[-1])
            figures[f"differences_{safe_name(dataset)}"] = gaps
            kept = consistency_figure(runs, dataset, curve_scales(runs, dataset)[-1])
            figures[f"consistency_{safe_name(dataset)}"] = kept
        figures |= detail_figures(runs)
    return {name: figure for name, figure in figures.items() if figure is not None}
