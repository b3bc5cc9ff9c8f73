"""Lightning callbacks of training and evaluation."""

from linf.training.callbacks.checkpoint import CheckpointFiles, LastCheckpoint
from linf.training.callbacks.ema import EMA
from linf.training.callbacks.finite import StopAtNonFinite
from linf.training.callbacks.lpips import ValidationLPIPS
from linf.training.callbacks.panels import ImagePanels
from linf.training.callbacks.progress import ProgressBar
from linf.training.callbacks.signals import StopOnSignal
from linf.training.callbacks.throughput import Acceleration, Throughput

__all__ = [
    "EMA",
    "Acceleration",
    "CheckpointFiles",
    "ImagePanels",
    "LastCheckpoint",
    "ProgressBar",
    "StopAtNonFinite",
    "StopOnSignal",
    "Throughput",
    "ValidationLPIPS",
]
