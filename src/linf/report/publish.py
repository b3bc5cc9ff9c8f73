"""What is shown of an evaluation when it ends: its contact sheet, and its tables, curves and figures in loggers."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import pytorch_lightning as pl
import torch
from matplotlib.figure import Figure
from PIL import Image
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger

from linf.errors import UsageError
from linf.evaluation.evaluation import Evaluation
from linf.evaluation.fonts import save_figure
from linf.evaluation.panels import Row, detail_row, panel
from linf.evaluation.record import Key
from linf.evaluation.schema import HEADLINES, METRICS, PERCEPTUAL, TABLES, UNIT, kept_folder, nearest_system
from linf.images.read import read_image
from linf.report.evaluations import read_run
from linf.report.sections import all_figures


class PublishResults(Callback):
    """At the end of an `Evaluation`, draws ``contact_sheet.png`` in its folder, and logs everything to W&B, and figures
    and `best_values` to TensorBoard, where these are among the trainer's loggers.
    """

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Publish, on rank 0."""
        if not isinstance(pl_module, Evaluation):
            raise UsageError(f"PublishResults publishes an Evaluation, not a {type(pl_module).__name__}")
        pl_module.teardown(stage)
        if not trainer.is_global_zero:
            return
        figures = {}
        # An earlier evaluation in this folder may have measured images without keeping them.
        kept = {key: kept_folder(pl_module.folder, *key) for key in pl_module.shown_keys}
        systems = pl_module.tables["metrics"]["system"].unique()
        kept = {key: folder for key, folder in kept.items() if folder.is_dir()}
        rows = [_sheet_row(key, folder, systems) for key, folder in kept.items()]
        if rows:
            images, headline = pl_module.tables["images"], pl_module.protocol.headline
            figures["contact_sheet"] = panel(rows, [sheet_captions(key, images, headline) for key in kept])
            save_figure(figures["contact_sheet"], pl_module.folder / "contact_sheet.png")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                run = read_run(pl_module.folder)
                tables = pl_module.tables | ({"cost": run.cost} if len(run.cost) else {})
                log_results(logger, tables, figures | all_figures([run]))
            elif isinstance(logger, TensorBoardLogger):
                for name, figure in (figures | all_figures([read_run(pl_module.folder)])).items():
                    logger.experiment.add_figure(f"figures/{name}", figure)
                for name, value in best_values(pl_module.tables["metrics"]).items():
                    logger.experiment.add_scalar(name, value)


def _sheet_row(key: Key, folder: Path, systems: Sequence[str]) -> Row:
    paths = {name: folder / f"{name}.png" for name in ("LR", *systems, "HR")}
    images = {
        name: torch.from_numpy(read_image(path)).permute(2, 0, 1) / 255
        for name, path in paths.items()
        if path.is_file()
    }
    lr, hr = images.pop("LR"), images.pop("HR")
    return detail_row(f"{key[1]} ×{key[2]:g}", lr, hr, images)


def sheet_captions(key: Key, images: pd.DataFrame, headline: str) -> dict[str, str]:
    """What a contact sheet says below an image by each system: its PSNR and perception, with a star at the best τ.

    Args:
        key: of the image.
        images: the table of that name.
        headline: the PSNR.
    """
    of = images[(images[list(UNIT)] == [*key]).all(axis=1)]
    best = nearest_system(of.to_dict("records"))
    perceptual = [name for name in PERCEPTUAL if name in of and of[name].notna().any()][:1]
    captions = {}
    for line in of.to_dict("records"):
        parts = [METRICS[headline].quantity(line[headline])] if headline in line else []
        parts += [f"{METRICS[name].title} {METRICS[name].format(line[name])}" for name in perceptual]
        captions[line["system"]] = "\n".join(parts) + " ★ best τ" * (line["system"] == best)
    return captions


def log_results(
    logger: WandbLogger, tables: Mapping[str, pd.DataFrame], figures: Mapping[str, Figure]
) -> None:
    """Log tables and figures; metrics as curves over the temperature, or where there is none in the summary, which also
    has `best_values`.

    Args:
        logger: of the run.
        tables: by name, as `linf.evaluation.schema` describes them.
        figures: by name.
    """
    run = logger.experiment
    for name, table in tables.items():
        # W&B takes one type a column, so that scales are text where one differs by axis.
        text = {"scale": table["scale"].map("{:g}".format)} if table["scale"].dtype == object else {}
        logger.log_table(f"tables/{name}", dataframe=table.assign(**text))
    for name, figure in figures.items():
        content = io.BytesIO()
        save_figure(figure, content, format="png")
        logger.log_image(f"figures/{name}", [Image.open(content)])
    run.define_metric("temperature")
    run.define_metric("curves/*", step_metric="temperature")
    metrics = tables["metrics"]
    for tau, group in metrics[metrics["temperature"].notna()].groupby("temperature"):
        run.log({"temperature": tau} | _scalars("curves/", group, system=False))
    run.summary.update(
        _scalars("", metrics[metrics["temperature"].isna()], system=True) | best_values(metrics)
    )


def best_values(metrics: pd.DataFrame) -> dict[str, float]:
    """What compares evaluations at a glance, for each data set and scale: PSNR of the model at τ = 0, and its lowest
    LPIPS with the temperature where it is. A model without temperatures has one value of each.

    Args:
        metrics: the table of that name.
    """
    values = dict[str, float]()
    for (dataset, scale), lines in metrics.groupby(["dataset", "scale"], sort=False):
        of_model = lines[lines["system"] != "bicubic"]
        sampled = of_model[of_model["temperature"].notna()]
        of_model = sampled if len(sampled) else of_model[:1]
        mean = of_model[of_model["temperature"] == 0] if len(sampled) else of_model
        place = f"{dataset}/x{scale:g}"
        values |= {f"{place}/{name}": float(of) for name in HEADLINES if name in lines for of in mean[name]}
        for name in (name for name in PERCEPTUAL if name in lines and of_model[name].notna().any()):
            best = of_model.loc[of_model[name].idxmin()]
            values |= {f"{place}/{name}/best": float(best[name])}
            values |= {f"{place}/{name}/best_temperature": float(best["temperature"])} if len(sampled) else {}
    return values


def _scalars(prefix: str, table: pd.DataFrame, *, system: bool) -> dict[str, float]:
    """Every mean in a table, by data set, scale, metric and, if wanted, system."""
    return {
        f"{prefix}{row['dataset']}/x{row['scale']:g}/{metric}" + f"/{row['system']}" * system: row[metric]
        for row in table.to_dict("records")
        for metric in table.columns.drop(list(TABLES["metrics"]))
        if pd.notna(row[metric])
    }
