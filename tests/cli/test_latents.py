"""``linf latents``: the file it writes samples with correlated latents, and its refusals."""

from functools import partial
from pathlib import Path

import pytest
import torch

import linf
from helpers.commands import Linf
from helpers.images import write
from linf.models.baselines import LIIF, LIIFConditioner
from linf.models.encoders import EDSR


def test_it_writes_the_model_with_its_correlation(run: Linf, checkpoint: Path, photos: Path) -> None:
    done = run("latents", checkpoint, "known.safetensors", "--data", photos, "--scales", "2", "1.5")
    assert done.status == 0, done.err
    assert "from 2 images" in done.out
    assert "×1.5: variance" in done.out
    model, before = linf.load("known.safetensors"), linf.load(checkpoint)
    assert model.correlation is not None
    assert model.correlation.config == {"dim": 27, "scales": [1.5, 2.0], "reach": 2}
    lr = torch.rand(1, 3, 8, 9)
    samples = [
        model.sample(lr, (16, 18), temperature=1.0, seed=0, latents=latents)
        for latents in ("independent", "correlated")
    ]
    assert torch.equal(samples[0], before.sample(lr, (16, 18), temperature=1.0, seed=0))
    assert not torch.allclose(*samples)
    assert run("latents", checkpoint, "known.safetensors", "--data", photos).status == 2, "it exists"


def test_lr_is_degraded_as_in_training(run: Linf, checkpoint: Path, photos: Path) -> None:
    told = {}
    for name in ("bicubic", "photo"):
        done = run(
            "latents",
            checkpoint,
            f"{name}.safetensors",
            "--data",
            photos,
            "--scales",
            "2",
            "--degradation",
            name,
        )
        assert done.status == 0, done.err
        told[name] = done.out.partition("variance")[2]
    plain = run("latents", checkpoint, "plain.safetensors", "--data", photos, "--scales", "2")
    assert told["bicubic"] == plain.out.partition("variance")[2]
    assert told["photo"] != told["bicubic"]
    both = run(
        "latents",
        checkpoint,
        "x.safetensors",
        "--data",
        photos,
        "--degradation",
        "mild",
        "--resize",
        "matlab",
    )
    assert both.status == 2
    assert "not allowed with" in both.err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("out.pth",), "saved as .safetensors"),
        (("out.safetensors", "--images", "0"), "--images 0"),
        (("out.safetensors", "--scales", "0.5"), "scales are"),
        (("out.safetensors", "--scales", "2", "2.0000001"), "prints as 2.0 does"),
        (("out.safetensors", "--scales", "2"), "more than 4 patches a side"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    run: Linf, checkpoint: Path, tmp_path: Path, arguments: tuple[str, ...], reason: str
) -> None:
    write(tmp_path / "data" / "small.png", 12, 60)
    done = run("latents", checkpoint, *arguments, "--data", tmp_path / "data")
    assert (done.status, done.err.count("\n")) == (2, 1), done.err
    assert reason in done.err
    assert not (tmp_path / "out.safetensors").exists()


def test_a_folder_that_cannot_be_written_to_is_found_out_before_the_work(
    run: Linf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    for arguments in (("latents", "x", "a/b.safetensors", "--data", "."), ("export", "x", "a/b.pt2")):
        done = run(*arguments)
        assert done.err.endswith(f"{tmp_path} is read-only; choose another folder\n"), done.err


def test_a_missing_folder_is_called_what_the_command_calls_it(run: Linf, tmp_path: Path) -> None:
    for words, name in (
        (("latents", "default", "out.safetensors", "--data", tmp_path, "nowhere"), "--data"),
        (("shard", "nowhere", "out"), "FOLDER"),
    ):
        done = run(*words)
        assert done.status == 2
        assert done.err == f"error: no folder nowhere: give a folder of images as {name}\n"


def test_a_model_without_latents_is_refused(run: Linf, photos: Path, tmp_path: Path) -> None:
    linf.save(LIIF(EDSR(1, 4), partial(LIIFConditioner, width=8, depth=1)), tmp_path / "liif.safetensors")
    done = run("latents", "liif.safetensors", "out.safetensors", "--data", photos)
    assert done.status == 2
    assert "a LIIF has no latents" in done.err
