"""The folder of an evaluation: a record of every finished image, from which an interrupted evaluation continues.

``units/`` holds one line of JSON for each image and scale, in one file per process; a kill loses at most the line that
was being written. ``run.json`` says what was evaluated and how; only an evaluation with the same settings continues in
its folder. The tables of `linf.evaluation.schema` are written at the end.
"""

import io
import json
import logging
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from torch import Tensor

from linf.coordinates import AxisScales, Scale, read_scale
from linf.errors import UsageError, shorten
from linf.evaluation.about import wrong_entries
from linf.evaluation.comparable import decisive_differences
from linf.evaluation.measure import Unit
from linf.evaluation.schema import FORMER_NAMES, UNIT
from linf.files import atomic_write, file_errors
from linf.images.pixels import PixelFormat, shown_channels
from linf.images.tiff import write_layers

log = logging.getLogger(__name__)

Key = tuple[str, str, Scale]
"""Data set, image and scale."""


class Record:
    """The folder of an evaluation.

    Args:
        folder: where results go.
        about: the content of ``run.json``.
        rank: of this process; rank 0 writes ``run.json`` and the tables.

    Attributes:
        units: what was finished before this evaluation began, by data set, image and scale.
        outdated: what `leave_out_outdated` took from it.

    Raises:
        UsageError: the folder holds an evaluation with other settings, or cannot be written.
    """

    def __init__(self, folder: Path, about: dict[str, Any], rank: int = 0) -> None:
        self.folder, self.about, self.rank = folder, dict(about), rank
        self.units, self.outdated = self._read(), dict[Key, Unit]()
        if rank == 0:
            self._write(folder / "run.json", _json(self.about))

    def _read(self) -> dict[Key, Unit]:
        lines = [
            line
            for file in sorted(self.folder.glob("units/*.jsonl"))
            # Not by splitlines, which also ends lines at letters that a name may have, such as U+2028.
            for line in file.read_text(encoding="utf-8", errors="replace").split("\n")
            if line
        ]
        if lines:
            self._check_same()
        units = dict[Key, Unit]()
        for line in lines:
            try:
                dataset, image, scale, *content = json.loads(line)
                key, unit = (dataset, image, read_scale(scale)), Unit(*content)
            except (ValueError, TypeError):  # A kill cut the line short, or somebody edited it.
                continue
            if key not in units or unit.at >= units[key].at:
                units[key] = unit
        return units

    def leave_out_outdated(self, digests: Mapping[Key, Callable[[], str]]) -> None:
        """Leave out of `units` those that were measured on other images of the same names.

        Args:
            digests: what gives the digest of each image that is evaluated as it is now, see `Unit.digest`.
        """
        there = {key: self.units[key] for key in digests if key in self.units}
        self.outdated = {
            key: unit for key, unit in there.items() if unit.digest not in (None, digests[key]())
        }
        self.units = {key: unit for key, unit in self.units.items() if key not in self.outdated}
        if self.outdated and self.rank == 0:
            log.warning(
                "measured again, for %s holds figures of other images of these names: %s",
                *(self.folder, shorten([f"{image} ×{scale:g}" for _, image, scale in self.outdated])),
            )

    def _check_same(self) -> None:
        path = self.folder / "run.json"
        try:
            there = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UsageError(f"{path} cannot be read ({error}): choose another folder") from error
        if wrong := wrong_entries(there):
            raise UsageError(
                f"{path} was not written by this version's `linf eval` (see its {', '.join(wrong)}): choose another "
                "folder"
            )
        found = decisive_differences(there, json.loads(_json(self.about)))
        for dataset, scales in (there.get("lr") or {}).items():
            # What was evaluated earlier stays on record.
            self.about.setdefault("lr", {})[dataset] = scales | self.about.get("lr", {}).get(dataset, {})
        if found:
            raise UsageError(
                f"{self.folder} holds an evaluation with other settings: {', '.join(found)}; give the "
                "same settings, or choose another folder with hydra.run.dir=…"
            )

    def finished(self, keys: Sequence[Key]) -> list[Key]:
        """Those of some images that were finished before; a line says how many, and another one what else is there."""
        finished = [key for key in keys if key in self.units]
        if finished:
            message = "%d of %d images, counting each scale, are finished in %s"
            log.info(message, len(finished), len(keys), self.folder)
        if others := set(self.units).difference(keys):
            places = sorted({f"{dataset} ×{scale:g}" for dataset, _, scale in others})
            scales = sorted({scale for *_, scale in (*keys, *others)})
            every = shlex.quote(f"data.test_scales={scales}".replace(" ", ""))
            log.info(
                "finished in %s too, but not in the tables of this command: %s (%d images); give %s "
                "and these data sets to have them too, not measured again",
                *(self.folder, shorten(places), len(others), every),
            )
        return finished

    def add(self, key: Key, unit: Unit) -> None:
        """Append what was measured of one image at one scale."""
        if key in self.outdated:  # Whatever a clock said that has been set back since.
            unit = unit._replace(at=max(unit.at, math.nextafter(self.outdated[key].at, math.inf)))
        path = self.folder / "units" / f"rank_{self.rank}.jsonl"
        line = json.dumps([*key, *unit], ensure_ascii=False, default=_plain)
        with self._errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"\n{line}\n")  # On a line of its own, even after one that a kill cut short.

    def keep(self, path: Path, image: Tensor, pixels: PixelFormat = PixelFormat()) -> None:
        """Write an image (C,H,W), clamped to [0, 1], as PNG of RGB, or a map (H,W) as an array in half precision. An
        image that is not RGB of 8 bits is also written whole, as TIFF.

        Args:
            path: of the file, without its suffix.
            image: on the host.
            pixels: what images are.
        """
        content = io.BytesIO()
        if image.ndim == 2:
            np.save(content, image.numpy().astype(np.float16))
        else:
            shown = shown_channels(image).clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()
            Image.fromarray(shown).save(content, "PNG")
            if pixels.settings:
                layers = io.BytesIO()
                write_layers(layers, pixels.values(image.permute(1, 2, 0).numpy()), "contig")
                self._write(path.with_name(path.name + ".tif"), layers.getvalue())
        self._write(path.with_name(path.name + (".npy" if image.ndim == 2 else ".png")), content.getvalue())

    def _write(self, path: Path, content: bytes) -> None:
        with self._errors(), atomic_write(path) as part:
            part.write_bytes(content)

    def _errors(self) -> AbstractContextManager[None]:
        same = shlex.quote(f"hydra.run.dir={self.folder}")
        remedy = f"what is finished stays there, and the same command with {same} goes on"
        return file_errors(f"cannot write to {self.folder}", remedy)

    def tables(self, keys: Sequence[Key]) -> dict[str, pd.DataFrame]:
        """Tables of what all processes have measured of some images: ``images``, ``distribution``, ``calibration`` and
        ``deviations``. The last three are only there for LINF.
        """
        units = {key: unit for key, unit in self._read().items() if unit != self.outdated.get(key)}
        found = [(dict[str, Any](zip(UNIT, key, strict=True)), units[key]) for key in keys if key in units]
        tables = {
            "images": [of | row for of, unit in found for row in unit.rows],
            "distribution": [of | unit.distribution for of, unit in found if unit.distribution],
            "calibration": [of | row for of, unit in found for row in unit.calibration],
            "deviations": [of | row for of, unit in found for row in unit.deviations],
        }
        return {name: pd.DataFrame(lines) for name, lines in tables.items() if lines}

    def write_tables(self, tables: Mapping[str, pd.DataFrame]) -> None:
        """Write each table as CSV, and the metrics as ``metrics.json`` too."""
        for name, table in tables.items():
            self._write(
                self.folder / f"{name}.csv", table.to_csv(index=False).encode(errors="backslashreplace")
            )
        for former in FORMER_NAMES:
            (self.folder / f"{former}.csv").unlink(missing_ok=True)  # Superseded.
        # JSON knows no infinity (a perfect image) and no NaN (an image too small for SSIM).
        unknown = tables["metrics"].isin([math.nan, math.inf, -math.inf])
        plain = tables["metrics"].astype(object).mask(unknown, None).to_dict("records")
        self._write(self.folder / "metrics.json", _json(plain))


def _json(content: Any) -> bytes:
    # Half a character, of a file's name in another encoding, is written as JSON's own escape.
    text = json.dumps(content, indent=2, ensure_ascii=False, default=_plain)
    return f"{text}\n".encode(errors="backslashreplace")


def _plain(value: object) -> str:
    """What JSON has no type for, but `read_scale` reads."""
    if isinstance(value, AxisScales):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not written to JSON")
