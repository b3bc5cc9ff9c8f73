"""A section in a process of its own."""

import importlib
import os
import traceback
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from benchmarks.gpu.commands import redirect
from benchmarks.gpu.work import Run

MODULES = {
    "benchmarks.gpu.numbers": ("machine", "parity"),
    "benchmarks.gpu.training": ("waits", "step", "loader", "fp16"),
    "benchmarks.gpu.images": ("images", "evaluation"),
    "benchmarks.gpu.runs": ("resume", "ranks", "shortage"),
}
HEAVY = [
    "hydra",
    "pytorch_lightning",
    "linf.training.callbacks",
    "linf.evaluation.evaluation",
    "linf.report.publish",
    "benchmarks.gpu.work",
]
"""What a process imports before it forks the sections and the commands that they run."""


def alone(section: str, tiny: bool, folder: Path, results: Connection) -> None:
    """Run a section in this process, and send its figures; then None, or what went wrong."""
    os.setpgid(0, 0)  # It is ended with all that it started.
    redirect(folder / "log")
    run = Run(results.send, tiny, folder)
    try:
        if tiny:
            torch.set_num_threads(1)
        (module,) = (name for name, sections in MODULES.items() if section in sections)
        getattr(importlib.import_module(module), section)(run)
        results.send(None)
    except BaseException as error:
        traceback.print_exc()
        results.send(f"{type(error).__name__}: {error}")
