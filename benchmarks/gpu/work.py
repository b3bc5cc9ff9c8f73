"""What the sections share: how to report a figure, to time work on a device, and to run the commands."""

import gc
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

import linf.runs.entry  # noqa: F401  # Registers the resolvers of conf.
from linf.data.crops import SRBatch
from linf.models.conditioner import FourierConditioner
from linf.models.encoders import EDSR, RRDBNet, SwinIR
from linf.models.flow import ConditionalFlow
from linf.models.linf import LINF

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "tests" / "reference"


class Figure(NamedTuple):
    """One line of the table."""

    what: str
    value: float
    unit: str = ""
    detail: str = ""


class Run(NamedTuple):
    """One run of a section."""

    send: Callable[[Figure], None]
    tiny: bool
    folder: Path

    @property
    def device(self) -> torch.device:
        return torch.device("cpu" if self.tiny else "cuda")

    @property
    def trainer(self) -> tuple[str, ...]:
        """The overrides for the device. Named, a GPU may be shared: commands would wait for one that is free."""
        return ("trainer=cpu",) if self.tiny else ("trainer=gpu", "trainer.devices=[0]")

    @property
    def ddp(self) -> tuple[str, ...]:
        """The overrides for one rank under DDP."""
        place = ("cpu", "1") if self.tiny else ("gpu", "[0]")
        return ("trainer=ddp", f"trainer.accelerator={place[0]}", f"trainer.devices={place[1]}")

    @property
    def plain(self) -> tuple[str, ...]:
        """The overrides that train in fp32 without what makes it fast."""
        return *self.trainer, "speed=none"

    def tell(self, what: str, value: float, unit: str = "", detail: str = "") -> None:
        """Report a figure; the unit is that of its bar where it has one."""
        self.send(Figure(what, float(value), unit, detail))


def sync() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def release() -> None:
    """Free what earlier work left, and count peak memory from here on."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_bytes() -> int:
    """The most memory of the GPU since `release`."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_initialized() else 0


def milliseconds(work: Callable[[], object], runs: int = 10, warm: int = 2) -> float:
    """Median time of a call, from an idle GPU to an idle GPU."""
    times = []
    for _ in range(warm + runs):
        sync()
        began = time.perf_counter()
        work()
        sync()
        times.append(1e3 * (time.perf_counter() - began))
    return statistics.median(times[warm:])


def published(run: Run, encoder: str, patch_size: int) -> LINF:
    """LINF at its published size, or tiny, with random weights of a harmless size."""
    torch.manual_seed(0)
    encoders: dict[str, Callable[[], Any]] = {
        "EDSR-baseline": lambda: EDSR(1, 8) if run.tiny else EDSR(),
        "RRDB": lambda: RRDBNet(8, 1, 4) if run.tiny else RRDBNet(),
        "SwinIR": lambda: SwinIR(12, (2,), (2,), out_channels=8) if run.tiny else SwinIR(),
    }
    conditioner = partial(FourierConditioner, width=16) if run.tiny else FourierConditioner
    flow = ConditionalFlow(patch_size, steps=2 if run.tiny else 10)
    model = LINF(encoders[encoder](), conditioner, flow).to(run.device).eval()
    model.initialise([batch(run.device, patch_size, 4, 16, 16)])
    return model


def batch(
    device: torch.device, patch_size: int, size: int, crop: int, side: int, window: bool = False
) -> SRBatch:
    """A batch of noise at ×3.5: ``size`` crops of crop² with side² patches each, anywhere or in one window."""
    generator = torch.Generator().manual_seed(0)
    high = round(3.5 * crop)
    coord = torch.rand(size, side, side, 2, generator=generator) * 1.8 - 0.9
    if window:
        centres = (patch_size * torch.arange(side) + patch_size / 2) * 2 / high - 1
        coord = torch.stack(torch.meshgrid(centres, centres, indexing="ij"), -1).expand_as(coord)
    return SRBatch(
        torch.rand(size, 3, crop, crop, generator=generator).to(device),
        torch.rand(size, 3 * patch_size**2, side, side, generator=generator).to(device),
        coord.contiguous().to(device),
        torch.full((size, 2), 2 / high, device=device),
    )


def composed(name: str, folder: Path, *overrides: str) -> DictConfig:
    """The config with which ``train.py`` or ``eval.py`` would run."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose(name, [f"run_dir={folder}", *overrides])
