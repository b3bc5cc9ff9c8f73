"""The schema of an evaluation's tables: former names, and columns in print."""

import math
import os
from pathlib import Path

import pytest

from linf.data.pairs import readable_name
from linf.evaluation.schema import (
    COLUMNS,
    HEADLINES,
    METRICS,
    PERCEPTUAL,
    TABLES,
    best_end,
    evenly_spaced,
    file_path,
    kept_folder,
    stored_path,
)


def test_every_column_of_a_table_is_described() -> None:
    assert {column for columns in TABLES.values() for column in columns} | set(METRICS) == set(COLUMNS)
    assert set(HEADLINES) | set(PERCEPTUAL) <= set(METRICS)


@pytest.mark.parametrize(
    ("figure", "best"),
    [
        ("val/psnr_x4", "max"),
        ("Set5/x4/self_ssim", "max"),
        ("Set5/x4/ntire_diversity", "max"),
        ("speed/samples_per_s", "max"),
        ("val/lpips", "min"),
        ("Set5/x4/niqe", "min"),
        ("train/loss", "min"),
        ("Set5/x4/detail", None),
    ],
)
def test_the_best_end_of_a_figure_of_merit(figure: str, best: str | None) -> None:
    assert best_end(figure) == best


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [
        ("psnr_y", 30.125, "30.12"),
        ("psnr_y", -1.5, "−1.50"),
        ("psnr_y", -0.004, "0.00"),
        ("psnr_y", math.inf, "∞"),
        ("psnr_y", -math.inf, "−∞"),
        ("ssim", math.nan, "–"),
        ("scale", 3.3, "3.3"),
        ("scale", 2.0, "2"),
        ("images", 100.0, "100"),
    ],
)
def test_values_are_printed_to_the_digits_of_their_column(column: str, value: float, text: str) -> None:
    assert COLUMNS[column].format(value) == text


def test_units_and_directions() -> None:
    assert COLUMNS["psnr_y"].quantity(30) == "30.00 dB"
    assert COLUMNS["psnr_y"].axis == "PSNR (Y), dB ↑"
    assert COLUMNS["lpips_alex"].axis == "LPIPS ↓"
    assert COLUMNS["diversity"].axis == "diversity, grey levels"


def test_former_names_are_found_unless_the_present_one_exists(tmp_path: Path) -> None:
    assert stored_path(tmp_path, "images.csv") == tmp_path / "images.csv"
    (tmp_path / "pictures.csv").touch()
    assert stored_path(tmp_path, "images.csv") == tmp_path / "pictures.csv"
    assert stored_path(tmp_path, "images") == tmp_path / "images"
    (tmp_path / "images.csv").touch()
    assert stored_path(tmp_path, "images.csv") == tmp_path / "images.csv"


def test_long_names_are_kept_apart_in_paths_that_a_file_system_holds(tmp_path: Path) -> None:
    names = ["a/baby", "ö" * 120, *(readable_name(os.fsdecode(b"\xe4" * 70 + end)) for end in (b"1", b"2"))]
    paths = [file_path(name) for name in names]
    assert paths[:2] == names[:2]
    assert len(set(paths)) == 4
    for name in names:
        folder = kept_folder(tmp_path, "set", name, 2)
        folder.mkdir(parents=True)
        folder.with_name(f"{folder.name}.safetensors").touch()


def test_evenly_spaced_keeps_both_ends() -> None:
    assert evenly_spaced(range(21), 6) == [0, 4, 8, 12, 16, 20]
    assert evenly_spaced([1, 2], 6) == [1, 2]
    assert evenly_spaced([], 6) == []
