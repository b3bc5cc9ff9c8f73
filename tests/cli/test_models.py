"""The models in the package, by name."""

import torch

import linf
from helpers.commands import Linf
from linf.checkpoints.shipped import SHIPPED, shipped_file
from linf.models.linf import LINF


def test_models_are_listed_with_size_training_and_limits(run: Linf) -> None:
    done = run("models")
    assert done.status == 0
    for name, model in SHIPPED.items():
        for words in (name, model.take, model.training, model.limits, "2,057,176 parameters, 4.1 MB"):
            assert words in done.out


def test_names_stand_for_files() -> None:
    assert (shipped_file("photo").parent.name, shipped_file("photo").name) == ("zoo", "photo.safetensors")
    assert shipped_file("photo.safetensors") is None
    for name in SHIPPED:
        model = linf.load(name)
        assert isinstance(model, LINF)
        assert list(model.usual_deviation) == [2, 3, 4]


def test_both_models_fit_the_package() -> None:
    assert sum(shipped_file(name).stat().st_size for name in SHIPPED) <= 9e6


def test_photo_is_another_model_than_default() -> None:
    lr = torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    images = [linf.load(name).sample(lr, (60, 60), temperature=0) for name in SHIPPED]
    # Of an image that is all noise, one model keeps the noise, and the other removes it.
    assert images[0].std() < 0.9 * images[1].std()
