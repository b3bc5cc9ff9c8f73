"""A run's record, ``job.json`` in its folder: settings, state, result, error; and ``progress.json``: how far it is."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from linf.errors import find_mistake
from linf.files import atomic_write, folder_errors
from linf.locks import owner

RECORD_FILE = "job.json"
PROGRESS_FILE = "progress.json"

_ABOUT = (
    RECORD_FILE,
    PROGRESS_FILE,
    "run.json",
    *(f".hydra/{n}.yaml" for n in ("config", "hydra", "overrides")),
)
# What a folder says of its run.

_AT_START = ("init_from", "encoder_from")
# What only the first start of a run reads.


@dataclass
class JobRecord:
    """A run as its folder describes it.

    Attributes:
        state: ``new``, ``running``, ``finished``, ``failed``, ``stopped`` by a signal, or ``killed``, which left no
            time to write down another state; or ``unreadable``, for it is another user's.
        overrides: The settings of the command.
        settings: All settings.
        result: The run's figures of merit by name, once it has finished.
        error: The message of what made it fail.
        began: The local time of the start, ISO 8601.
        ended: The local time of the end.
        gpus: The GPUs that were chosen for it, by UUID, or by CUDA's number.
        earlier_seconds: The seconds that earlier starts of this run took, where this one continues them.
    """

    state: str = "new"
    overrides: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    result: dict[str, float] = field(default_factory=dict)
    error: str | None = None
    began: str | None = None
    ended: str | None = None
    gpus: list[str] = field(default_factory=list)
    earlier_seconds: float = 0.0

    def seconds_spent(self, folder: Path) -> float:
        """The seconds that the run in a folder has taken over all its starts; if killed, to its last sign of life."""
        progress, ended = read_progress(folder), self.ended or (now() if self.state == "running" else None)
        ended = ended or (progress.at if progress else None) or self.began
        if self.began is None or ended is None:
            return self.earlier_seconds
        latest = datetime.fromisoformat(ended) - datetime.fromisoformat(self.began)
        return self.earlier_seconds + max(latest.total_seconds(), 0)

    def seconds_to_go_on_from(self, folder: Path) -> float:
        """The seconds of `seconds_spent` if the next start goes on from what this run has saved, and otherwise 0."""
        return self.seconds_spent(folder) if _results(folder) else 0.0

    def has_finished(self, settings: Mapping[str, Any]) -> bool:
        """Tell whether the run has finished with these settings, perhaps in a folder that was moved since.

        Loggers do not count: no result depends on them, and some are named after the folders above.
        """
        return self.state == "finished" and _decisive(self.settings) == _decisive(settings)


def read_record(folder: Path) -> JobRecord:
    """Return the record in a run's folder; ``running`` becomes ``killed`` if no process holds the folder."""
    path = folder / RECORD_FILE
    try:
        record = JobRecord(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return JobRecord()
    except PermissionError as error:
        return JobRecord("unreadable", error=f"{path} cannot be read: {error.strerror}")
    except (OSError, ValueError, TypeError) as error:
        return JobRecord("killed", error=f"{path} cannot be read: {error}")
    if record.state == "running" and owner(folder) is None:
        record.state = "killed"
    return record


def write_record(folder: Path, record: JobRecord) -> None:
    """Write a record to a run's folder; raise UsageError if it cannot be written."""
    with folder_errors(folder), atomic_write(folder / RECORD_FILE) as part:
        text = json.dumps(asdict(record), indent=1, ensure_ascii=False) + "\n"
        # Half a character, of a file's name in another encoding, is written as JSON's own escape.
        part.write_text(text, encoding="utf-8", errors="backslashreplace")


@contextmanager
def unchanged_if_refused(folder: Path, sweeping: bool = False) -> Iterator[None]:
    """Let a folder go on describing its former run where the block ends by a user's mistake before it has any result.

    In a sweep ``job.json`` says all the same that the job failed, and so it does where the former run failed, too.
    """
    state = read_record(folder).state
    if state in ("new", "unreadable"):
        yield
        return
    kept = _ABOUT[1:] if sweeping or state == "failed" else _ABOUT
    before = {folder / name: (folder / name).read_bytes() for name in kept if (folder / name).is_file()}
    results = _results(folder)
    try:
        yield
    except Exception as error:
        # Hydra wraps a mistake in errors of its own, which `find_mistake` looks through.
        if find_mistake(error) is not None and _results(folder) == results:
            for path, content in before.items():
                with suppress(OSError), atomic_write(path) as part:
                    part.write_bytes(content)
        raise


def changed_settings(folder: Path, settings: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    """Return in words the settings that differ from those of the run that the folder goes on with; none of a new run.

    Args:
        folder: The run's folder, with the record of the former start.
        settings: All settings.
        given: The same before interpolation; those that follow another setting are left out.
    """
    former = dict(flat_settings(read_record(folder).settings)) if _results(folder) else {}
    present = dict(flat_settings(settings))
    return [
        f"{key} {former[key]} → {present[key]}"
        + " (only a new run, in another folder, reads it)" * (key in _AT_START)
        for key, value in flat_settings(given)
        if key in former and not isinstance(value, dict) and "${" not in str(value)
        if former[key] != present[key]
    ]


def _decisive(settings: Mapping[str, Any]) -> str:
    """Return the settings on which a run's result depends as text, the same in each folder."""
    kept = {key: value for key, value in settings.items() if key != "logger"}
    folder, text = settings.get("run_dir"), json.dumps(kept, sort_keys=True)
    return text.replace(json.dumps(folder)[1:-1], "run_dir") if folder else text


def flat_settings(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every dotted key below a node of plain dicts, with its value."""
    for key, value in node.items() if isinstance(node, dict) else ():
        yield f"{prefix}{key}", value
        yield from flat_settings(value, f"{prefix}{key}.")


def _results(folder: Path) -> dict[Path, int]:
    """The times at which checkpoints were saved or images measured."""
    return {
        path: path.stat().st_mtime_ns for of in ("checkpoints", "units") for path in folder.glob(f"{of}/*")
    }


@dataclass(frozen=True)
class TrainingProgress:
    """How far a training is.

    Attributes:
        step: The number of steps that are done, those before a resume included.
        steps: The number of all steps; None if there is no limit.
        speed: Steps a second lately, without validations; None before it is known.
        seconds_left: The time to the end, validations included; None before it is known.
        parameters: The number of the model's parameters.
        at: The local time when this was so, ISO 8601.
    """

    step: int
    steps: int | None
    speed: float | None
    seconds_left: float | None
    parameters: int
    at: str


def read_progress(folder: Path) -> TrainingProgress | None:
    """Return how far the training in a run's folder is; None if that is not known."""
    try:
        return TrainingProgress(**json.loads((folder / PROGRESS_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def now() -> str:
    """Return the local time, ISO 8601, to the second."""
    return datetime.now().isoformat(timespec="seconds")
