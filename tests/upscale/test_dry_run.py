"""What an image would take, before it is enlarged; and the short forms of the options."""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.commands import Linf, Outcome
from linf.images.photo import Photo
from linf.models import DEFAULT_TEMPERATURE
from linf.models.baselines import Bicubic
from linf.upscale.enlarge import Ask, Enlarged
from linf.upscale.estimate import estimate, measured_pace


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def upscaled(run: Linf, checkpoint: Path, *arguments: str) -> Outcome:
    return run("upscale", "a.png", *arguments, "--model", checkpoint)


def test_short_options_are_the_long_ones(run: Linf, checkpoint: Path, photo: Path, tmp_path: Path) -> None:
    long = ("--scale", "2", "--temperature", "0.3", "--out", "long.png")
    assert upscaled(run, checkpoint, *long).status == 0
    for scale in ("2x", "x2", "2×"):
        done = upscaled(run, checkpoint, "-s", scale, "-t", "0.3", "-o", "short.png", "--force")
        assert done.out == "short.png, 180×120\n", done.err
        assert (tmp_path / "short.png").read_bytes() == (tmp_path / "long.png").read_bytes()


def test_the_default_temperature_is_the_one_of_python(
    run: Linf, checkpoint: Path, photo: Path, tmp_path: Path
) -> None:
    for name, given in (("default", ()), ("same", ("-t", str(DEFAULT_TEMPERATURE))), ("mean", ("-t", "0"))):
        assert upscaled(run, checkpoint, "-s", "2", "-o", f"{name}.png", *given).status == 0
    default, same, mean = ((tmp_path / f"{n}.png").read_bytes() for n in ("default", "same", "mean"))
    assert default == same != mean


def test_a_dry_run_writes_nothing_and_tells_what_would_be_written(
    run: Linf, checkpoint: Path, photo: Path, tmp_path: Path
) -> None:
    Image.new("RGB", (200, 300)).save(tmp_path / "b.png")
    before = sorted(tmp_path.iterdir())
    done = run("upscale", "a.png", "b.png", "-s", "3", "--model", checkpoint, "--dry-run", "-o", "big/")
    assert done.status == 0, done.err
    assert sorted(tmp_path.iterdir()) == before
    a, b, both = done.out.splitlines()
    assert a.startswith("a.png: 90×60 → 270×180 in big/a_x3.png, about ")
    assert b.startswith("b.png: 200×300 → 600×900 in big/b_x3.png, about ")
    assert both.startswith("2 images: about ")
    assert all(
        re.search(r" \S+ (s|min), [\d.]+ [kMG]B of memory, [\d.]+ [kMG]B on the disk$", line)
        for line in (a, b, both)
    )


def test_what_would_fail_fails_in_a_dry_run(run: Linf, checkpoint: Path, photo: Path, tmp_path: Path) -> None:
    (tmp_path / "a_x2.png").touch()
    done = upscaled(run, checkpoint, "-s", "2", "--dry-run")
    assert (done.status, done.out) == (1, "")
    assert done.err == "a.png: a_x2.png exists; --force overwrites it\n"


def test_a_closed_folder_is_told_before_the_work(run: Linf, photo: Path) -> None:
    given = ("-s", "2", "--model", "bicubic", "--dry-run")
    assert run("upscale", photo, *given).status == 0, "all is imported"
    with tempfile.TemporaryDirectory() as name:  # Pytest's are closed to another user.
        own = Path(shutil.copy(photo, name))
        own.parent.chmod(0o555)
        with another_user():
            done = run("upscale", own, *given)
    assert (done.status, done.out) == (1, "")
    assert re.fullmatch(rf"{own}: cannot write {name}/a_x2.png: Permission denied\n", done.err)


@contextmanager
def another_user() -> Iterator[None]:
    """Give up the rights of root, if this is root, for whom no folder is closed."""
    us = os.geteuid()
    os.seteuid(us or 65534)
    try:
        yield
    finally:
        os.seteuid(us)


def test_files_are_as_large_as_estimated(run: Linf, checkpoint: Path, photo: Path, tmp_path: Path) -> None:
    """The whole image is the trial's part here; of bicubic nothing is random."""
    with Image.open(photo) as file:
        image = Photo(np.asarray(file))
    pace = measured_pace(Bicubic(), image, (2, 2), Ask(0.0), "png", 95)
    needs = estimate(pace, Bicubic(), image, (120, 180), Ask(0.0))
    assert run("upscale", "a.png", "-s", "2", "--model", "bicubic").status == 0
    assert needs.file == pytest.approx((tmp_path / "a_x2.png").stat().st_size, rel=0.01)
    larger = estimate(pace, Bicubic(), image, (6000, 9000), Ask(0.0))
    assert larger.seconds > 100 * needs.seconds
    assert larger.memory - needs.memory == pytest.approx(2 * 3 * (6000 * 9000 - 120 * 180), rel=0.01)


@pytest.mark.parametrize("scale", [(2.0, 2.0), (30.0, 30.0), (1.0, 999.0), (5000.0, 5000.0)])
def test_a_trial_is_small_at_any_scale(monkeypatch: pytest.MonkeyPatch, scale: tuple[float, float]) -> None:
    class Made(Exception):
        pass

    def recorded(model: object, pixels: np.ndarray, size: tuple[int, int], ask: Ask) -> Enlarged:
        if pixels.shape[0] + 1 == size[0]:  # The first call, which is not timed.
            return Enlarged([], None)
        shapes.append((pixels.shape[:2], size))
        raise Made

    shapes: list[tuple[tuple[int, ...], tuple[int, int]]] = []
    monkeypatch.setattr("linf.upscale.estimate.enlarge", recorded)
    with pytest.raises(Made):
        measured_pace(Bicubic(), Photo(np.zeros((300, 200, 3), np.uint8)), scale, Ask(0.0), "png", 95)
    ((low, high),) = shapes
    assert high == tuple(round(n * s) for n, s in zip(low, scale, strict=True))
    assert low == (1, 1) or high[0] * high[1] <= 2**20
    assert low == (128, 128) or scale != (2.0, 2.0)
