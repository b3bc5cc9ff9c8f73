"""Throughput of a training, and the switches that raise it.

Lightning's `ThroughputMonitor` synchronises the device at every batch, needs the FLOPs given, and knows no CPU's peak.
"""

import time
from contextlib import ExitStack
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch.utils.flop_counter import FlopCounterMode

from linf.errors import UsageError, check_least


class Throughput(Callback):
    """Logs ``speed/samples_per_s``, ``speed/tflops`` and ``speed/of_peak`` over all ranks, without validation time. The
    floating-point operations of a batch, without elementwise ones, are counted during the first step, forward and
    backward. That step is never compiled, since the compiler would skip for good what it first meets under counting.
    The peak is the speed of a large matrix product in the run's precision, measured when training starts.

    Args:
        every_n_steps: Number of optimizer steps from one log to the next.

    Raises:
        UsageError: If that number is below 1.
    """

    def __init__(self, every_n_steps: int = 50) -> None:
        check_least("every_n_steps", every_n_steps, 1)
        self.every = every_n_steps
        self.peak: float | None = None
        self.counting = ExitStack()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        dtypes = {"bf16": torch.bfloat16, "16": torch.float16, "32": torch.float32, "64": torch.float64}
        dtype = next(dtype for name, dtype in dtypes.items() if str(trainer.precision).startswith(name))
        self.peak = measure_peak(pl_module.device, dtype)
        self.flops: int | None = None
        self._restart()

    def _restart(self) -> None:
        self.samples, self.batches, self.began, self.paused = 0, 0, time.perf_counter(), 0.0

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        """Start counting the operations of the first batch."""
        if self.flops is None:
            self.counting.callback(setattr, pl_module, "compute", pl_module.compute)
            pl_module.compute = pl_module.loss
            self.counter = self.counting.enter_context(FlopCounterMode(display=False))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the speed over the batches since the last log."""
        if self.flops is None:
            self.counting.close()
            self.flops = self.counter.get_total_flops()
            self._restart()  # Counting slows the step down.
            return
        self.samples, self.batches = self.samples + len(batch.lr), self.batches + 1
        if trainer.global_step % self.every or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        seconds = (time.perf_counter() - self.began - self.paused) / trainer.world_size
        rate = self.flops * self.batches / seconds
        assert self.peak is not None
        speeds = {
            "speed/samples_per_s": self.samples / seconds,
            "speed/tflops": rate / 1e12,
            "speed/of_peak": rate / (self.peak * trainer.world_size),
        }
        pl_module.log_dict(speeds)
        self._restart()

    def on_exception(self, *_: Any) -> None:
        """Stop counting, or the mode would outlive this run."""
        self.counting.close()

    def on_validation_start(self, *_: Any) -> None:
        self.pause_began = time.perf_counter()

    def on_validation_end(self, *_: Any) -> None:
        if hasattr(self, "began"):
            self.paused += time.perf_counter() - self.pause_began


def measure_peak(device: torch.device, dtype: torch.dtype, seconds: float = 0.05) -> float:
    """Return the floating-point operations per second of the fastest large matrix product, each size tried for
    ``seconds``.
    """
    rates = []
    # On a CPU, few threads reach more with the smaller ones, which are also disturbed less, and many with the larger.
    for side in [8192] if device.type == "cuda" else [512, 1024]:
        a = torch.full((side, side), 0.5, device=device, dtype=dtype)
        times: list[float] = []
        while len(times) < 2 or sum(times[1:]) < seconds:  # The first one warms up.
            began = time.perf_counter()
            a @ a
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times.append(time.perf_counter() - began)
        rates.append(2 * side**3 / min(times))
    return max(rates)


MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
"""What `torch.compile` knows."""

REPLAYS = ("reduce-overhead", "max-autotune")
"""The modes that replay CUDA graphs."""

MATMUL_PRECISIONS = ("highest", "high", "medium")
"""What `torch.set_float32_matmul_precision` knows."""


class Acceleration(Callback):
    """Switches that change the speed of a training, and its results by rounding only.

    Args:
        compile: Whether to `torch.compile` the loss as one graph, with the encoder, the conditioner and the flow in it.
            Validation stays eager, since its images differ in size.
        mode: What the compiler goes for, one of `MODES`.
        channels_last: Whether to store the encoder's weights in channels-last format.
        matmul_precision: Of products in float32, see `torch.set_float32_matmul_precision`; the flow's products stay
            exact. None leaves it as it is.

    Raises:
        UsageError: If there is no such mode or precision.
    """

    def __init__(
        self,
        compile: bool = False,
        mode: str = "default",
        channels_last: bool = False,
        matmul_precision: str | None = None,
    ) -> None:
        if mode not in MODES:
            raise UsageError(f"the mode of the compiler is {mode!r}: choose one of {', '.join(MODES)}")
        if matmul_precision not in (None, *MATMUL_PRECISIONS):
            raise UsageError(
                f"matmul_precision is {matmul_precision!r}: choose one of {', '.join(MATMUL_PRECISIONS)}, or null"
            )
        self.compile, self.mode, self.channels_last = compile, mode, channels_last
        self.matmul_precision = matmul_precision

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        module: Any = pl_module
        if self.matmul_precision is not None:
            torch.set_float32_matmul_precision(self.matmul_precision)
        if self.channels_last:
            module.model.encoder.to(memory_format=torch.channels_last)
        if self.compile:
            torch.compiler.reset()  # Of one function it compiles only so many versions, of all jobs in this process.
            module.compute = torch.compile(module.loss.__call__, mode=self.mode)

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take gradients that are added to out of the memory of CUDA graphs, which the next replay overwrites."""
        if self.compile and self.mode in REPLAYS and trainer.accumulate_grad_batches > 1:
            for p in pl_module.parameters():
                if p.grad is not None:
                    p.grad = p.grad.clone()
