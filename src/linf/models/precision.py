"""Matrix products in IEEE single precision, whatever digits torch was told to trade for speed elsewhere.

``torch.set_float32_matmul_precision("high")``, as Lightning recommends on recent GPUs, rounds the factors of every
float32 product to 10 bits. An encoder bears that; the flow, which is inverted, does not.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import torch
from torch import Tensor

_PLACES: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
SMALL = 4
"""The most terms of a product that is compiled as a sum: those of single pixels."""
_lock = Lock()
_entered = 0
_before: list[str] = []


@torch.compiler.assume_constant_result  # A graph is made for the setting at that time.
def is_exact() -> bool:
    """Whether torch makes float32 matrix products in IEEE single precision by itself, on GPUs and CPUs; not so during
    `exact_products`, which may be another thread's and end at any time.
    """
    with _lock:
        return not _entered and all(place.fp32_precision in ("ieee", "none") for place in _PLACES)


@contextmanager
def exact_products() -> Iterator[None]:
    """Make float32 matrix products in IEEE single precision during the block, in all threads."""
    global _entered, _before
    if is_exact():
        yield
        return
    with _lock:
        if not _entered:
            _before = [place.fp32_precision for place in _PLACES]
            for place in _PLACES:
                place.fp32_precision = "ieee"
        _entered += 1
    try:
        yield
    finally:
        with _lock:
            _entered -= 1
            if not _entered:
                for place, precision in zip(_PLACES, _before, strict=True):
                    # First back to what `torch.backends` sets, so that an inherited setting stays inherited.
                    place.fp32_precision = "none"
                    if place.fp32_precision != precision:
                        place.fp32_precision = precision


def exact_product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """``a b + bias`` in IEEE single precision, forward and backward; (D, E), (E, N), (D, 1) → (D, N)."""
    if torch.compiler.is_compiling() and not torch.compiler.is_exporting() and a.shape[1] <= SMALL:
        # The compiler makes one kernel of these and all around them; each matrix product would be one of its own.
        product = (a[:, :, None] * b).sum(1)
        return product if bias is None else bias + product
    if is_exact() or a.dtype != torch.float32:
        return a @ b if bias is None else torch.addmm(bias, a, b)
    if torch.compiler.is_compiling():  # A graph holds no settings.
        product = _split_product(a, b)
        return product if bias is None else bias + product
    product = _ExactProduct.apply(a, b)
    return product if bias is None else bias + product


class _ExactProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        with exact_products():
            return a @ b

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        with exact_products():
            return grad @ b.T, a.T @ grad


def _split_product(a: Tensor, b: Tensor) -> Tensor:
    """A product from parts of 10 bits, which no setting rounds; the gradient's factors may be rounded."""
    (a_high, a_low), (b_high, b_low) = _split(a), _split(b)
    return a_high @ b_high + (a_high @ b_low + a_low @ b_high)


def _split(x: Tensor) -> tuple[Tensor, Tensor]:
    """The leading 10 bits of each value, which carry the gradient, and the rest."""
    low = x.detach() - ((x.detach().view(torch.int32) + 4096) & -8192).view(torch.float32)
    return x - low, low
