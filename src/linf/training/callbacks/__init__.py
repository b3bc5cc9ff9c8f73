"""Lightning callbacks of training and evaluation."""

from linf.training.callbacks.best import BestCheckpoint
from linf.training.callbacks.checkpoint import CheckpointFiles, LastCheckpoint
from linf.training.callbacks.ema import EMA
from linf.training.callbacks.forecast import EvaluationForecast, Forecast
from linf.training.callbacks.summary import BicubicReference, RunSummary
from linf.training.callbacks.termination import ProgressBar, StopAtNonFinite, StopOnSignal
from linf.training.callbacks.throughput import Acceleration, Throughput
from linf.training.callbacks.validation import ImagePanels, ValidationLPIPS

__all__ = [
    "EMA",
    "Acceleration",
    "BestCheckpoint",
    "BicubicReference",
    "CheckpointFiles",
    "EvaluationForecast",
    "Forecast",
    "ImagePanels",
    "LastCheckpoint",
    "ProgressBar",
    "RunSummary",
    "StopAtNonFinite",
    "StopOnSignal",
    "Throughput",
    "ValidationLPIPS",
]
