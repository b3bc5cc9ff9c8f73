"""Files of `torch.save`, read without running any of their code; numbers and arrays of numpy's come as plain data."""

import argparse
import os
import pathlib
from typing import Any

import numpy as np
import torch


class _DType:
    """What stands for a numpy dtype: its letters, and the order of its bytes."""

    def __init__(self, letters: str, *_: object) -> None:
        self.letters, self.order = letters, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]

    def read(self, content: bytes | str, shape: tuple[int, ...] = ()) -> np.ndarray:
        """Return an array of this type; NumPy refuses to make Python's objects of bytes."""
        data = content.encode("latin1") if isinstance(content, str) else content
        dtype = np.dtype(self.letters)
        if self.order in ("<", ">"):
            dtype = dtype.newbyteorder("<" if self.order == "<" else ">")
        return np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="))


class _Array:
    """What stands for a numpy array; ``value`` is the array."""

    value: np.ndarray

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, content = state
        array = dtype.read(content, tuple(shape)[:: -1 if fortran else 1])
        self.value = array.T if fortran else array


def _scalar(dtype: _DType, content: bytes | str) -> Any:
    return dtype.read(content).item()


def _reconstruct(*_: object) -> _Array:
    return _Array()


_HARMLESS: list[Any] = [
    (_DType, "numpy.dtype"),
    (_Array, "numpy.ndarray"),
    # One name in numpy 1 and another in numpy 2.
    *((_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((_reconstruct, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    argparse.Namespace,
    # Paths are pickled by the class of the system that wrote them.
    *((pathlib.PurePosixPath, f"{module}.PosixPath") for module in ("pathlib", "pathlib._local")),
    *((pathlib.PureWindowsPath, f"{module}.WindowsPath") for module in ("pathlib", "pathlib._local")),
]
"""What may stand beside tensors in a file: classes and functions of ours, and of Python's that only hold values."""


def read_pickle(path: str | os.PathLike[str], *, mmap: bool = False) -> Any:
    """Read a file that `torch.save` wrote, on the CPU.

    Numbers of numpy's come as Python's. ``mmap`` leaves the weights on the disk, which only the zip format allows.

    Raises:
        UnpicklingError: It holds something that is neither a tensor nor plain data.
        Exception: Readers answer a broken file with any other.
    """
    with torch.serialization.safe_globals(_HARMLESS):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


def plain_state(state: dict[str, Any]) -> dict[str, Any]:
    """Return a state dict with the names that its network had before it was wrapped, and all values as tensors.

    DataParallel puts ``module.`` before the names in what it wraps, `torch.compile` ``_orig_mod.``.
    """
    plain = {}
    for key, value in state.items():
        name = ".".join(part for part in key.split(".") if part not in ("module", "_orig_mod"))
        plain[name] = torch.from_numpy(value.value) if isinstance(value, _Array) else value
    return plain
