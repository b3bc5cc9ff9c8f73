"""Features of the patches of every image, kept in a file each, and the distances between all of SR and all of HR.

A distance of all images together is no mean over images. What it needs of an image is therefore kept beside the image's
line in ``units/``, and the distance is taken from all files at the end: the same on any number of ranks, and however
often an evaluation was interrupted.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from linf.errors import UsageError
from linf.evaluation.measure import Features
from linf.evaluation.record import Key
from linf.evaluation.schema import column, file_path
from linf.files import atomic_write, folder_errors
from linf.metrics.corpus import CorpusMetric, PatchFeatures

FEW_PATCHES = 2048
"""Below this number of patches, that of its features, FID is told to be biased."""


class Corpora:
    """The features of an evaluation's images.

    Args:
        folder: of the evaluation; files are ``features/NETWORK/DATASET/xSCALE/IMAGE.safetensors``.
        metrics: of all images together, by name.

    Attributes:
        networks: what computes features, by name; metrics with equal settings share one.
    """

    def __init__(self, folder: Path, metrics: Mapping[str, CorpusMetric]) -> None:
        self.folder, self.metrics = folder / "features", metrics
        self.networks: dict[str, PatchFeatures] = {}
        for metric in metrics.values():
            self.networks.setdefault(metric.features.name, metric.features)

    def keep(self, key: Key, features: Features) -> None:
        """Write the features of an image, whole or not at all; before it counts as finished.

        Raises:
            UsageError: the folder cannot be written to.
        """
        for name, of in features.items():
            path = self._path(key, name)
            with folder_errors(path.parent), atomic_write(path) as part:
                part.write_bytes(safetensors.torch.save(of))

    def has(self, key: Key) -> bool:
        """Whether all features of an image are there."""
        return all(self._path(key, name).is_file() for name in self.networks)

    def complete(self, metrics: pd.DataFrame, keys: Sequence[Key]) -> pd.DataFrame:
        """The table of that name with a column more for each metric of all images together, over these images.

        Raises:
            UsageError: a file of features is damaged.
        """
        columns: dict[str, list[float]] = {figure: [] for figure in self.metrics}
        for place, lines in metrics.groupby(["dataset", "scale"], sort=False):
            of = [key for key in keys if key[::2] == place]
            for figure, metric in self.metrics.items():
                hr = self._read(of, metric.features.name, "HR")
                for system in lines["system"]:
                    columns[figure].append(metric.distance(self._read(of, metric.features.name, system), hr))
        return metrics.assign(**columns)

    def sentences(self, keys: Sequence[Key]) -> list[str]:
        """How many patches each metric is of, a sentence for each metric, data set and scale."""
        sentences = []
        for place in dict.fromkeys(key[::2] for key in keys):
            of = [key for key in keys if key[::2] == place]
            for figure, metric in self.metrics.items():
                patches = len(self._read(of, metric.features.name, "HR"))
                biased = ", too few for its value to mean much; compare systems by it, not papers"
                sentences.append(
                    f"{column(figure).title} on {place[0]} at ×{place[1]:g} is of "
                    f"{patches} patches{biased * (patches < FEW_PATCHES)}"
                )
        return sentences

    def _read(self, keys: Sequence[Key], name: str, system: str) -> Tensor:
        """Features of some images, one after the other in their order: (n,F)."""
        parts = []
        for key in keys:
            path = self._path(key, name)
            try:
                with safe_open(path, framework="pt") as opened:
                    parts.append(opened.get_tensor(system))
            except (OSError, SafetensorError) as error:
                raise UsageError(
                    f"cannot read {path} ({error}): delete it, and the same command measures its image again"
                ) from error
        return torch.cat(parts)

    def _path(self, key: Key, name: str) -> Path:
        dataset, image, scale = key
        return self.folder / name / file_path(dataset) / f"x{scale:g}" / f"{file_path(image)}.safetensors"
