"""Notes below a table: where LR came from, and over which images a mean was taken."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from linf.errors import shorten
from linf.evaluation.schema import ADDED, OF_SEVERAL_SAMPLES, column


def lr_sentences(metrics: pd.DataFrame) -> list[str]:
    """Where the LR images of each data set came from at each scale, a sentence for each data set.

    Args:
        metrics: the table of that name.
    """
    sentences = []
    for dataset, of in metrics.groupby("dataset", sort=False):
        parts = [
            ("" if made in ("given", *ADDED.values()) else "made by ")
            + f"{made} at "
            + ", ".join(f"×{scale:g}" for scale in dict.fromkeys(group["scale"]))
            for made, group in of.groupby("lr", sort=False)
        ]
        sentences.append(f"LR of {dataset}: {'; '.join(parts)}")
    return sentences


def measured_on(headline: str, channels: int) -> str:
    """What a PSNR was taken on: Y or RGB, and of images that have neither grey or all channels."""
    rgb = "Y" if headline == "psnr_y" else "RGB"
    return {1: "grey", 3: rgb}.get(channels, f"all {channels} channels")


def partial_means(images: pd.DataFrame, metrics: Sequence[str]) -> list[str]:
    """Which means leave images out, and how many they are of, a sentence for each metric, data set and scale.

    Args:
        images: the table of that name.
        metrics: its columns of figures.
    """
    sentences = []
    for name in metrics:
        for (dataset, scale), of in images.groupby(["dataset", "scale"], sort=False):
            counts = (
                of.assign(known=of[name].notna()).groupby("system", sort=False)["known"].agg(["sum", "size"])
            )
            short = counts[counts["sum"] < counts["size"]]
            if name in OF_SEVERAL_SAMPLES:
                short = short[short["sum"] > 0]
            for (known, total), systems in short.groupby(["sum", "size"], sort=False).groups.items():
                who = "" if len(systems) == len(counts) else f" of {', '.join(systems)}"
                title = column(name).title
                if known:
                    what = f"is a mean over {known} of {total} images"
                    why = (
                        ", it being no number for the others"
                        if who
                        else ", the others being too small for it"
                    )
                else:
                    what = f"is known of none of {total} images"
                    why = "" if who else ", all being too small for it"
                sentences.append(f"{title}{who} on {dataset} at ×{scale:g} {what}{why}")
    return sentences


def infinite_means(images: pd.DataFrame, metrics: Sequence[str]) -> list[str]:
    """Which means are infinite, and by which images, a sentence for each metric, data set and scale.

    Args:
        images: the table of that name.
        metrics: its columns of figures.
    """
    sentences = []
    for name in metrics:
        title = column(name).title
        for (dataset, scale), of in images.groupby(["dataset", "scale"], sort=False):
            exact = of[np.isinf(of[name])]
            if exact.empty:
                continue
            systems, names = (list(dict.fromkeys(exact[column])) for column in ("system", "image"))
            who = "" if len(systems) == of["system"].nunique() else f" of {', '.join(systems)}"
            sentences.append(
                f"{title}{who} on {dataset} at ×{scale:g} is infinite: there is no error in {shorten(names, 3)}"
            )
    return sentences
