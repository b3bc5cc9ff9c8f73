"""An evaluation's folder: every unit that was finished is found again, and nothing else is."""

import hashlib
import json
import math
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import linf
from helpers.paths import ROOT
from linf.coordinates import read_scale
from linf.errors import UsageError
from linf.evaluation.measure import Unit
from linf.evaluation.origin import describe_file, git_commit, weights_digest
from linf.evaluation.record import Record

ABOUT: dict[str, Any] = {
    "label": "LINF",
    "model": {"name": "LINF"},
    "weights": "ab",
    "protocol": {"headline": "psnr_y"},
    "metrics": ["psnr_rgb"],
    "temperatures": [0, 0.8],
    "samples": 1,
    "seed": 0,
}
KEYS = [("Set5", "baby", 2.0), ("Set5", "bird", 2.0), ("Set5", "baby", 3.3)]


def unit(value: float) -> Unit:
    rows = [
        {"system": "bicubic", "temperature": None, "psnr_y": value},
        {"system": "τ=0.8", "temperature": 0.8, "psnr_y": value + 1},
    ]
    calibration = [{"kind": "pixel", "nominal": 0.9, "covered": 0.8}]
    deviations = [{"system": "τ=0.8", "temperature": 0.8, "psnr_y": value / 100}]
    return Unit(rows, {"bits_per_dim": value}, calibration, deviations)


def test_units_are_read_by_every_rank(tmp_path: Path) -> None:
    first, second = (Record(tmp_path, ABOUT, rank) for rank in (0, 1))
    first.add(KEYS[0], unit(30.0))
    second.add(KEYS[2], unit(math.inf))
    assert Record(tmp_path, ABOUT).units == {KEYS[0]: unit(30.0), KEYS[2]: unit(math.inf)}
    tables = first.tables(KEYS)
    assert list(tables["images"]["image"]) == ["baby"] * 4
    assert list(tables["images"].columns) == [
        "dataset",
        "image",
        "scale",
        "system",
        "temperature",
        "psnr_y",
    ]
    assert list(tables["distribution"]["scale"]) == [2.0, 3.3]
    assert list(tables["calibration"]["covered"]) == [0.8, 0.8]
    assert len(first.tables(KEYS[:1])["images"]) == 2, "only what is asked for"


def test_names_with_any_line_separator_are_found_again(tmp_path: Path) -> None:
    keys = [("Set5", f"a{separator}b", 2.0) for separator in "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"]
    record = Record(tmp_path, ABOUT)
    for key in keys:
        record.add(key, unit(30.0))
    assert list(Record(tmp_path, ABOUT).units) == keys
    assert len(record.tables(keys)["images"]) == 2 * len(keys)


def test_what_is_finished_but_in_no_table_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "linf")
    record = Record(tmp_path, ABOUT)
    for key in (*KEYS, ("Set14", "baboon", read_scale([1.5, 4]))):
        record.add(key, unit(30.0))
    again = Record(tmp_path, ABOUT)
    assert again.finished(KEYS[:2]) == KEYS[:2]
    assert "2 of 2 images, counting each scale, are finished in" in caplog.text
    assert (
        "not in the tables of this command: Set14 ×1.5x4, Set5 ×3.3 (2 images); give "
        "'data.test_scales=[2.0,[1.5,4],3.3]' and these data sets to have them too" in caplog.text
    )
    caplog.clear()
    again.finished([*again.units])
    assert "not in the tables" not in caplog.text


def test_truncated_unit_is_measured_again(tmp_path: Path) -> None:
    record = Record(tmp_path, ABOUT)
    for key in KEYS:
        record.add(key, unit(30.0))
    file = tmp_path / "units" / "rank_0.jsonl"
    whole = file.read_bytes()
    last = whole.rindex(b"\n", 0, -1)
    for cut in range(last + 2, len(whole) - 1, 7):
        file.write_bytes(whole[:cut])
        again = Record(tmp_path, ABOUT)
        assert again.units.keys() == set(KEYS[:2])
        again.add(KEYS[2], unit(31.0))
        assert Record(tmp_path, ABOUT).units[KEYS[2]] == unit(31.0)


def test_an_image_is_measured_again_though_the_clock_was_set_back(tmp_path: Path) -> None:
    Record(tmp_path, ABOUT).add(KEYS[0], unit(30.0)._replace(digest="former", at=2e9))
    again = Record(tmp_path, ABOUT)
    again.leave_out_outdated({KEYS[0]: lambda: "present"})
    again.add(KEYS[0], unit(31.0)._replace(digest="present", at=1e9))
    assert list(again.tables(KEYS)["images"]["psnr_y"]) == [31.0, 32.0]
    assert Record(tmp_path, ABOUT).units[KEYS[0]].digest == "present"


@pytest.mark.parametrize("line", ["5", "null", '["Set5","a",2]', '["Set5","a","two",[],{},[]]'])
def test_a_line_that_is_no_unit_is_left_out(tmp_path: Path, line: str) -> None:
    Record(tmp_path, ABOUT).add(KEYS[0], unit(30.0))
    with open(tmp_path / "units" / "rank_0.jsonl", "a") as file:
        file.write(f"{line}\n")
    assert Record(tmp_path, ABOUT).units.keys() == {KEYS[0]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"temperatures": [0, 0.7]}, r"temperatures is \[0, 0\.8\] there and \[0, 0\.7\] here"),
        ({"weights": "cd"}, "weights is ab there and cd here"),
        ({"metrics": ["psnr_y"]}, r"metrics is \['psnr_rgb'\] there"),
    ],
)
def test_folder_of_another_evaluation_is_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    Record(tmp_path, ABOUT).add(KEYS[0], unit(30.0))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match=words):
        Record(tmp_path, ABOUT | change)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    Record(tmp_path, ABOUT | {"label": "another word", "scales": [2, 3]})


def test_reason_of_a_skipped_metric_may_change(tmp_path: Path) -> None:
    about = ABOUT | {"skipped": {"lpips_alex": "the weights are missing"}}
    Record(tmp_path, about).add(KEYS[0], unit(30.0))
    assert Record(tmp_path, ABOUT | {"skipped": {"lpips_alex": "alexnet was not fetched"}}).units
    with pytest.raises(UsageError, match=r"skipped is \['lpips_alex'\] there and \[\] here"):
        Record(tmp_path, ABOUT)


def test_damaged_run_json_is_an_error(tmp_path: Path) -> None:
    Record(tmp_path, ABOUT).add(KEYS[0], unit(30.0))
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(UsageError, match=r"run\.json cannot be read"):
        Record(tmp_path, ABOUT)


@pytest.mark.parametrize(
    ("there", "words"),
    [
        ([], "label, model"),
        (ABOUT | {"skipped": 5}, "skipped"),
        (ABOUT | {"measured_by": [{"psnr_y": ""}]}, "measured_by"),
        (ABOUT | {"lr": {"Set5": {"2": {}}}}, "lr"),
    ],
)
def test_run_json_of_another_kind_is_an_error(tmp_path: Path, there: Any, words: str) -> None:
    Record(tmp_path, ABOUT).add(KEYS[0], unit(30.0))
    (tmp_path / "run.json").write_text(json.dumps(there))
    with pytest.raises(UsageError, match=rf"run\.json was not written by .* \(see its {words}"):
        Record(tmp_path, ABOUT)


@contextmanager
def full_disk() -> Iterator[None]:
    """No longer than a test needs it: the log of the tests may be a file."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (700, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_full_disk_is_an_error_and_keeps_units(tmp_path: Path) -> None:
    tmp_path = tmp_path / "my run"
    record = Record(tmp_path, ABOUT)
    record.add(KEYS[0], unit(30.0))
    wrong = f"cannot write to {tmp_path}: .*File too large.*with 'hydra.run.dir={tmp_path}' goes on"
    with full_disk(), pytest.raises(UsageError, match=wrong):
        [record.add(("Set5", str(i), 2.0), unit(30.0)) for i in range(9)]
    assert Record(tmp_path, ABOUT).units[KEYS[0]] == unit(30.0)
    with full_disk(), pytest.raises(UsageError, match="File too large"):
        record.keep(tmp_path / "noise", torch.rand(3, 40, 40))
    assert not list(tmp_path.glob("*noise*"))


def test_images_are_png_and_maps_are_arrays(tmp_path: Path) -> None:
    record = Record(tmp_path, ABOUT)
    image = torch.rand(3, 5, 7)
    record.keep(tmp_path / "a" / "τ=0.8", image * 3 - 1)
    record.keep(tmp_path / "a" / "deviation", image[0])
    pixels = np.asarray(Image.open(tmp_path / "a" / "τ=0.8.png"))
    assert np.array_equal(
        pixels, (image * 3 - 1).clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()
    )
    assert np.load(tmp_path / "a" / "deviation.npy") == pytest.approx(image[0].numpy(), abs=1e-3)


def test_digests_differ_between_models_and_files(checkpoint: Path, tmp_path: Path) -> None:
    model, again = linf.load(checkpoint), linf.load(checkpoint)
    assert weights_digest(model) == weights_digest(again)
    with torch.no_grad():
        again.flow.bias[0, 0] += 1e-6  # type: ignore[union-attr]
    assert weights_digest(model) != weights_digest(again)
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert describe_file(checkpoint) == {"path": str(checkpoint), "sha256": digest}
    assert describe_file(None) is None


def test_git_commit_is_that_of_the_code() -> None:
    done = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True)
    found = git_commit()
    if done.returncode:
        assert found is None
    else:
        assert found is not None
        assert found["commit"] == done.stdout.strip()
        assert json.dumps(found)
