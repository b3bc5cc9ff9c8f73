"""TensorFloat-32 where there is no GPU: factors of float32 products rounded to 10 bits, as a recent GPU rounds them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

PRODUCTS = {"mm", "bmm", "addmm", "baddbmm", "convolution", "convolution_backward"}


class _Rounding(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.rounded = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split("::")[1]
        convolves = "convolution" in name
        if name in PRODUCTS and (convolves or torch.backends.cuda.matmul.fp32_precision == "tf32"):
            self.rounded += 1
            first = int(name in ("addmm", "baddbmm"))  # What is added is not rounded.
            args = (*args[:first], *tree_map(_rounded, args[first:]))
        return func(*args, **(kwargs or {}))


def _rounded(value: Any) -> Any:
    if not isinstance(value, Tensor) or value.dtype != torch.float32:
        return value
    return ((value.contiguous().view(torch.int32) + 4096) & -8192).view(torch.float32).view_as(value)


@contextmanager
def tensor_float_32() -> Iterator[_Rounding]:
    """What ``torch.set_float32_matmul_precision("high")`` and cuDNN's default mean on an Ampere GPU."""
    torch.set_float32_matmul_precision("high")
    # The CPU's own library would take bfloat16 for some of these settings.
    torch.backends.mkldnn.matmul.fp32_precision = "ieee"  # type: ignore[attr-defined]
    try:
        with _Rounding() as mode:
            yield mode
    finally:
        torch.set_float32_matmul_precision("highest")
