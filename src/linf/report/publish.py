"""A study's tables, curves and figures to W&B, through Lightning's logger."""

import io
from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure
from PIL import Image
from pytorch_lightning.loggers import WandbLogger


def publish(logger: WandbLogger, tables: Mapping[str, pd.DataFrame], figures: Mapping[str, Figure]) -> None:
    """Log tables as tables, metrics as curves over the temperature, the rest as its summary, and figures as images.

    Args:
        logger: of the run.
        tables: by name; ``metrics`` as `linf.evaluation.record.means` makes it.
        figures: by name.
    """
    run = logger.experiment
    for name, table in tables.items():
        logger.log_table(f"tables/{name}", dataframe=table)
    for name, figure in figures.items():
        content = io.BytesIO()
        figure.savefig(content, format="png")
        logger.log_image(f"figures/{name}", [Image.open(content)])
    run.define_metric("temperature")
    run.define_metric("curves/*", step_metric="temperature")
    metrics = tables["metrics"]
    for tau, group in metrics[metrics["temperature"].notna()].groupby("temperature"):
        run.log({"temperature": tau} | _named("curves/", group, system=False))
    run.summary.update(_named("", metrics[metrics["temperature"].isna()], system=True))


def _named(prefix: str, table: pd.DataFrame, *, system: bool) -> dict[str, float]:
    """Every figure of a table by what it is of."""
    keys = ["dataset", "scale", "system", "temperature", "images"]
    return {
        f"{prefix}{row['dataset']}/x{row['scale']:g}/{metric}" + f"/{row['system']}" * system: row[metric]
        for row in table.to_dict("records")
        for metric in table.columns.drop(keys)
        if pd.notna(row[metric])
    }
