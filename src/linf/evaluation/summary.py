"""An evaluation in words: what its command prints at the end, and what a sweep is told."""

import math
from collections.abc import Iterator, Mapping

import pandas as pd

from linf.coordinates import Scale
from linf.evaluation.notes import infinite_means, lr_sentences, measured_on, partial_means
from linf.evaluation.schema import TABLES


def headlines(metrics: pd.DataFrame, headline: str) -> Iterator[tuple[str, Scale, pd.Series]]:
    """Each data set and scale, and the protocol's first metric there by system, if it was measured."""
    if headline not in metrics:
        return
    for (dataset, scale), of in metrics.groupby(["dataset", "scale"], sort=False):
        yield dataset, scale, of.set_index("system")[headline]


def first_figures(metrics: pd.DataFrame, headline: str) -> dict[str, float]:
    """The protocol's first metric in the model's first line, for each data set and scale."""
    return {
        f"{dataset}/x{scale:g}/{of.name}": float(of.iloc[:2].iloc[-1])
        for dataset, scale, of in headlines(metrics, headline)
    }


def summary(tables: Mapping[str, pd.DataFrame], headline: str, channels: int) -> list[str]:
    """The table as text, the model's gain over bicubic, where LR came from, and which images means leave out."""
    metrics, unit = tables["metrics"], f"dB on {measured_on(headline, channels)}"
    with pd.option_context("display.width", 200):
        table = metrics.drop(columns=["temperature", "images", "lr"])
        lines = [table.round(3).to_string(index=False)]
    for dataset, scale, of in headlines(metrics, headline):
        first, value = of.index[:2][-1], of.iloc[:2].iloc[-1]
        gain = value - of["bicubic"]
        compared = math.isfinite(gain) and first != "bicubic"
        against = f", {gain:+.2f} dB against bicubic" * compared
        lines.append(f"{dataset} ×{scale:g}: {first} {value:.2f} {unit}{against}")
    names = [name for name in metrics if name not in TABLES["metrics"] and name in tables["images"]]
    images = tables["images"]
    return [*lines, *lr_sentences(metrics), *partial_means(images, names), *infinite_means(images, names)]
