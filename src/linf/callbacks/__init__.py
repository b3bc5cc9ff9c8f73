"""What happens beside training and evaluation, for Lightning."""

from linf.callbacks.averaging import EMA
from linf.callbacks.pictures import PicturePanels
from linf.callbacks.progress import ProgressBar
from linf.callbacks.saving import CheckpointFiles, LastCheckpoint
from linf.callbacks.speed import Acceleration, Throughput
from linf.callbacks.stopping import StopAtNonFinite, StopOnSignal

__all__ = [
    "EMA",
    "Acceleration",
    "CheckpointFiles",
    "LastCheckpoint",
    "PicturePanels",
    "ProgressBar",
    "StopAtNonFinite",
    "StopOnSignal",
    "Throughput",
]
