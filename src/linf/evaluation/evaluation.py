"""Evaluation box of the figure: tables of every system over data sets, scales and temperatures, with Lightning."""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pytorch_lightning as pl
import torch

from linf.coordinates import mean_scale
from linf.data.datamodule import SRDataModule
from linf.data.pairs import ImagePair
from linf.errors import UsageError, check_distinct, check_least
from linf.evaluation.assumptions import Assumptions
from linf.evaluation.corpora import Corpora
from linf.evaluation.means import TableMeans
from linf.evaluation.measure import Unit, check_consistency, measure
from linf.evaluation.metrics import conventions, fit_metrics, measured_by, open_metrics
from linf.evaluation.origin import git_commit, origin, weights_digest
from linf.evaluation.record import Key, Record
from linf.evaluation.schema import TABLES, are_kept, kept_folder, kept_names
from linf.evaluation.summary import first_figures, summary
from linf.evaluation.systems import model_label, system_temperatures
from linf.metrics.corpus import CorpusMetric
from linf.metrics.metric import ImageMetric
from linf.metrics.protocol import Protocol
from linf.models.super_resolver import SuperResolver
from linf.models.temperature import check_temperatures


class Evaluation(pl.LightningModule):
    """Measure all metrics of all systems over scales and temperatures, from one encoding per image and scale.

    `linf.evaluation.record.Record` writes the tables to ``folder``; images go to ``images/`` there. Started again in
    the same folder, an evaluation continues where it stopped. Any number of ranks share the images.

    Args:
        model: what is evaluated.
        temperatures: τ ≥ 0, one or more.
        folder: where results go.
        metrics: their constructors by name. A metric whose weights are missing is skipped, and the record says why.
        protocol: which PSNR comes first, and how many pixels at the border are left out.
        samples: per temperature, over which its figures are means.
        assumed: how latents are drawn and measured.
        seed: of the latents. Each image and scale has its own, on whichever rank it is evaluated.
        save_images: keep every image of every system, rather than those of the first ``shown`` images at one scale. If
            one is missing in a folder with earlier results, its image is measured again.
        shown: images of each data set that are kept for the report, at the scale nearest to 4.
        label: the model's name in legends; by default `model_label`.
        checkpoint: the file that the model came from, for the record.
        prior: the file that its prior came from, for the record.
        trained_scale: the largest scale that the model was trained at, for the record.
        consistency: rounds that make every image of the model consistent with its LR; 0 for none.
        self_ensemble: whether there is a line of the model's self-ensemble, for eight times the work of its mean.

    Attributes:
        skipped: why a metric was skipped, by its name.
        tables: by name, after `teardown`; on rank 0 only.

    Raises:
        UsageError: an argument is out of range, a temperature or data set is repeated, the folder cannot be used.
    """

    def __init__(
        self,
        model: SuperResolver,
        temperatures: Sequence[float],
        folder: str,
        *,
        metrics: Mapping[str, Callable[[], ImageMetric | CorpusMetric]],
        protocol: Protocol,
        samples: int = 1,
        seed: int = 0,
        assumed: Assumptions = Assumptions(),
        save_images: bool = False,
        shown: int = 4,
        label: str | None = None,
        checkpoint: str | None = None,
        prior: str | None = None,
        trained_scale: float | None = 4,
        consistency: int = 0,
        self_ensemble: bool = False,
    ) -> None:
        super().__init__()
        least_values = (("samples", samples, 1), ("shown", shown, 0), ("consistency", consistency, 0))
        for name, value, least in least_values:
            check_least(name, value, least)
        if trained_scale is not None and trained_scale < 1:
            raise UsageError(f"trained_scale is {trained_scale}: give a scale of at least 1, or null")
        self.model, self.temperatures = model, check_temperatures(list(temperatures))
        check_distinct("temperatures", self.temperatures)
        self.folder, self.protocol, self.samples, self.seed = Path(folder), protocol, samples, seed
        self.save_images, self.shown, self.consistency = save_images, shown, consistency
        assumed.check(model)
        self.assumed = assumed
        made = assumed.label() + ", consistent" * bool(consistency)
        self.label = label or model_label(model) + made
        self.checkpoint, self.prior, self.trained_scale = checkpoint, prior, trained_scale
        self.self_ensemble = self_ensemble
        self.metrics, self.corpus_metrics, self.skipped = open_metrics(metrics)

    def setup(self, stage: str) -> None:
        """Open the folder, and leave out the images that are finished there."""
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, SRDataModule):
            raise UsageError("an evaluation needs the images of an SRDataModule: give one to trainer.test")
        self.digests = {of.key(i): partial(of.digest, i) for of in data.test_pairs for i in range(len(of))}
        self.keys: list[Key] = list(self.digests)
        check_consistency(self.consistency, self.model, data.test_pairs)
        names = [pairs.name for pairs in data.test_pairs]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UsageError(f"several data sets are called {', '.join(twice)}: give each only once")
        self.shown_scale = min(data.test_scales, key=lambda s: abs(mean_scale(s) - 4))
        shown = [(of.name, self.shown_scale) for of in data.test_pairs]
        at_scale = [[key for key in self.keys if key[::2] == place] for place in shown]
        self.shown_keys = [key for keys in at_scale for key in keys[: self.shown]]
        self.pixels = data.pixels
        self.skipped |= fit_metrics(self.metrics, self.pixels) | fit_metrics(self.corpus_metrics, self.pixels)
        self.corpora = Corpora(self.folder, cast(Mapping[str, CorpusMetric], self.corpus_metrics))
        self.record = Record(self.folder, self._about(data), self.global_rank)
        self.record.leave_out_outdated(self.digests)
        self.systems = system_temperatures(self.model, self.temperatures, self.self_ensemble)
        self.record.units = {
            key: unit
            for key, unit in self.record.units.items()
            if self.corpora.has(key) and self._is_whole(key, unit)
        }
        data.tested = self.record.units.keys()
        self.tables: dict[str, pd.DataFrame] = {}
        self.finished = False
        places = dict.fromkeys((dataset, scale) for dataset, _, scale in self.keys)
        self.cells = {(*place, system): n for n, (place, system) in enumerate(product(places, self.systems))}
        self.lr_from = {
            (of.name, scale): made for of in data.test_pairs for scale, made in of.lr_from.items()
        }
        self.means = TableMeans(len(self.cells), len(self.metrics))
        if self.global_rank == 0:  # Only one rank counts what an earlier evaluation finished.
            for key in self.record.finished(self.keys):
                self._count(key, self.record.units[key])

    def _is_whole(self, key: Key, unit: Unit) -> bool:
        """Whether nothing is missing of what was kept of an image, or is to be kept of all."""
        if not (self.save_images or kept_folder(self.folder, *key).is_dir()):
            return True
        return are_kept(self.folder, key, kept_names(self.systems, unit.rows, all_of_them=self.save_images))

    def _about(self, data: SRDataModule) -> dict[str, Any]:
        return {
            "label": self.label,
            "model": {
                "name": self.model.name,
                "config": getattr(self.model, "config", {}),
                "parameters": sum(p.numel() for p in self.model.parameters()),
            },
            "weights": weights_digest(self.model),
            **origin(self.checkpoint, self.prior),
            "protocol": self.protocol.describe(),
            "metrics": [*self.metrics, *self.corpus_metrics],
            "conventions": conventions(self.metrics) | conventions(self.corpus_metrics),
            "measured_by": measured_by(self.metrics),
            "skipped": self.skipped,
            "temperatures": self.temperatures,
            "samples": self.samples,
            "seed": self.seed,
            "consistency": self.consistency or None,
            "self_ensemble": self.self_ensemble or None,
            **self.assumed.record(),
            "scales": list(data.test_scales),
            "datasets": [pairs.name for pairs in data.test_pairs],
            **data.describe_test(),
            "git": git_commit(),
            "versions": {"linf": version("linf"), "torch": torch.__version__},
            "device": str(self.trainer.strategy.root_device),
            "max_trained_scale": self.trained_scale,
        }

    def test_step(self, image: ImagePair, batch_idx: int) -> None:
        """Evaluate every system on one image at one scale."""
        key = (image.dataset, image.name, image.scale)
        unit, kept, features = measure(
            self.model,
            image,
            cast(Mapping[str, ImageMetric], self.metrics),
            temperatures=self.temperatures,
            samples=self.samples,
            border=self.protocol.border(image.scale),
            seed=image.seed_of_latents(self.seed),
            assumed=self.assumed,
            consistency=self.consistency,
            ensemble=self.self_ensemble,
            keep=self.save_images or key in self.shown_keys,
            networks=self.corpora.networks,
        )
        if key in self.record.outdated:
            shutil.rmtree(kept_folder(self.folder, *key), ignore_errors=True)
        if kept:
            kept |= {"LR": image.lr[0], "HR": image.hr[0]}
            names = kept_names(self.systems, unit.rows, all_of_them=self.save_images)
            for name, content in kept.items():
                if content.ndim == 2 or name in names:
                    self.record.keep(kept_folder(self.folder, *key) / name, content.cpu(), self.pixels)
        self.corpora.keep(key, features)
        self.record.add(key, unit._replace(digest=self.digests[key](), at=time.time()))
        self._count(key, unit)

    def _count(self, key: Key, unit: Unit) -> None:
        dataset, _, scale = key
        for row in unit.rows:
            figures = torch.tensor([row[name] for name in self.metrics], dtype=torch.double)
            self.means.update(self.cells[dataset, scale, row["system"]], figures.to(self.means.device))

    def teardown(self, stage: str) -> None:
        """Write the tables of all ranks, unless that is done; every rank must call it. A callback that reads the tables
        calls it too, for Lightning tears callbacks down before their module, and where all images were finished before,
        no earlier hook is called.
        """
        if self.finished:
            return
        self.finished = True
        # torchmetrics returns a single element as a scalar.
        images, means = (part.reshape(len(self.cells), -1).tolist() for part in self.means.compute())
        if self.trainer.is_global_zero:
            lines = [
                (*cell, self.systems[cell[-1]], *images[n], self.lr_from[cell[:2]], *means[n])
                for cell, n in self.cells.items()
                if any(images[n])
            ]
            metrics = pd.DataFrame(lines, columns=[*TABLES["metrics"], *self.metrics])
            metrics = self.corpora.complete(metrics, self.keys)
            self.tables = self.record.tables(self.keys) | {"metrics": metrics}
            self.record.write_tables(self.tables)

    def merits(self) -> dict[str, float]:
        """The protocol's first metric in the model's first line, for each data set and scale."""
        return first_figures(self.tables["metrics"], self.protocol.headline)

    def report(self) -> str:
        """The table as text, the model's gain over bicubic, where LR came from, which metrics or images of them are
        missing, and where the files are.
        """
        lines = summary(self.tables, self.protocol.headline, self.pixels.channels)
        lines += self.corpora.sentences(self.keys)
        lines += [f"{name} skipped: {why}" for name, why in self.skipped.items()]
        return "\n".join([*lines, f"tables, contact sheet and metrics.json: {self.folder}"])
