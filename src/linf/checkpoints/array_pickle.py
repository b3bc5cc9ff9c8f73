"""Flax weights in a pickle of numpy arrays → torchvision's names and order. No file's code is ever run."""

import io
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from linf.errors import UsageError

ARRAY = (("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct"))
"""What makes an array out of a pickle, in numpy 1 and numpy 2."""


class Arrays(pickle.Unpickler):
    """Unpickles numpy arrays and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """Raise UsageError for all but what an array is made with."""
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if (module, name) in ARRAY:
            return np.empty(0).__reduce__()[0]
        raise UsageError(f"it holds {module}.{name}, and no file's code is ever run")


def convolutions(content: bytes, network: str, places: Sequence[int]) -> dict[str, Tensor]:
    """Convolutions of a network, by torchvision's names ``features.N.weight`` (out, in, kh, kw) and ``….bias``.

    Args:
        content: a pickle of ``{network: {"Conv_0": {"kernel": (kh, kw, in, out), "bias": (out,)}, …}}``.
        network: whose.
        places: N of each convolution in a row.

    Raises:
        UsageError: it holds more than arrays, or not these.
    """
    tensors: dict[str, Tensor] = {}
    try:
        layers = Arrays(io.BytesIO(content)).load()[network]
        for i, place in enumerate(places):
            kernel, bias = (np.asarray(layers[f"Conv_{i}"][key], np.float32) for key in ("kernel", "bias"))
            tensors[f"features.{place}.weight"] = torch.tensor(kernel.transpose(3, 2, 0, 1).copy())
            tensors[f"features.{place}.bias"] = torch.tensor(bias)
    except UsageError:
        raise
    except Exception as error:  # Unpickling answers a broken file with anything.
        raise UsageError(f"it has not the {len(places)} convolutions of {network}") from error
    return tensors
