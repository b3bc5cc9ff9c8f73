"""What one image costs by each system: seconds, memory, multiplications and parameters, on the evaluation's device."""

import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import pandas as pd
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from linf.coordinates import Scale, axis_scales
from linf.errors import UsageError
from linf.evaluation.evaluation import Evaluation
from linf.evaluation.measure import Measured
from linf.evaluation.systems import system_image, system_temperatures
from linf.files import atomic_write
from linf.models.consistency import Projection
from linf.models.correlation import LatentChoice
from linf.models.super_resolver import SuperResolver

REPETITIONS = 5
"""Timed runs, of which the fastest counts, after one that warms up: others only tell what else the machine did."""

PATIENCE = 5.0
"""Seconds after which a slow system is not timed once more."""


class MeasureCosts(Callback):
    """Before an `Evaluation` begins, measures `costs` at the scale nearest to 4 and writes them to ``cost.csv``. An
    evaluation that goes on in its folder keeps what is there.

    Args:
        side: pixels a side of the LR image.

    Raises:
        UsageError: it is below 8.
    """

    def __init__(self, side: int = 64) -> None:
        if side < 8:
            raise UsageError(f"callbacks.cost.side is {side}: give at least 8 pixels, or callbacks.cost=null")
        self.side = side

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure on rank 0. The others do not wait: the hook does not run on a rank that has nothing left to do."""
        assert isinstance(pl_module, Evaluation)
        file = pl_module.folder / "cost.csv"
        if trainer.is_global_zero and not file.exists():
            lines = costs(
                pl_module.model,
                pl_module.temperatures,
                pl_module.shown_scale,
                self.side,
                channels=pl_module.pixels.channels,
                device=pl_module.device,
                ensemble=pl_module.self_ensemble,
                consistency=pl_module.consistency,
                latents=pl_module.assumed.latents,
            )
            with atomic_write(file) as part:
                pd.DataFrame(lines).to_csv(part, index=False)


def costs(
    model: SuperResolver,
    temperatures: Sequence[float],
    scale: Scale,
    side: int,
    *,
    channels: int,
    device: torch.device,
    ensemble: bool = False,
    consistency: int = 0,
    latents: LatentChoice = "independent",
) -> list[Measured]:
    """Measure every system of a table from one LR image to one SR image, encoding and projection included.

    Seconds are the least of `REPETITIONS`, with as many threads as torch has. Memory is the most that tensors take at
    once while the image is made, beyond weights and LR; on a CPU by one thread. Multiplications are those of matrix
    products, convolutions and attention, as `torch.utils.flop_counter` counts them. All temperatures above 0 are one
    procedure, and are measured once.

    Args:
        model: any, in evaluation mode on the device.
        temperatures: of the table.
        scale: of the SR image.
        side: pixels a side of the LR image, whose content is smooth and random.
        channels: C, of the images.
        device: of the model.
        ensemble: whether the self-ensemble is one of the systems.
        consistency: rounds that make the model's images consistent with LR.
        latents: of neighbouring patches.

    Returns:
        A line of the table `cost` for each system.
    """
    smooth = torch.rand(1, channels, 8, 8, generator=torch.Generator().manual_seed(0))
    lr = F.interpolate(smooth, (side, side), mode="bilinear").to(device)
    high, wide = (round(side * s) for s in axis_scales(scale))

    def make(name: str, tau: float) -> Tensor:
        image = system_image(model, name, lr, (high, wide), temperature=tau, latents=latents)
        if not consistency or name == "bicubic":
            return image
        return Projection((side, side), (high, wide), consistency)(image, lr)

    found: dict[str, Measured] = {}
    lines: list[Measured] = []
    for name, tau in system_temperatures(model, temperatures, ensemble).items():
        kind = name if tau is None else "sample" if tau > 0 else "mean"
        if kind not in found:
            found[kind] = _cost(partial(make, name, tau or 0.0), device)
        parts = [] if name == "bicubic" else model.children()
        used = [part for part in parts if part is not model.prior or name == "prior"]
        lines.append(
            {
                "scale": f"{scale:g}",
                "system": name,
                "parameters": sum(p.numel() for part in used for p in part.parameters()) / 1e6,
                **found[kind],
                "lr_size": f"{side}×{side}",
                "device": device_name(device),
            }
        )
    return lines


def _cost(make: Callable[[], Tensor], device: torch.device) -> Measured:
    with _one_thread(device), FlopCounterMode(display=False) as counter:
        memory = _peak(make, device)
    times: list[float] = []
    make()
    if device.type == "cuda":
        torch.cuda.synchronize(device)  # Or the first time would have the rest of this call in it.
    while len(times) < REPETITIONS and sum(times) < PATIENCE:
        began = time.perf_counter()
        make()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - began)
    return {"gmacs": counter.get_total_flops() / 2e9, "seconds": min(times), "memory": memory / 1e6}


@contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    # Torch counts operations and allocations of the thread that asks for it.
    before = torch.get_num_threads()
    torch.set_num_threads(1 if device.type == "cpu" else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _peak(make: Callable[[], Tensor], device: torch.device) -> int:
    """The most bytes that tensors take at once during a call, beyond those before it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        make()
        return torch.cuda.max_memory_allocated(device) - before
    # It would print that it starts, and that there is no GPU.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        make()
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    taken = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        taken += event.nbytes()
        peak = max(peak, taken)
    return peak


def device_name(device: torch.device) -> str:
    """A device for the record: the GPU's name, or the CPU's architecture and how many threads torch has there."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)}"
