"""Which settings of a search matter: importance where there are trials enough, and every trial over each setting."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib import rc_context
from matplotlib.figure import Figure
from optuna.samplers import TPESampler
from optuna.trial import TrialState, create_trial
from PIL import Image

from helpers.figures import overlapping
from linf.report.style import STYLE
from linf.runs.search.importance import LEAST_TRIALS, MOST_SLICES, importance_figure, importances
from linf.runs.search.space import space
from linf.runs.search.study import Search

OBJECTIVES = {"val/psnr": "maximize", "val/lpips": "minimize"}
RANGES: dict[str, Any] = {
    "task.optimizer.lr": {"low": 1e-5, "high": 1e-3, "log": True},
    "encoder.blocks": {"low": 4, "high": 16},
    "encoder.act": {"choices": [None, "relu", "gelu"]},
}


def searched(folder: Path, count: int, ranges: dict[str, Any] = RANGES) -> Search:
    """A search in which the learning rate decides PSNR, and the number of blocks LPIPS."""
    found = Search(
        folder,
        storage=None,
        study="search",
        objectives=OBJECTIVES,
        space=space(ranges),
        sampler=TPESampler,
        trials=99,
    )
    rng, trials = np.random.default_rng(0), []
    for _ in range(count):
        blocks, lr = int(rng.integers(4, 17)), float(10 ** rng.uniform(-5, -3))
        params = {
            "task.optimizer.lr": lr,
            "encoder.blocks": blocks,
            "encoder.act": [None, "relu", "gelu"][blocks % 3],
        }
        params |= {key: 0.5 for key in found.space if key not in params}
        values = [28 + np.log10(lr) + 0.05 * rng.normal(), 0.3 - blocks / 100 + 0.005 * rng.normal()]
        trials.append(create_trial(params=params, distributions=found.space, values=values))
    found.study.add_trials(trials)
    return found


def figure_of(found: Search) -> Figure:
    with rc_context(STYLE):
        table = importances(found.study, found.objectives)
        return importance_figure(found.table(), table, list(found.objectives), found.space)


@pytest.mark.slow
def test_the_settings_that_decide_are_the_most_important(tmp_path: Path) -> None:
    found = searched(tmp_path, 40)
    found.study.add_trial(create_trial(state=TrialState.FAIL))
    found.summarise()
    table = pd.read_csv(tmp_path / "importance.csv", index_col="setting")
    assert table.sum().tolist() == pytest.approx([1, 1])
    assert table.idxmax().to_dict() == {"val/psnr": "task.optimizer.lr", "val/lpips": "encoder.blocks"}
    figure = figure_of(found)
    assert not overlapping(figure)
    bars, lr, blocks, *_ = figure.axes
    assert [bar.get_width() for bar in bars.patches] == pytest.approx(table["val/psnr"].tolist())
    assert {lr.get_xlabel(), blocks.get_xlabel()} == {"lr", "blocks"}
    assert min(Image.open(tmp_path / "importance.png").size) > 500
    trials = found.table()
    for axis, key in ((axis, axis.get_xlabel()) for axis in figure.axes[:4]):
        if key == "lr":
            points = np.concatenate([line.get_xydata() for line in axis.lines])
            of = trials[trials["state"] == "finished"]
            expected = of[["task.optimizer.lr", "val/psnr"]].to_numpy()
            assert np.array_equal(np.sort(points, axis=0), np.sort(expected, axis=0))
            assert len(axis.lines[1].get_xdata()) == of["front"].sum()
        if key == "act":
            assert [label.get_text() for label in axis.get_xticklabels()] == ["None", "relu", "gelu"]


def test_too_few_trials_are_said_to_be_too_few(tmp_path: Path) -> None:
    found = searched(tmp_path, LEAST_TRIALS - 1)
    assert importances(found.study, found.objectives).empty
    figure = figure_of(found)
    words = figure.axes[0].texts[0].get_text()
    assert words == "importance needs\n20 finished trials;\nthere are 19"
    assert not figure.axes[0].patches
    assert len(figure.axes) == 2 * (1 + len(RANGES))
    assert not overlapping(figure)


@pytest.mark.thorough
def test_of_many_settings_some_are_drawn_and_the_figure_says_so(tmp_path: Path) -> None:
    more = {f"loss.{name}": {"low": 0.1, "high": 1.0} for name in "abcd"}
    found = searched(tmp_path, LEAST_TRIALS, RANGES | more)
    figure = figure_of(found)
    assert len(figure.axes) == 2 * (1 + MOST_SLICES)
    assert figure.get_suptitle() == "trials by 5 of 7 settings"
