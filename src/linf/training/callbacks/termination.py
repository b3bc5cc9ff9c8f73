"""Runs that end early: by a signal, at a loss that is not finite, or with an error."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint, TQDMProgressBar
from torch import Tensor

from linf.errors import Stopped, UsageError, stop_signals_to


class StopOnSignal(Checkpoint):  # A Checkpoint, so that Lightning calls it after all other callbacks.
    """Ends an evaluation after the current image when one of `STOP_SIGNALS` arrives, and at once on a second one. It
    replaces Lightning's own handlers: that of SIGTERM communicates with the other ranks in the middle of whatever they
    are doing, and under Slurm that of SIGUSR1 saves in the middle of a step.

    Args:
        folder: The run's folder, for the message.

    Attributes:
        signum: The signal that arrived, or None.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.signum: int | None = None
        self.handling = ExitStack()

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Handle signals from here on, in place of Lightning."""
        self._handle_signals()

    def on_test_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if self.signum is not None:
            raise Stopped(self.signum, "after an image, which is saved", str(self.folder))

    def teardown(self, *_: Any, **__: Any) -> None:
        self.handling.close()

    def on_exception(self, *_: Any) -> None:
        self.handling.close()

    def _handle_signals(self) -> None:
        self.signum = None
        self.handling.enter_context(stop_signals_to(self._receive))

    def _receive(self, signum: int, _: object) -> None:
        if self.signum is not None:
            raise KeyboardInterrupt
        self.signum = signum


class StopAtNonFinite(Callback):
    """Stops before a loss or gradient that is not finite reaches the weights, and saves the batch that caused it. Each
    rank writes ``nonfinite_batch.pt`` (ranks beyond the first ``nonfinite_batch_rank1.pt``, …) for ``torch.load(…,
    weights_only=True)``: ``what`` is not finite, the ``step``, the ``parts`` of the loss, and the ``batches`` of the
    step, several under gradient accumulation. ``folder`` is the folder of that file.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.batches: list[Any] = []

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self.batches = []
        self.batches.append(batch)

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        self._check("loss", loss, trainer, pl_module)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Check the gradient, unless the loss is scaled (fp16): the scaler skips such steps by itself."""
        if getattr(trainer.precision_plugin, "scaler", None) is None:
            gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
            self._check("gradient", torch.nn.utils.get_total_norm(gradients), trainer, pl_module)

    def _check(self, what: str, value: Tensor, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # All ranks stop together: a single one would leave the others waiting for its gradients.
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
            f"in {path}. Resume from an earlier checkpoint (ckpt_path=…), with a lower task.optimizer.lr if it recurs"
        )


class ProgressBar(TQDMProgressBar):
    """Lightning's bar, closed when a run fails, so that the error message starts on a line of its own. It is drawn at
    every ``refresh_rate``-th batch; 0 draws none. Raises UsageError if that is negative.
    """

    def __init__(self, refresh_rate: int = 1) -> None:
        if refresh_rate < 0:
            raise UsageError(f"refresh_rate is {refresh_rate}: give at least 0, which draws no bar")
        super().__init__(refresh_rate)

    def on_exception(self, *_: Any) -> None:
        if self._train_progress_bar is not None:
            self._train_progress_bar.close()
