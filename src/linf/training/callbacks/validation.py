"""What validation shows beside PSNR: LPIPS of samples, and panels of images."""

import os
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger

from linf.data.datamodule import datamodule_of
from linf.data.pairs import ImagePair
from linf.errors import UsageError
from linf.evaluation.fonts import save_figure
from linf.evaluation.panels import detail_row, panel
from linf.evaluation.systems import systems
from linf.metrics.metric import LPIPS
from linf.models import DEFAULT_TEMPERATURE
from linf.models.temperature import check_temperatures
from linf.training.stage1 import Training


class ValidationLPIPS(Callback):
    """Logs ``val/lpips`` after each validation: the mean over its images at all scales, with one sample of each.

    Args:
        temperature: The temperature of the samples.
        backbone: The network, see `linf.metrics.networks.LPIPSNetwork`.
        weights: The file of the network's weights; None to find it.
        seed: The seed; each image and scale has its own latents, the same at every validation.

    Raises:
        UsageError: The weights cannot be found.
    """

    def __init__(
        self,
        *,
        temperature: float = DEFAULT_TEMPERATURE,
        backbone: str = "alex",
        weights: str | os.PathLike[str] | None = None,
        seed: int = 0,
    ) -> None:
        (self.temperature,), self.seed = check_temperatures([temperature]), seed
        self.metric = LPIPS(backbone, weights)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.metric.to(pl_module.device)
        self.metric.reset()

    @torch.no_grad()
    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: ImagePair, *_: Any
    ) -> None:
        assert isinstance(pl_module, Training)
        sr = pl_module.model.sample(
            batch.lr, batch.size, temperature=self.temperature, seed=batch.seed_of_latents(self.seed)
        )
        self.metric.update(sr, batch.hr, batch.lr, 0)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.log("val/lpips", self.metric.compute(), prog_bar=True)


class ImagePanels(Callback):
    """Draws LR, bicubic, samples and HR of fixed images after a validation, for the run's folder and its loggers.

    Args:
        folder: Folder for the files ``step_….png``.
        images: Number of images; 0 for no panels.
        every_n_validations: Number of validations from one panel to the next.
        temperatures: Temperatures of the samples.
        seed: Seed of their latents, which are the same in every panel.

    Raises:
        UsageError: If a number is out of its range.
    """

    def __init__(
        self,
        folder: str,
        *,
        images: int = 3,
        every_n_validations: int = 1,
        temperatures: tuple[float, ...] = (0.0, DEFAULT_TEMPERATURE),
        seed: int = 0,
    ) -> None:
        if images < 0 or every_n_validations < 1:
            raise UsageError(
                f"images and every_n_validations are {images} and {every_n_validations}: give at least 0, which draws "
                "none, and at least 1"
            )
        check_temperatures(list(temperatures))
        self.folder, self.images, self.temperatures = Path(folder), images, list(temperatures)
        self.every, self.seed = every_n_validations, seed
        self.validations = 0

    @property
    def state_key(self) -> str:
        """The key of the state in checkpoints, by the name that the class had in the first of them."""
        return "PicturePanels"

    def state_dict(self) -> dict[str, Any]:
        return {"validations": self.validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.validations = state_dict["validations"]

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking or not self.images:
            return
        self.validations += 1
        pairs = datamodule_of(trainer).val_pairs
        assert pairs is not None
        if not trainer.is_global_zero or (self.validations - 1) % self.every:
            return
        assert isinstance(pl_module, Training)
        rows = []
        # The images of the last scale come last, and there the models differ most.
        for i in range(len(pairs) - min(self.images, len(pairs.hr)), len(pairs)):
            pair = pairs[i]
            lr, hr = (image.to(next(pl_module.parameters())) for image in (pair.lr, pair.hr))
            made = systems(
                pl_module.model,
                lr[None],
                pair.size,
                self.temperatures,
                seed=self.seed,
                peak=pair.peak,
            )
            named = {system.name: system.images[0, 0] for system in made}
            rows.append(detail_row(f"{pair.name} ×{pair.scale:g}", lr, hr, named))
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step_{trainer.global_step:07d}.png"
        figure = panel(rows)
        save_figure(figure, path)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image("val/images", [str(path)], step=trainer.global_step)
            elif isinstance(logger, TensorBoardLogger):
                logger.experiment.add_figure("val/images", figure, trainer.global_step)
