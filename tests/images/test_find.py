"""Finding image files: each once, over links and loops, without the copies that systems keep; everywhere alike."""

import logging
import os
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from helpers.commands import Command, Linf
from helpers.images import write
from linf.data.sources import image_folder
from linf.images.find import SYSTEM_FOLDERS, find_images
from linf.images.read import IMAGE_SUFFIXES, READ, read_image


def linked(root: Path) -> Path:
    """A folder with one photograph, which links to files, to folders and to the folder itself lead to as well."""
    real = write(root / "real" / "photo.png", 24, 24)
    (root / "a_link.png").symlink_to(real)
    (root / "a_folder").symlink_to(real.parent)
    (root / "real" / "loop").symlink_to(root)
    (root / "gone.png").symlink_to(root / "nowhere.png")
    (root / "self").symlink_to(root / "self")
    return root


def cluttered(root: Path) -> Path:
    """A folder with two photographs, and copies of them where systems keep some."""
    for name in ("photo.png", "sub/other.jpg"):
        write(root / name, 24, 24)
    for folder in (".ipynb_checkpoints", "@eaDir/photo.png", ".thumbnails", "__MACOSX", "#recycle", "Thumbs"):
        write(root / "sub" / folder / "photo-checkpoint.png", 24, 24)
    write(root / "._photo.png")
    write(root / ".hidden" / "deep" / "photo.png")
    return root


def test_one_photograph_linked_three_ways_counts_once(tmp_path: Path, command: Command, run: Linf) -> None:
    linked(tmp_path / "in")
    given = ("model=bicubic", "data=folder", "data.root=in", "data.test_scales=[2]", "data.num_workers=0")
    done = command("eval", *given, "metrics=fidelity", "hydra.run.dir=run")
    assert done.status == 0, done.err
    assert pd.read_csv(tmp_path / "run" / "images.csv")["image"].tolist() == ["photo"]
    assert "3 links to what is counted already" in (tmp_path / "run" / "eval.log").read_text()
    assert len(image_folder(tmp_path / "in")) == 1
    done = run("upscale", "in", "in/real/photo.png", "--scale", "2", "--model", "bicubic", "--out", "out")
    assert [str(path.relative_to(tmp_path)) for path in (tmp_path / "out").rglob("*.png")] == [
        "out/real/photo_x2.png"
    ]
    assert "note: in: left out: " in done.err
    assert "gone.png" in done.err


def test_links_below_the_root_are_followed(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere" / "deep" / "photo.png")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere")
    assert find_images(tmp_path / "in").paths == [tmp_path / "in" / "link" / "deep" / "photo.png"]
    (tmp_path / "root").symlink_to(tmp_path / "in")
    assert len(find_images(tmp_path / "root").paths) == 1


def test_copies_of_systems_are_left_out_and_told_once(
    tmp_path: Path, command: Command, run: Linf, caplog: pytest.LogCaptureFixture
) -> None:
    cluttered(tmp_path / "in")
    given = (
        "experiment=smoke",
        "data=folder",
        "data.root=in",
        "trainer.max_epochs=1",
        "data.batches_per_epoch=1",
    )
    done = command("train", *given, "data.crop=8", "data.test=null", "hydra.run.dir=run")
    assert done.status == 0, done.err
    log = (tmp_path / "run" / "train.log").read_text()
    assert log.count("left out: hidden files and folders") == 1
    for name in (".hidden", "@eaDir", "#recycle"):
        assert name in log
    with caplog.at_level(logging.INFO):
        assert [path.name for path in image_folder(tmp_path / "in").hr] == ["photo.png", "other.jpg"]
    done = run("upscale", "in", "--scale", "2", "--model", "bicubic", "--out", "out")
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.*")) == ["other_x2.jpg", "photo_x2.png"]
    assert done.err.count("left out") == 1
    done = run("upscale", "in/**/*.png", "--scale", "2", "--model", "bicubic", "--out", "glob")
    assert [path.name for path in (tmp_path / "glob").rglob("*.png")] == ["photo_x2.png"]


def test_images_of_kinds_that_are_not_read_are_told(tmp_path: Path) -> None:
    write(tmp_path / "photo.png")
    for name in ("IMG_1.HEIC", "b/IMG_2.heic", "c.dng", ".hidden.heic", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert find_images(tmp_path).note == (
        "left out: images of kinds that are not read (1 .dng, 2 .heic): convert them, for instance to PNG"
    )


def test_a_folder_may_be_called_anything_if_it_is_given(tmp_path: Path) -> None:
    for name in (".cache", "Thumbs", *SYSTEM_FOLDERS):
        write(tmp_path / name / "photo.png")
        assert len(find_images(tmp_path / name).paths) == 1
    assert find_images(tmp_path).paths == []


def test_folders_and_files_read_the_same_suffixes(tmp_path: Path, run: Linf) -> None:
    Image.init()
    pillows = {suffix for suffix, form in Image.registered_extensions().items() if form in (*READ, "MPO")}
    assert pillows - {".pfm"} == IMAGE_SUFFIXES
    for suffix in IMAGE_SUFFIXES:
        form = Image.registered_extensions()[suffix]
        Image.new("RGB" if suffix != ".pbm" else "1", (8, 8)).save(tmp_path / f"a{suffix}", form)
        assert read_image(tmp_path / f"a{suffix}").shape == (8, 8, 3)
    assert len(find_images(tmp_path).paths) == len(IMAGE_SUFFIXES)
    for word in (".", *(f"a{suffix}" for suffix in IMAGE_SUFFIXES)):
        done = run(
            "upscale", word, "--scale", "2", "--model", "bicubic", "--out", f"to{word}/", "--format", "webp"
        )
        one = done.status == 0 and len(list((tmp_path / f"to{word}").glob("*.webp"))) == 1
        assert one or word == ".", done.err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read all folders")
def test_a_folder_that_may_not_be_read_is_told(tmp_path: Path) -> None:
    write(tmp_path / "closed" / "photo.png")
    (tmp_path / "closed").chmod(0)
    assert "closed" in find_images(tmp_path).note
