"""What a model notes of its training's images when the training ends."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.images import photograph
from linf.checkpoints.native import load
from linf.data.datamodule import SRDataModule
from linf.data.degradation import Degradation
from linf.data.rounds import Noise, Round
from linf.data.sources import image_folder
from linf.models.baselines import Bicubic
from linf.models.deviation import quiet_deviation
from linf.models.linf import LINF
from linf.training.usual import learn_usual_deviation

CPU = torch.device("cpu")


@pytest.fixture
def model(checkpoint: Path) -> LINF:
    found = load(checkpoint)
    assert isinstance(found, LINF)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for n in range(3):
        Image.fromarray(photograph(100, 90 + n, seed=n)).save(tmp_path / f"{n}.png")
    return tmp_path


def training(folder: Path, **given: object) -> SRDataModule:
    data = SRDataModule(
        image_folder(folder),
        crop=12,
        queries=9,
        repeat=8,
        batch_size=2,
        cache_dir=str(folder / "cache"),
        **given,
    )
    data.setup("fit")
    return data


@pytest.mark.parametrize("scale", [(1, 4), (2, 4)])
def test_the_limit_at_each_scale_covers_the_training_images(
    model: LINF, folder: Path, scale: tuple[float, float]
) -> None:
    assert learn_usual_deviation(model, training(folder, scale=scale), 500, CPU)
    assert list(model.usual_deviation) == [2, 3, 4]
    with Image.open(folder / "0.png") as image:
        lr = (
            torch.from_numpy(np.array(image.resize((45, 50), Image.Resampling.BICUBIC))).permute(2, 0, 1)[
                None
            ]
            / 255
        )
    assert quiet_deviation(model, lr, (100, 90)) == pytest.approx(model.usual_deviation[2], rel=0.5)


def test_a_short_training_and_other_models_note_nothing(model: LINF, folder: Path) -> None:
    assert not learn_usual_deviation(model, training(folder), 499, CPU)
    assert model.usual_deviation == {}
    assert not learn_usual_deviation(Bicubic(), training(folder), 500, CPU)


def test_images_are_degraded_as_in_training(
    model: LINF, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(
        "linf.training.usual.usual_deviation", lambda _, images: seen.append(list(images)) or {2.0: 1.0}
    )
    for degradation in (None, Degradation(Round(noise=Noise(1.0, 10.0, 0.0)))):
        learn_usual_deviation(model, training(folder, degradation=degradation), 500, CPU)
    clean, noisy = seen
    assert len(clean) == len(noisy) == 9
    for (a, size), (b, other) in zip(clean, noisy, strict=True):
        assert size == other
        assert 255 * float((a - b).std()) == pytest.approx(10, rel=0.2)


def test_given_pairs_are_looked_at_as_they_are(model: LINF, tmp_path: Path) -> None:
    for n in range(2):
        hr = Image.fromarray(photograph(100, 80, seed=n))
        for name, image in (("HR", hr), ("LR", hr.resize((32, 40), Image.Resampling.BOX))):
            (tmp_path / name).mkdir(exist_ok=True)
            image.save(tmp_path / name / f"{n}.png")
    assert learn_usual_deviation(model, training(tmp_path, pairs=True, scale=(2, 3)), 500, CPU)
    assert list(model.usual_deviation) == [2.5]
