"""What a teacher answers for patches, and the error against it."""

import copy
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from linf.checkpoints.native import save
from linf.coordinates import patch_centres
from linf.data.crops import SRBatch
from linf.losses.distillation import Teacher
from linf.losses.flow import Finetune
from linf.models.baselines import LIIF, LTE, LIIFConditioner, Regression
from linf.models.conditioner import FourierConditioner
from linf.models.encoders import EDSR
from linf.models.flow import ConditionalFlow
from linf.models.linf import LINF

SIDE = 15


@pytest.fixture(params=["LIIF", "LTE"])
def regression(request: pytest.FixtureRequest) -> Regression:
    torch.manual_seed(0)
    if request.param == "LTE":
        return LTE(EDSR(1, 4), partial(FourierConditioner, width=8, depth=1, ensemble="local")).eval()
    return LIIF(EDSR(1, 4), partial(LIIFConditioner, width=8, depth=1)).eval()


@pytest.fixture
def teacher(regression: Regression, tmp_path: Path) -> Teacher:
    save(regression, tmp_path / "teacher.safetensors")
    return Teacher(tmp_path / "teacher.safetensors")


def batch(patch_size: int) -> SRBatch:
    """Two whole images of random colours."""
    hr = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    centres = patch_centres(SIDE, patch_size)
    coord = torch.stack(torch.meshgrid(centres, centres, indexing="ij"), -1).expand(2, -1, -1, -1)
    lr = F.interpolate(hr, (7, 7), mode="area")
    return SRBatch(lr, F.pixel_unshuffle(hr, patch_size), coord, torch.full((2, 2), 2 / SIDE))


@pytest.mark.parametrize("patch_size", [1, 3, 5])
def test_its_patches_are_those_of_its_image(
    regression: Regression, teacher: Teacher, patch_size: int
) -> None:
    lr, _, coord, cell = batch(patch_size)
    image = regression.sample(lr, (SIDE, SIDE))
    assert image.std() > 0.01
    patches = teacher(lr, coord, cell, patch_size)
    torch.testing.assert_close(F.pixel_shuffle(patches, patch_size), image, rtol=0, atol=1e-5)


def test_a_student_learns_the_distance_to_it_and_it_stays_as_it_is(
    regression: Regression, teacher: Teacher, tmp_path: Path
) -> None:
    student = LINF(EDSR(1, 4), partial(FourierConditioner, width=8, depth=1), ConditionalFlow(3, steps=2))
    assert copy.deepcopy(teacher) is teacher
    loss = Finetune(0, 0, 0, distillation=2.0, teacher=lambda: teacher)
    parts = loss(student, batch(3))
    lr = batch(3).lr
    whole: Tensor = student.sample(lr, (SIDE, SIDE), temperature=0) - regression.sample(lr, (SIDE, SIDE))
    torch.testing.assert_close(parts["distillation"], 2 * whole.abs().mean(), rtol=1e-4, atol=0)
    assert parts["loss"] == 2 * parts["distillation"]
    parts["loss"].backward()
    assert all(p.grad is not None for p in student.parameters())
    assert all(p.grad is None for p in teacher.parameters())
    assert not any(isinstance(part, nn.Module) and part.training for part in teacher.train().modules())


def test_what_cannot_teach_is_refused(tmp_path: Path) -> None:
    student = LINF(EDSR(1, 4), partial(FourierConditioner, width=8, depth=1), ConditionalFlow(3, steps=2))
    save(student, tmp_path / "linf.safetensors")
    with pytest.raises(ValueError, match="is a LINF: give a LIIF or an LTE"):
        Teacher(tmp_path / "linf.safetensors")
    with pytest.raises(ValueError, match="needs a teacher"):
        Finetune(distillation=1)
    grey = LIIF(EDSR(1, 4, image_channels=1), partial(LIIFConditioner, width=8, depth=1))
    save(grey, tmp_path / "grey.safetensors")
    loss = Finetune(perceptual=0, distillation=1, teacher=partial(Teacher, tmp_path / "grey.safetensors"))
    with pytest.raises(ValueError, match="the teacher is for images of 1 channels, and these have 3"):
        loss(student, batch(3))
