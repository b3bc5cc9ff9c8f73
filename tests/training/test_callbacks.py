"""EMA against its recursion, the panels of validation images, and bicubic beside a validation."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from PIL import Image
from pytorch_lightning.callbacks import Callback
from torch import Tensor
from torch.utils.data import DataLoader

from helpers.commands import Compose
from linf.evaluation.panels import detail_row, panel
from linf.images.resize import bicubic
from linf.training.callbacks import EMA, BicubicReference, ImagePanels


def quiet_trainer(callbacks: list[Callback], **kwargs: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks,
        **({"num_sanity_val_steps": 0, "use_distributed_sampler": False} | kwargs),
    )


# EMA


class Walk(pl.LightningModule):
    """One weight on a walk that gradient descent takes, and one buffer; both are written down at each step."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
        self.register_buffer("ready", torch.tensor(False))
        self.walked: list[Tensor] = []
        self.validated: list[Tensor] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.ready.fill_(True)
        return (batch.double().mean() * self.weight).square().sum()

    def on_train_batch_end(self, *_: Any) -> None:
        self.walked.append(self.weight.detach().clone())

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.validated.append(self.weight.detach().clone())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.02)

    def train_dataloader(self) -> DataLoader[Tensor]:
        return DataLoader(torch.arange(1.0, 13.0))

    def val_dataloader(self) -> DataLoader[Tensor]:
        return DataLoader(torch.ones(1))


def averages(walked: list[Tensor], decay: float) -> list[Tensor]:
    """The average after each update: the first weight, then ever more of what there was."""
    found = [walked[0]]
    for n, weight in enumerate(walked[1:], start=1):
        kept = min(decay, (1 + n) / (10 + n))
        found.append(kept * found[-1] + (1 - kept) * weight)
    return found


@pytest.mark.parametrize("decay", [0.0, 0.4, 0.999])
def test_the_average_follows_its_recursion(decay: float) -> None:
    module = Walk()
    quiet_trainer([EMA(decay)], max_epochs=1, val_check_interval=4).fit(module)
    expected = averages(module.walked, decay)
    assert len(expected) == 12
    torch.testing.assert_close(module.weight.detach(), expected[-1], rtol=1e-12, atol=0)
    torch.testing.assert_close(module.validated, expected[3::4], rtol=1e-12, atol=0)
    assert torch.equal(module.weight, module.walked[-1]) == (decay == 0)
    assert module.ready.dtype == torch.bool
    assert module.ready


def test_validation_leaves_the_weights_in_training_alone() -> None:
    walks = []
    for interval in (1, 12):
        module = Walk()
        quiet_trainer([EMA(0.9)], max_epochs=1, val_check_interval=interval).fit(module)
        walks.append(module.walked)
    assert all(torch.equal(one, other) for one, other in zip(*walks, strict=True))


# ImagePanels


def fit(composed: Compose, callbacks: list[Callback], *overrides: str, **kwargs: Any) -> pl.Trainer:
    """Epochs of one tiny batch, a validation on two images at two scales after each."""
    tiny = ("data.batches_per_epoch=1", "data.queries=16", "task.whitening_batches=2", "run_dir=nowhere")
    config = composed("train", "experiment=smoke", *tiny, *overrides)
    pl.seed_everything(0)
    trainer = quiet_trainer(callbacks, **{"max_epochs": 2} | kwargs)
    trainer.fit(instantiate(config.task), instantiate(config.data))
    return trainer


def drawn(folder: Path) -> dict[int, np.ndarray]:
    """Panels by the step in their name."""
    panels = sorted(folder.glob("step_*.png"))
    return {int(path.stem.removeprefix("step_")): np.asarray(Image.open(path)) for path in panels}


@pytest.mark.parametrize(("every", "steps"), [(1, [1, 2, 3, 4]), (2, [1, 3]), (3, [1, 4])])
def test_panels_come_as_often_as_asked(
    composed: Compose, tmp_path: Path, every: int, steps: list[int]
) -> None:
    fit(composed, [ImagePanels(str(tmp_path), every_n_validations=every)], max_epochs=4)
    assert list(drawn(tmp_path)) == steps


def test_a_sanity_check_counts_for_no_validation(composed: Compose, tmp_path: Path) -> None:
    fit(composed, [ImagePanels(str(tmp_path), every_n_validations=2)], num_sanity_val_steps=1)
    assert list(drawn(tmp_path)) == [1]


def test_counting_resumes_from_a_state(composed: Compose, tmp_path: Path) -> None:
    before = ImagePanels(str(tmp_path / "before"), every_n_validations=3)
    fit(composed, [before])
    after = ImagePanels(str(tmp_path / "after"), every_n_validations=3)
    after.load_state_dict(before.state_dict())
    fit(composed, [after], max_epochs=3)
    assert list(drawn(tmp_path / "before")) == [1]
    assert list(drawn(tmp_path / "after")) == [2]


def test_a_panel_shows_each_image_at_the_last_scale_by_each_system(composed: Compose, tmp_path: Path) -> None:
    shown = ImagePanels(str(tmp_path), temperatures=(0.0, 0.5), seed=3)
    trainer = fit(composed, [shown], "task.optimizer.lr=0", max_epochs=1)
    rows = []
    for lr, hr, scale, name, *_ in list(trainer.datamodule.val_pairs)[2:]:  # type: ignore[attr-defined]
        assert scale == 3.3
        size = (hr.shape[-2], hr.shape[-1])
        mean, texture = trainer.lightning_module.model.sample(  # type: ignore[operator, union-attr]
            lr[None], size, temperature=[0, 0.5], seed=3
        )
        named = {"bicubic": bicubic(lr, size), "τ=0": mean[0], "τ=0.5": texture[0]}
        rows.append(detail_row(f"{name} ×3.3", lr, hr, named))
    panel(rows).savefig(tmp_path / "expected.png")
    assert len(rows) == 2
    assert np.array_equal(drawn(tmp_path)[1], np.asarray(Image.open(tmp_path / "expected.png")))


def test_checkpoints_from_before_the_callback_was_renamed_keep_its_count() -> None:
    assert ImagePanels("folder").state_key == "PicturePanels"


def test_latents_are_the_same_each_time(composed: Compose, tmp_path: Path) -> None:
    for seed in (0, 1):
        fit(composed, [ImagePanels(str(tmp_path / str(seed)), seed=seed)], "task.optimizer.lr=0")
    first, second = drawn(tmp_path / "0").values()
    other, _ = drawn(tmp_path / "1").values()
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_panels_leave_the_random_state_alone(composed: Compose, tmp_path: Path) -> None:
    states = []
    for callbacks in ([], [ImagePanels(str(tmp_path))]):
        fit(composed, list(callbacks))
        states.append(torch.get_rng_state())
    assert drawn(tmp_path)
    assert torch.equal(*states)


def test_panels_show_the_weights_that_are_validated(composed: Compose, tmp_path: Path) -> None:
    config = composed("train", "experiment=smoke", "task.optimizer.lr=0.1", f"run_dir={tmp_path}")
    task, seen = instantiate(config.task), []

    def note(encoder: torch.nn.Module, *_: object) -> None:
        if not torch.is_grad_enabled():
            seen.append(encoder.head[0].weight.detach().clone())  # type: ignore[index, union-attr]

    task.model.encoder.register_forward_hook(note)
    averaged = [instantiate(config.callbacks[name]) for name in config.callbacks if name in ("ema", "panels")]
    quiet_trainer(averaged, max_epochs=2).fit(task, instantiate(config.data))
    second = seen[len(seen) // 2 :]
    assert len(second) == 2 * 2 + 2, "two images at two scales, then two in the panel"
    assert all(torch.equal(weight, second[0]) for weight in second)


# BicubicReference


def test_bicubic_is_measured_on_a_whole_validation_and_not_on_a_sanity_check(composed: Compose) -> None:
    measured = []
    for checked in (0, 1):
        fit(composed, [callback := BicubicReference()], max_epochs=1, num_sanity_val_steps=checked)
        measured.append(callback.found)
    assert measured[1] == measured[0]
    assert measured[0].keys() == {"bicubic/psnr", "bicubic/psnr_x2", "bicubic/psnr_x3.3"}


def test_a_sanity_check_leaves_the_warning_of_a_scale_without_images_to_validation(
    composed: Compose, caplog: pytest.LogCaptureFixture
) -> None:
    fit(composed, [], limit_val_batches=1, num_sanity_val_steps=1)
    assert caplog.text.count("validation sees no image for val/psnr_x3.3") == 1
