"""What a run says: plain lines on the terminal, and the same lines with their times in the log of its folder.

`conf/hydra/default.yaml` names the classes. Everything that a run says is logged; a progress bar alone is only drawn.
"""

import logging
import sys
import warnings
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

OURS = ("linf", "hydra_plugins", "__main__")
"""The first parts of the names of loggers that are heard from information on; those of libraries from warnings on."""


class Heard(logging.Filter):
    """Passes the records that a user can do something with."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING or record.name.partition(".")[0] in OURS


class PlainLine(logging.Formatter):
    """Formats a record as its message, with a word before it if it is a warning or an error."""

    def format(self, record: logging.LogRecord) -> str:
        word = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return word + super().format(record)


class Terminal(logging.StreamHandler[Any]):
    """Prints records above a progress bar, if one is drawn."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            bars = sys.modules.get("tqdm")
            if bars is None:
                self.stream.write(self.format(record) + "\n")
            else:
                bars.tqdm.write(self.format(record), file=self.stream)
            self.flush()
        except Exception:  # As in every handler of logging: it says what failed, and the run goes on.
            self.handleError(record)


class LogFile(logging.FileHandler):
    """Writes records to the log in the run's folder; where it cannot, as on a full disk, it warns once."""

    lost = False

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self.lost:
            self.lost = True
            log.warning("%s is incomplete: %s", self.baseFilename, error.strerror)


def log_printed(line: str, error: BaseException | None = None) -> None:
    """Log a line that the terminal has already, with the traceback of an error if one is given."""
    info = None if error is None else (type(error), error, error.__traceback__)
    level = logging.ERROR if line.startswith("error: ") else logging.INFO
    record = logging.LogRecord("linf", level, __file__, 0, line.removeprefix("error: "), (), info)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)


def log_warnings() -> None:
    """Log Python's warnings from now on, each as one line, without those about what this project does on purpose."""
    warnings.showwarning = _log_warning
    for pattern in (
        r"`isinstance\(treespec, LeafSpec\)`",
        r"Found \d+ module\(s\) in eval mode at the start of training",
        r"Checkpoint directory .* exists and is not empty",
        r"The `srun` command is available on your system but is not used",
        r"Total length of `SteadyLoader` across ranks is zero",  # Of an evaluation that was finished before.
        r"The '\w+_dataloader' does not have many workers",
        r"This DataLoader will create \d+ worker processes in total",  # Two by default, also on a single core.
        r"The PyTorch Profiler default schedule will be overridden",
        r"You requested to overfit but enabled train dataloader shuffling",
        r"The number of training batches \(\d+\) is smaller than the logging interval",
        # Metrics of validation are those of all ranks already, also of a rank that had no image at a scale.
        r"It is recommended to use `self.log\('(val|bicubic)/",
        r"The ``compute`` method of metric PSNR was called before",
    ):
        warnings.filterwarnings("ignore", message=pattern)


def _log_warning(message: object, category: object, filename: str, lineno: int, *_: Any, **__: Any) -> None:
    text = " ".join(str(message).split())
    logging.getLogger("py.warnings").warning("%s (%s:%d)", text, Path(filename).name, lineno)
