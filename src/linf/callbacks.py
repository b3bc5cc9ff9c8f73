"""What happens beside training: averaged weights, progress, pictures to look at, and a stop in time."""

from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.callbacks import Callback, TQDMProgressBar, WeightAveraging
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger
from torch import Tensor

from linf.baselines import systems
from linf.errors import UsageError
from linf.panels import detail_row, panel


class EMA(WeightAveraging):
    """Exponential moving average of the weights; validation and checkpoints use it.

    The decay grows as ``min(decay, (1 + n) / (10 + n))`` over the updates n, so that the start is soon forgotten.

    Args:
        decay: of the average, in [0, 1).
    """

    def __init__(self, decay: float = 0.999) -> None:
        def average(averaged: Tensor, current: Tensor, n: Tensor | int) -> Tensor:
            if not current.is_floating_point():  # Flags and counters have no average.
                return current
            kept = min(decay, (1 + int(n)) / (10 + int(n)))
            # In this form the average of what stays the same is the same, to the last bit.
            return current + kept * (averaged - current)

        if not 0 <= decay < 1:
            raise UsageError(f"EMA decay is {decay}: give a number from 0 up and below 1, such as 0.999")
        super().__init__(use_buffers=True, avg_fn=average)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the average in place until the other callbacks have drawn with it."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Train on with the current weights."""
        super().on_validation_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the average to `on_fit_end`, which comes also where there was nothing left to train."""

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the average as the result."""
        super().on_train_end(trainer, pl_module)


class ProgressBar(TQDMProgressBar):
    """Lightning's bar, which ends its line where a run fails: what is said then stands on a line of its own."""

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Close the bar."""
        if self._train_progress_bar is not None:
            self._train_progress_bar.close()


class PicturePanels(Callback):
    """After a validation: LR, bicubic, samples and HR of fixed pictures, to the run's folder and its loggers.

    Args:
        folder: where ``step_….png`` go.
        pictures: how many.
        every_n_validations: how often.
        temperatures: of the samples shown.
        seed: of their latents, the same each time.
    """

    def __init__(
        self,
        folder: str,
        *,
        pictures: int = 3,
        every_n_validations: int = 1,
        temperatures: tuple[float, ...] = (0.0, 0.8),
        seed: int = 0,
    ) -> None:
        self.folder, self.pictures, self.temperatures = Path(folder), pictures, list(temperatures)
        self.every, self.seed = every_n_validations, seed
        self.validations = 0

    def state_dict(self) -> dict[str, Any]:
        """How many validations there have been."""
        return {"validations": self.validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
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
        # The last scale's pictures stand last: there the models differ most.
        for i in range(len(pairs) - min(self.pictures, len(pairs.hr)), len(pairs)):
            lr, hr, scale, name, _ = pairs[i]
            lr, hr = (picture.to(pl_module.device, pl_module.dtype) for picture in (lr, hr))
            size = (hr.shape[-2], hr.shape[-1])
            generator = torch.Generator(pl_module.device).manual_seed(self.seed)
            made = systems(pl_module.model, lr[None], size, self.temperatures, generator)  # type: ignore[arg-type]
            named = {name: pictures[0, 0] for name, _, pictures in made}
            rows.append(detail_row(f"{name} ×{scale:g}", lr, hr, named))
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step_{trainer.global_step:07d}.png"
        panel(rows).savefig(path)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image("val/pictures", [str(path)], step=trainer.global_step)
            elif isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image(
                    "val/pictures",
                    np.asarray(Image.open(path).convert("RGB")),
                    trainer.global_step,
                    dataformats="HWC",
                )


class StopAtNonFinite(Callback):
    """Stops before a loss or a gradient that is not finite spoils the weights, and keeps what made it.

    Each rank leaves ``nonfinite_batch.pt`` (beyond the first: ``nonfinite_batch_rank1.pt``, …), which
    ``torch.load(…, weights_only=True)`` reads: ``what`` is not finite, ``step``, the loss's ``parts``, and ``batches``,
    those of the step, of which there are several under gradient accumulation.

    Args:
        folder: where it goes.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.batches: list[Any] = []

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Hold the batches of the step."""
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self.batches = []
        self.batches.append(batch)

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Check the loss."""
        self._check("loss", loss, trainer, pl_module)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Check the gradient, unless the loss is scaled (fp16): the scaler itself leaves such a step out."""
        if getattr(trainer.precision_plugin, "scaler", None) is None:
            gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
            self._check("gradient", torch.nn.utils.get_total_norm(gradients), trainer, pl_module)

    def _check(self, what: str, value: Tensor, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # All ranks stop together: one that waited for another's gradients would wait forever.
        if trainer.strategy.reduce_boolean_decision(bool(torch.isfinite(value).all())):
            return
        parts = {name: float(part) for name, part in getattr(pl_module, "parts", {}).items()}
        rank = f"_rank{trainer.global_rank}" if trainer.global_rank else ""
        path = self.folder / f"nonfinite_batch{rank}.pt"
        self.folder.mkdir(parents=True, exist_ok=True)
        batches = [{name: part.cpu() for name, part in batch._asdict().items()} for batch in self.batches]
        torch.save({"what": what, "step": trainer.global_step, "parts": parts, "batches": batches}, path)
        trainer.strategy.barrier()
        shown = f" ({', '.join(f'{name} {part:g}' for name, part in parts.items())})" if parts else ""
        raise UsageError(
            f"training stopped before step {trainer.global_step + 1}: its {what} is not finite{shown}; its batch is "
            f"in {path}. Go on from an earlier checkpoint (ckpt_path=…), with a lower task.optimizer.lr if it recurs"
        )
