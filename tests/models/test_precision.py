"""TensorFloat-32 costs digits in the encoder and the conditioner, and none in the flow and the metrics."""

from contextlib import ExitStack
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

import linf
from helpers.paths import REFERENCE
from helpers.tf32 import tensor_float_32
from linf.models.flow import ConditionalFlow
from linf.models.precision import exact_product, exact_products, is_exact


def test_settings_old_and_new_are_understood() -> None:
    assert is_exact()
    try:
        torch.set_float32_matmul_precision("high")
        assert not is_exact()
        with exact_products():
            with exact_products():
                pass
            assert torch.backends.cuda.matmul.fp32_precision == "ieee"
        assert not is_exact()
        torch.set_float32_matmul_precision("highest")
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        assert not is_exact()
    finally:
        torch.backends.cuda.matmul.fp32_precision = "ieee"
        torch.set_float32_matmul_precision("highest")


def test_an_inherited_setting_stays_inherited() -> None:
    backends: Any = torch.backends
    places = backends.cuda.matmul, backends.mkldnn.matmul
    before = [place.fp32_precision for place in places]
    try:
        for place in places:
            place.fp32_precision = "none"
        backends.fp32_precision = "tf32"
        with exact_products():
            assert [place.fp32_precision for place in places] == ["ieee", "ieee"]
        assert [place.fp32_precision for place in places] == ["tf32", "tf32"]
        backends.fp32_precision = "ieee"
        assert [place.fp32_precision for place in places] == ["ieee", "ieee"]
        assert is_exact()
    finally:
        backends.fp32_precision = "none"
        for place, precision in zip(places, before, strict=True):
            place.fp32_precision = precision


def test_products_stay_exact_when_another_thread_ends_its_own() -> None:
    torch.manual_seed(0)
    flow, z = ConditionalFlow(3, steps=2), torch.randn(27, 200)
    flow.whiten(torch.randn(27, 500))
    condition, inverses = torch.randn(flow.condition_dim, 200), flow.inverses()
    expected = flow.mean_and_noise([z], condition, inverses)
    other = ExitStack()  # Its settings are of the process, so that one thread can stand for two.

    def mm(*args: Any, **kwargs: Any) -> Any:
        other.close()
        return torch.ops.aten.mm.out(*args, **kwargs)

    with tensor_float_32(), mock.patch("torch.mm", mm):
        other.enter_context(exact_products())
        found = flow.mean_and_noise([z], condition, inverses)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("dim", "compiled"), [(27, False), (27, True), (3, False), (3, True)])
def test_a_product_and_its_gradient_keep_their_digits(
    dim: int, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    a, b, c = torch.randn(dim, dim), torch.randn(dim, 500), torch.randn(dim, 1)
    factors = [t.clone().requires_grad_() for t in (a, b, c)]
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: compiled)
    with tensor_float_32():
        rough = a @ b + c
        product = exact_product(*factors)
        product.square().sum().backward()
    whole = [t.double().requires_grad_() for t in (a, b, c)]
    expected = whole[0] @ whole[1] + whole[2]
    expected.square().sum().backward()
    assert (rough - expected).abs().max() > 1e-3
    torch.testing.assert_close(product.double(), expected, rtol=0, atol=2e-5)
    for ours, theirs in zip(factors, whole, strict=True):
        assert theirs.grad is not None
        worst = (ours.grad - theirs.grad).abs().max() / theirs.grad.abs().max()
        # Products of few terms are compiled as sums, whose gradients are exact, too.
        assert worst < (1e-3 if compiled and dim > 3 else 1e-6)


@pytest.mark.parametrize("name", ["edsr_pixel", "edsr_patch3"])
def test_reference_cases_hold_in_tensor_float_32(name: str) -> None:
    model = linf.load(REFERENCE / f"{name}.pth")
    with np.load(REFERENCE / f"{name}.npz") as arrays:
        case = {key: torch.from_numpy(value) for key, value in arrays.items()}
    lr, size = (case["lr"] + 1) / 2, tuple(case["sr_tau0"].shape[-2:])
    z = case["z"].view(*case["coord"].shape[:3], -1)
    rows = size[0] // model.patch_size * model.patch_size
    residual = case["gt"]
    if model.patch_size == 1:
        residual = model.residual(lr, (residual + 1) / 2, case["coord"], case["cell"])
    with tensor_float_32() as emulated:
        images = model.sample(lr, size, temperature=[0, 0.8], z=z)
        log_prob = model.log_prob(lr, residual, case["coord"], case["cell"])
    assert emulated.rounded, "something is rounded"
    for image, key in zip(images, ("sr_tau0", "sr_tau08"), strict=True):
        assert (2 * image - 1 - case[key])[..., : rows - model.patch_size, :].abs().max() < 1e-3
    assert (log_prob.flatten() - case["log_p"]).abs().max() < 1e-3


@pytest.mark.parametrize("patch_size", [1, 3])
def test_the_flow_goes_there_and_back_in_tensor_float_32(patch_size: int) -> None:
    torch.manual_seed(0)
    flow = ConditionalFlow(patch_size)
    flow.whiten(0.1 * torch.randn(flow.dim, 500))
    x, condition = 0.1 * torch.randn(flow.dim, 200), 0.1 * torch.randn(flow.condition_dim, 200)
    with tensor_float_32():
        z, _ = flow(x, condition)
        back = flow.inverse(z, condition)
        both = flow.mean_and_noise([z], condition, flow.inverses()).sum(0)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-5)
    torch.testing.assert_close(both, x, rtol=0, atol=1e-5)
