"""Which settings of a search matter: their importance for each objective, and every trial over each of them.

Importance is by PED-ANOVA (Watanabe et al., IJCAI 2023, arXiv 2304.10255): how far the settings of the best quarter of
the trials are distributed otherwise than those of all.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import optuna
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from linf.report.style import COLOURS, GREY, legend_below, panel_grid, plain_label
from linf.runs.search.space import Space

LEAST_TRIALS = 20
"""Finished trials that importance needs. In 30 searches over three settings, of which one has nearly all of the effect,
that one came first in 60 % with 8 random trials, 90 % with 20, and in all with 40."""

BEST_SHARE = 0.25
"""The share of the trials that are held against all."""

MOST_SLICES = 5
"""Settings over which trials are drawn; of more, the most important."""


def importances(study: optuna.Study, objectives: Mapping[str, str]) -> pd.DataFrame:
    """Return the importance of each setting (rows) for each objective (columns), which sum to 1, the largest first.

    There are no rows where fewer than `LEAST_TRIALS` have finished, or where all have the same settings.

    Args:
        study: The study of a search.
        objectives: Its objectives, each ``maximize`` or ``minimize``.
    """
    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(finished) < LEAST_TRIALS:
        return pd.DataFrame(columns=list(objectives), dtype=float)
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It warns that it minimises, and that it is new.
        for n, (name, direction) in enumerate(objectives.items()):
            found[name] = get_param_importances(
                study,
                evaluator=PedAnovaImportanceEvaluator(target_quantile=BEST_SHARE),
                target=_cost(n, -1 if direction == "maximize" else 1),
            )
    table = pd.DataFrame(found)
    return table.loc[table.mean(axis=1).sort_values(ascending=False, kind="stable").index]


def _cost(objective: int, sign: int) -> Callable[[FrozenTrial], float]:
    return lambda trial: sign * trial.values[objective]


def importance_figure(
    table: pd.DataFrame, found: pd.DataFrame, objectives: Sequence[str], space: Space
) -> Figure:
    """Draw a search by its settings: a row of panels for each objective, importance first, then all trials by setting.

    Args:
        table: The trials, of `linf.runs.search.study.Search.table`.
        found: Of `importances`.
        objectives: Their names.
        space: The search space.
    """
    keys = [*found.index, *(key for key in space if key not in found.index)]
    keys = [key for key in keys if key in table and key in space]
    drawn = keys[:MOST_SLICES]
    columns = 1 + len(drawn)
    figure, axes = panel_grid(len(objectives) * columns, columns, (2.0, 2.1))
    finished = table[table["state"] == "finished"]
    for row, objective in enumerate(objectives):
        first, *others = axes[row * columns : (row + 1) * columns]
        _importance(first, found.get(objective, pd.Series(dtype=float)).reindex(keys), len(finished))
        first.set_title(plain_label(objective))
        for axis, key in zip(others, drawn, strict=True):
            for chosen, colour in (~finished["front"], "0.65"), (finished["front"], COLOURS[0]):
                of = finished[chosen & _known(finished[key], space[key])]
                axis.plot(
                    _places(of[key], space[key]), of[objective], "o", color=colour, markersize=3.5, alpha=0.8
                )
            _scale(axis, space[key])
            axis.set(xlabel=plain_label(_short(key, keys)))
            axis.ticklabel_format(axis="y", useOffset=False)
            axis.locator_params(axis="y", nbins=4)
    dots = {"finished": "0.65", "on the Pareto front": COLOURS[0]}
    entries = [
        (Line2D([], [], color=c, marker="o", linestyle="none", markersize=3.5), name)
        for name, c in dots.items()
    ]
    legend_below(figure, entries)
    if len(keys) > len(drawn):
        figure.suptitle(f"trials by {len(drawn)} of {len(keys)} settings", x=0, ha="left", fontsize=9)
    return figure


def _importance(axis: Axes, values: pd.Series, finished: int) -> None:
    """Draw the importance of each setting as a bar, or say that there are too few trials to tell."""
    axis.grid(visible=False)
    if values.isna().all():
        words = f"importance needs\n{LEAST_TRIALS} finished trials;\nthere are {finished}"
        axis.text(0.5, 0.5, words, ha="center", va="center", color=GREY, transform=axis.transAxes)
        axis.set(xticks=[], yticks=[])
        return
    names = [plain_label(_short(key, list(values.index))) for key in values.index]
    axis.barh(range(len(values)), values.fillna(0), color=COLOURS[0], height=0.6)
    axis.set(yticks=range(len(values)), xlim=(0, 1), xlabel="importance")
    axis.set_yticklabels(names)
    axis.invert_yaxis()


def _short(key: str, keys: Sequence[str]) -> str:
    last = [other.rpartition(".")[2] for other in keys]
    return key.rpartition(".")[2] if last.count(key.rpartition(".")[2]) == 1 else key


def _known(values: pd.Series, distribution: BaseDistribution) -> pd.Series:
    """Tell which trials have a setting; others are from before it was searched."""
    null = isinstance(distribution, CategoricalDistribution) and None in distribution.choices
    return values.notna() | null


def _places(values: pd.Series, distribution: BaseDistribution) -> np.ndarray:
    """Return where values lie on an axis: choices in their order, numbers as they are."""
    if isinstance(distribution, CategoricalDistribution):
        # An empty cell is the choice null.
        return np.array([distribution.choices.index(None if pd.isna(value) else value) for value in values])
    return values.to_numpy(float)


def _scale(axis: Axes, distribution: BaseDistribution) -> None:
    """Show the whole range of a setting, with a tick for each choice."""
    if isinstance(distribution, CategoricalDistribution):
        count = len(distribution.choices)
        axis.set(xticks=range(count), xlim=(-0.5, count - 0.5))
        axis.set_xticklabels([plain_label(str(choice)) for choice in distribution.choices], fontsize=8)
        return
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high = distribution.low, distribution.high
    if distribution.log:
        margin = (high / low) ** 0.05
        axis.set(xscale="log", xlim=(low / margin, high * margin))
    else:
        margin = (high - low) * 0.05
        axis.set(xlim=(low - margin, high + margin))
        axis.locator_params(axis="x", nbins=4)
