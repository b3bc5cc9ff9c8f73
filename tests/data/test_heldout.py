"""Which images of a user's folder are validated on and not trained on."""

import shutil
from pathlib import Path
from zlib import crc32

import pytest

from helpers.commands import Command
from helpers.runs import TINY
from linf.data.datamodule import SRDataModule
from linf.data.heldout import training_images, validation_images
from linf.errors import UsageError
from linf.training.callbacks.summary import _warn_of_others


def folder(home: Path, photos: Path, *names: str) -> Path:
    """A folder with copies of one image."""
    source = next(photos.iterdir())
    for name in names:
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, home / name)
    return home


def split(root: Path) -> tuple[list[str], list[str]]:
    """Names of the images to train on and to validate on."""
    validated = validation_images(root, root)
    trained = training_images(root, validated)
    return [p.name for p in trained.hr], [p.name for p in validated.hr] if validated else []


@pytest.mark.parametrize(("images", "held"), [(2, 1), (19, 1), (20, 2), (150, 10)])
def test_a_tenth_and_at_most_ten(tmp_path: Path, photos: Path, images: int, held: int) -> None:
    names = [f"{n:03}.png" for n in range(images)]
    trained, validated = split(folder(tmp_path / "in", photos, *names))
    assert len(validated) == held
    assert sorted(trained + validated) == names
    # A rank, a resumed run and a folder that was moved choose the same.
    moved = (tmp_path / "in").rename(tmp_path / "elsewhere")
    assert split(moved) == (trained, validated)


def test_one_image_is_trained_on(tmp_path: Path, photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert split(folder(tmp_path, photos, "a.png")) == (["a.png"], [])
    assert "one image, which is trained on" in caplog.text


def test_own_folders_for_validation_win(tmp_path: Path, photos: Path) -> None:
    root = folder(tmp_path / "in", photos, *(f"train/{n}.png" for n in range(30)), "Val/x.png", "Val/y.png")
    trained, validated = split(root)
    assert (len(trained), validated) == (30, ["x.png", "y.png"])
    assert len(split(root / "Val")[0]) == 1, "where all are in one, it is like any other folder"
    (tmp_path / "val").mkdir()
    root = root.rename(tmp_path / "val" / "in")
    assert split(root) == (trained, validated), "wherever the folder itself lies"
    other = folder(tmp_path / "other", photos, "z.png")
    own = validation_images(other, root)
    assert own is not None
    assert [p.name for p in own.hr] == ["z.png"]
    assert len(training_images(root, own).hr) == 32


def test_images_of_a_scene_at_other_scales_are_left_out_too(tmp_path: Path, photos: Path) -> None:
    names = [f"x{s}/{n}_{kind}.png" for s in (2, 4) for n in "abc" for kind in ("HR", f"LR{s}")]
    root = folder(tmp_path, photos, *names)
    validated = validation_images(root, root)
    assert validated is not None
    (scene,) = {path.stem.removesuffix("_HR") for path in validated.hr}
    trained = training_images(root, validated)
    every = [*trained.hr, *sum(trained.lr.values(), ()), *sum(trained.hr_at.values(), ())]
    assert every
    assert scene not in {path.stem.split("_")[0] for path in every}
    for s, lr in trained.lr.items():
        assert len(lr) == len(trained.hr_at.get(s, trained.hr))


@pytest.mark.slow
def test_a_training_says_which_images_it_validates_on(command: Command, tmp_path: Path, photos: Path) -> None:
    root = folder(tmp_path / "in", photos, *(f"{n}.png" for n in range(12)))
    (held,) = split(root)[1]
    given = ("data=folder", "data.root=in", "data.crop=8", "data.val_crop=24", "hydra.run.dir=run")
    done = command("train", *TINY, *given)
    assert done.status == 0, done.err
    log = (tmp_path / "run" / "train.log").read_text()
    assert f"in: 1 of 12 images are validated on and not trained on: {held}" in log
    assert f"trained on: 11 images of in, in {root}" in log
    assert f"validated on: 1 image of in-validation at ×2, ×3.3: {held} (validation_images.txt)" in log
    assert (tmp_path / "run" / "validation_images.txt").read_text() == f"{root / held}\n"
    # One that comes first takes the place of it.
    first = next(name for n in range(999) if crc32((name := f"new{n}.png").encode()) < crc32(held.encode()))
    folder(root, photos, first)
    again = command("train", *TINY, *given, "trainer.max_epochs=2")
    assert again.status == 0, again.err
    assert f"validated on other images than before (new: {first}; no longer: {held})" in again.out + again.err


def test_names_with_any_line_separator_are_the_same_images(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = [tmp_path / f"a{separator}b.png" for separator in "\x0b\x1c\x85\u2028"]
    file = tmp_path / "validation_images.txt"
    file.write_text("".join(f"{path}\n" for path in paths), encoding="utf-8")
    _warn_of_others(file, paths)
    assert not caplog.text


def test_an_image_that_cannot_be_read_is_left_out(
    tmp_path: Path, photos: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = folder(tmp_path / "in", photos, *(f"{n}.png" for n in range(20)))
    broken, other = split(root)[1]
    (root / broken).write_bytes((root / broken).read_bytes()[:200])
    data = SRDataModule(None, validation_images(root, root), cache_dir=str(tmp_path / "cache"))
    data.setup("validate")
    assert data.val_pairs is not None
    assert [path.name for path in data.val_pairs.hr.paths] == [other]
    assert f"dropped: {root / broken}" in caplog.text


def test_a_missing_folder_of_validation_is_called_by_its_setting(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no folder .*gone: set data\.val\.root to a folder"):
        validation_images(tmp_path / "gone", training=tmp_path)
