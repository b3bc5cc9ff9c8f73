"""Runs that end early: by a signal, at a loss that is not finite, or with an error."""

import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint, TQDMProgressBar
from torch import Tensor

from linf.errors import Stopped, UsageError, stop_signals_to

ECHO = 2
"""Seconds in which a signal that arrives again is still the same one: a rank has it from its group and its launcher."""


class StopOnSignal(Checkpoint):  # A Checkpoint, so that Lightning calls it after all other callbacks.
    """Ends an evaluation after the current image when one of `STOP_SIGNALS` arrives, and at once on a later one. It
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
        self.since = 0.0
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
        if self.signum is None:
            self.signum, self.since = signum, time.monotonic()
        elif time.monotonic() - self.since > ECHO:
            raise Stopped(signum, folder=str(self.folder))


LEAST_SCALE = 2.0**-10
"""Of a scaled loss (fp16): the scale is halved by each step that is skipped, from 65,536 on."""


class StopAtNonFinite(Callback):
    """Stops before a loss or gradient that is not finite reaches the weights, and saves the batch that caused it. A
    fused optimizer skips that step by itself, and the run stops one step later, when what a GPU has found has long
    arrived: no step waits for it. Each rank writes ``nonfinite_batch.pt`` (ranks beyond the first
    ``nonfinite_batch_rank1.pt``, …) for ``torch.load(…, weights_only=True)``: ``what`` is not finite, the ``step``, the
    ``parts`` of the loss, and the ``batches`` of the step, several under gradient accumulation. ``folder`` is that
    of the file.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.batches: list[Any] = []
        self.losses: list[Tensor] = []
        self.pending: _Pending | None = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self.batches, self.losses = [], []
        self.batches.append(batch)

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        self.losses.append(loss.detach())

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Check loss and gradient. Where the loss is scaled (fp16), the scaler skips such steps by itself; they end the
        run only once no lower scale helps, which a step that logs looks at.
        """
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is not None:
            logs = trainer._logger_connector.should_update_logs
            if not logs or scaler.get_scale() >= LEAST_SCALE:
                return
        self._stop_if_pending(trainer)
        value = torch.nn.utils.get_total_norm([p.grad for p in pl_module.parameters() if p.grad is not None])
        if trainer.world_size == 1:
            value = value + torch.stack(self.losses).sum()
        # Otherwise the gradient decides, which is the same on all ranks: a single one that stopped would leave the
        # others waiting for its gradients.
        good = torch.isfinite(value)
        parts = dict(getattr(pl_module, "parts", {}))
        pending = _Pending(good, trainer.global_step, self.losses, parts, self.batches)
        if optimizer.defaults.get("fused") and scaler is None:
            optimizer.found_inf = (~good).float()  # type: ignore[attr-defined]  # As torch's own GradScaler tells it.
            self.pending = pending.on_its_way()
        elif not good:
            self._stop(pending, trainer)

    def on_train_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self._stop_if_pending(trainer)

    def on_save_checkpoint(self, trainer: pl.Trainer, *_: Any) -> None:
        """Let no state be saved of which it is not known yet whether it is the last good one."""
        self._stop_if_pending(trainer)

    def _stop_if_pending(self, trainer: pl.Trainer) -> None:
        pending, self.pending = self.pending, None
        if pending is not None and not pending.is_good():
            self._stop(pending, trainer)

    def _stop(self, pending: "_Pending", trainer: pl.Trainer) -> None:
        what = "gradient" if all(loss.isfinite().all() for loss in pending.losses) else "loss"
        parts = {name: float(part) for name, part in pending.parts.items()}
        rank = f"_rank{trainer.global_rank}" if trainer.global_rank else ""
        path = self.folder / f"nonfinite_batch{rank}.pt"
        self.folder.mkdir(parents=True, exist_ok=True)
        batches = [{name: part.cpu() for name, part in batch._asdict().items()} for batch in pending.batches]
        torch.save({"what": what, "step": pending.step, "parts": parts, "batches": batches}, path)
        trainer.strategy.barrier()
        shown = f" ({', '.join(f'{name} {part:g}' for name, part in parts.items())})" if parts else ""
        raise UsageError(
            f"training stopped before step {pending.step + 1}: its {what} is not finite{shown}; its batch is "
            f"in {path}. Resume from an earlier checkpoint (ckpt_path=…), with a lower task.optimizer.lr if it recurs"
        )


@dataclass
class _Pending:
    """A step, and whether its loss and gradient are finite, which may still be on its way from the GPU."""

    good: Tensor
    step: int
    losses: list[Tensor]
    parts: dict[str, Tensor]
    batches: list[Any]
    arrived: Any = None

    def on_its_way(self) -> "_Pending":
        if self.good.device.type == "cuda":
            self.good = self.good.to("cpu", non_blocking=True)  # Into pinned memory.
            self.arrived = torch.cuda.Event()
            self.arrived.record()
        return self

    def is_good(self) -> bool:
        if self.arrived is not None:
            self.arrived.synchronize()
        return bool(self.good)


class ProgressBar(TQDMProgressBar):
    """Lightning's bar, closed when a run fails, so that the error message starts on a line of its own. It is drawn at
    every ``refresh_rate``-th batch, on a terminal only; 0 draws none. Raises UsageError if that is negative.
    """

    def __init__(self, refresh_rate: int = 1) -> None:
        if refresh_rate < 0:
            raise UsageError(f"refresh_rate is {refresh_rate}: give at least 0, which draws no bar")
        super().__init__(refresh_rate if sys.stdout.isatty() else 0)

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """What the bar shows: this rank's loss as it is now, read from the device only when the bar is drawn."""
        loss = getattr(pl_module, "parts", {}).get("loss")
        shown = super().get_metrics(trainer, pl_module)
        shown.pop("v_num", None)
        return shown if loss is None else shown | {"train/loss": float(loss)}

    def on_exception(self, *_: Any) -> None:
        if self._train_progress_bar is not None:
            self._train_progress_bar.close()
