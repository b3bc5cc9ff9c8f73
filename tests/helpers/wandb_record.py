"""What an offline W&B run has recorded, read from its file as `wandb sync` reads it."""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

BLOCK, HEADER = 2**15, 7
"""Bytes of a block of the file, which is a log as LevelDB writes it, and of the header of a file and of a record."""


@dataclass
class RecordedRun:
    """A run of W&B: what its page shows, and the last value under each name of its summary."""

    name: str = ""
    group: str = ""
    job_type: str = ""
    tags: list[str] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    artifacts: list[tuple[str, list[str]]] = field(default_factory=list)
    """Type and aliases of each."""


def recorded_run(folder: Path) -> RecordedRun:
    """The one run that is recorded below the folder of a run of ours."""
    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    run = RecordedRun()
    for record in map(Record.FromString, _records(file.read_bytes())):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.name, run.group, run.job_type = (
                record.run.display_name,
                record.run.run_group,
                record.run.job_type,
            )
            run.tags = list(record.run.tags)
        elif kind == "summary":
            for item in record.summary.update:
                run.summary["/".join([item.key, *item.nested_key]).strip("/")] = json.loads(item.value_json)
        elif kind == "artifact":
            run.artifacts.append((record.artifact.type, sorted(record.artifact.aliases)))
        elif kind == "request" and record.request.WhichOneof("request_type") == "log_artifact":
            artifact = record.request.log_artifact.artifact
            run.artifacts.append((artifact.type, sorted(artifact.aliases)))
    return run


def _records(content: bytes) -> Iterator[bytes]:
    assert content[:4] == b":W&B"
    position, parts = HEADER, b""
    while position < len(content):
        left = BLOCK - position % BLOCK
        if left < HEADER:  # Padding at the end of a block.
            position += left
            continue
        length, kind = struct.unpack("<HB", content[position + 4 : position + HEADER])
        parts += content[position + HEADER : position + HEADER + length]
        position += HEADER + length
        if kind in (1, 4):  # A whole record, or the last part of one.
            yield parts
            parts = b""
