"""Flax weights in a pickle of numpy arrays, read without running code from the file."""

import io
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from linf.errors import UsageError


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles numpy arrays and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        # What rebuilds an array has one name in numpy 1 and another in numpy 2.
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np.empty(0).__reduce__()[0]
        raise UsageError(f"it holds {module}.{name}, and no file's code is ever run")


def read_convolutions(content: bytes, network: str, indices: Sequence[int]) -> dict[str, Tensor]:
    """Read a network's convolutions under torchvision's names and in its order of axes.

    Args:
        content: a pickle of ``{network: {"Conv_0": {"kernel": (kh, kw, in, out), "bias": (out,)}, …}}``.
        network: the network's key.
        indices: torchvision's index N of each convolution in turn.

    Returns:
        ``features.N.weight`` (out, in, kh, kw) and ``features.N.bias`` (out,) for each of them.

    Raises:
        UsageError: the pickle holds more than arrays, or not these convolutions.
    """
    tensors: dict[str, Tensor] = {}
    try:
        layers = _ArrayUnpickler(io.BytesIO(content)).load()[network]
        for i, index in enumerate(indices):
            kernel, bias = (np.asarray(layers[f"Conv_{i}"][key], np.float32) for key in ("kernel", "bias"))
            tensors[f"features.{index}.weight"] = torch.tensor(kernel.transpose(3, 2, 0, 1).copy())
            tensors[f"features.{index}.bias"] = torch.tensor(bias)
    except UsageError:
        raise
    except Exception as error:  # Unpickling answers a broken file with any exception.
        raise UsageError(f"it does not hold the {len(indices)} convolutions of {network}") from error
    return tensors
