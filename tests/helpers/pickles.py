"""Pickles that run code, which no reader of this project may do."""

import os
from pathlib import Path
from typing import Any


class Malicious:
    """Makes the folder ``marker`` when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)
