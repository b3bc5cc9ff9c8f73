"""What a GPU would do, where there is none: one device throughout, and no step that waits for it."""

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from helpers.fake_cuda import GPU, can_fake_cuda, fake_cuda, moved
from helpers.networks import write_network
from linf.checkpoints.native import save
from linf.data.crops import SRBatch
from linf.losses.consistency import unseen
from linf.losses.distillation import Teacher
from linf.losses.flow import Finetune, LikelihoodL1
from linf.losses.perceptual import Perceptual
from linf.losses.prior import LearnedPrior
from linf.models.baselines import LIIF, LIIFConditioner
from linf.models.conditioner import FourierConditioner
from linf.models.correlation import LatentCorrelation
from linf.models.encoders import EDSR, RDN, Encoder, RRDBNet, SwinIR
from linf.models.flow import ConditionalFlow
from linf.models.linf import LINF
from linf.models.prior import UNet
from linf.runs.progress import ProgressFile
from linf.training import Finetuning, PriorTraining, Training
from linf.training.callbacks import EMA, Forecast, LastCheckpoint, ProgressBar, StopAtNonFinite

pytestmark = pytest.mark.skipif(
    not can_fake_cuda(), reason="torch before 2.12 asks a driver for every GPU tensor"
)

LOSSES = {
    "nll": LikelihoodL1(),
    "mixture": LikelihoodL1(0.05, 10.0),
    "finetune": Finetune(perceptual=0.0),
    "prior": LearnedPrior(perceptual=0.0, l1=1.0, l1_latent=1.0),
}
TRAININGS: dict[str, Any] = {"finetune": Finetuning, "perceptual": Finetuning, "prior": PriorTraining}
STEPS, WARM = 12, 4


class Batches(pl.LightningDataModule):
    window = True

    def __init__(self, patch_size: int) -> None:
        super().__init__()
        self.dim = 3 * patch_size**2

    def train_dataloader(self) -> DataLoader[Any]:
        lr, hr, coord = torch.rand(2, 3, 12, 12), torch.rand(2, self.dim, 8, 8), torch.rand(2, 8, 8, 2)
        return DataLoader([SRBatch(lr, hr, coord, torch.full((2, 2), 0.05))] * STEPS, batch_size=None)  # type: ignore[arg-type]


def steps(
    task: str,
    encoder: Encoder,
    patch_size: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    flow_steps: int = 2,
    **adam: Any,
) -> tuple[Counter[str], float]:
    """What the host waited for in steps of a real `Trainer`, and kernels a step, averaged over the last eight."""
    prior = UNet(patch_size, width=8, depth=1) if task == "prior" else None
    flow = ConditionalFlow(patch_size, steps=flow_steps)
    model = LINF(encoder, partial(FourierConditioner, width=8), flow, prior)
    model.flow.whiten(torch.randn(model.dim, 200))
    made = TRAININGS.get(task, partial(Training, whitening_batches=0))
    if task in LOSSES:
        loss = LOSSES[task]
    else:  # All that stage 2 can have.
        save(LIIF(EDSR(1, 8), partial(LIIFConditioner, width=8)), tmp_path / "liif.safetensors")
        networks: dict[str, Any] = {
            "features": partial(Perceptual, weights=tmp_path / "vgg16.pth"),
            "teacher": partial(Teacher, tmp_path / "liif.safetensors"),
        }
        loss = Finetune(distillation=1.0, through_mean=0.5, **networks)
        made = partial(made, steps=[["nll"], ["l1", "distillation", "perceptual"]])
    module = made(model, loss, partial(torch.optim.Adam, lr=1e-4, **adam))
    waits: list[Counter[str]] = []
    kernels: list[int] = []
    with fake_cuda() as watch:
        moved(module)
        for name in ("perceptual", "teacher"):
            if (network := getattr(loss, name, None)) is not None:
                moved(network)

        class Count(pl.Callback):
            def on_train_batch_start(self, *_: Any) -> None:
                waits.append(Counter(watch.found))
                kernels.append(watch.kernels)

        monkeypatch.setattr(pl.Trainer, "save_checkpoint", lambda *_, **__: None)
        trainer = pl.Trainer(
            accelerator="cuda",
            devices=1,
            max_steps=STEPS,
            gradient_clip_val=1.0,
            logger=False,
            log_every_n_steps=50,
            num_sanity_val_steps=0,
            limit_val_batches=0,
            enable_model_summary=False,
            default_root_dir=tmp_path,
            callbacks=[
                Count(),
                EMA(),
                StopAtNonFinite(str(tmp_path)),
                LastCheckpoint(str(tmp_path)),
                ProgressBar(refresh_rate=100),
                Forecast(after=WARM + 2),
                ProgressFile(str(tmp_path), seconds=1e-6),
            ],
        )
        trainer.fit(module, Batches(patch_size))
    assert len(waits) == STEPS
    return waits[-1] - waits[WARM - 1], (kernels[-1] - kernels[WARM - 1]) / (STEPS - WARM)


SLOW = [pytest.param(task, marks=pytest.mark.slow) for task in ("mixture", "finetune")]
THOROUGH = [pytest.param(task, marks=pytest.mark.thorough) for task in ("prior", "perceptual")]


@pytest.mark.parametrize("task", ["nll", *SLOW, *THOROUGH])
def test_a_step_with_a_fused_optimizer_never_waits(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if task == "perceptual":
        write_network(tmp_path / "vgg16.pth")
    waits, _ = steps(task, EDSR(1, 8), 3, tmp_path, monkeypatch, fused=True)
    assert not waits, waits


@pytest.mark.parametrize(
    "encoder",
    [
        pytest.param(EDSR(1, 8), marks=pytest.mark.slow),
        pytest.param(RDN(8, 2, 2, 8), marks=pytest.mark.thorough),
        pytest.param(RRDBNet(8, 1, 8), marks=pytest.mark.thorough),
        pytest.param(SwinIR(12, (2,), (2,), window=4, out_channels=6, drop_path=0.5), marks=pytest.mark.slow),
    ],
    ids=lambda encoder: type(encoder).__name__,
)
def test_a_step_waits_once_at_most(encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits, _ = steps("mixture", encoder, 1, tmp_path, monkeypatch)
    assert waits.total() <= STEPS - WARM, waits


@pytest.mark.slow
@pytest.mark.parametrize("patch_size", [1, pytest.param(3, marks=pytest.mark.thorough)])
def test_a_step_of_edsr_baseline_has_few_operations(
    patch_size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, kernels = steps("nll", EDSR(), patch_size, tmp_path, monkeypatch, flow_steps=10, fused=True)
    assert kernels <= 600


def test_correlated_latents_and_consistent_samples_never_wait(tmp_path: Path) -> None:
    write_network(tmp_path / "vgg16.pth")
    loss = Finetune(latents="correlated", features=partial(Perceptual, weights=tmp_path / "vgg16.pth"))
    model = LINF(EDSR(1, 8), partial(FourierConditioner, width=8), ConditionalFlow(3, steps=2))
    model.correlation = LatentCorrelation(27, [2, 3, 4], reach=2)
    lr, hr, coord = torch.rand(2, 3, 12, 12), torch.rand(2, 27, 8, 8), torch.rand(2, 8, 8, 2)
    with fake_cuda() as watch:
        moved(model)
        batch = SRBatch(*(part.to(GPU) for part in (lr, hr, coord, torch.full((2, 2), 0.05))))
        error = torch.rand(2, 3, 24, 24).to(GPU)
        before = Counter(watch.found)
        z = loss.sample_latents(model, batch, seed=0)
        assert z.device == GPU
        assert z.shape == hr.shape
        assert unseen(error, batch.coord, batch.cell, (12, 12), 3).device == GPU
        assert not watch.found - before, watch.found - before


def test_mixed_devices_are_found() -> None:
    with fake_cuda(), pytest.raises(RuntimeError, match="same device"):
        torch.rand(3, device=GPU) + torch.rand(3)
