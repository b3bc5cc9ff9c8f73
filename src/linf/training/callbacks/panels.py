"""Panels of validation images during training."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger

from linf.evaluation.panels import detail_row, panel
from linf.evaluation.systems import systems


class ImagePanels(Callback):
    """Draws LR, bicubic, samples and HR of fixed images after a validation, for the run's folder and its loggers.

    Args:
        folder: Folder for the files ``step_….png``.
        images: Number of images.
        every_n_validations: Number of validations from one panel to the next.
        temperatures: Temperatures of the samples.
        seed: Seed of their latents, which are the same in every panel.
    """

    def __init__(
        self,
        folder: str,
        *,
        images: int = 3,
        every_n_validations: int = 1,
        temperatures: tuple[float, ...] = (0.0, 0.8),
        seed: int = 0,
    ) -> None:
        self.folder, self.images, self.temperatures = Path(folder), images, list(temperatures)
        self.every, self.seed = every_n_validations, seed
        self.validations = 0

    @property
    def state_key(self) -> str:
        """The key of the state in checkpoints, by the name that the class had in the first of them."""
        return "PicturePanels"

    def state_dict(self) -> dict[str, Any]:
        """Return the number of validations so far."""
        return {"validations": self.validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the number of validations."""
        self.validations = state_dict["validations"]

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw and log one panel."""
        if trainer.sanity_checking:
            return
        self.validations += 1
        pairs = trainer.datamodule.val_pairs  # type: ignore[attr-defined]
        if not trainer.is_global_zero or (self.validations - 1) % self.every:
            return
        rows = []
        # The images of the last scale come last, and there the models differ most.
        for i in range(len(pairs) - min(self.images, len(pairs.hr)), len(pairs)):
            lr, hr, scale, name, _ = pairs[i]
            lr, hr = (image.to(pl_module.device, pl_module.dtype) for image in (lr, hr))
            size = (hr.shape[-2], hr.shape[-1])
            made = systems(pl_module.model, lr[None], size, self.temperatures, seed=self.seed)  # type: ignore[arg-type]
            named = {name: images[0, 0] for name, _, images in made}
            rows.append(detail_row(f"{name} ×{scale:g}", lr, hr, named))
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step_{trainer.global_step:07d}.png"
        figure = panel(rows)
        figure.savefig(path)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image("val/images", [str(path)], step=trainer.global_step)
            elif isinstance(logger, TensorBoardLogger):
                logger.experiment.add_figure("val/images", figure, trainer.global_step)
