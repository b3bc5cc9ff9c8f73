"""The loss as one graph: no break, and none made anew for other scales."""

import re
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import _dynamo
from torch._dynamo.testing import CompileCounterWithBackend
from torch._inductor.utils import run_and_get_code

from helpers.networks import write_network
from linf.checkpoints.native import save
from linf.data.crops import SRBatch
from linf.losses.distillation import Teacher
from linf.losses.flow import Finetune, LikelihoodL1
from linf.losses.perceptual import LearnedPerceptual, Perceptual
from linf.losses.prior import LearnedPrior
from linf.losses.regression import RegressionL1
from linf.models.baselines import LIIF, LTE, LIIFConditioner
from linf.models.conditioner import FourierConditioner
from linf.models.encoders import EDSR, RDN, Encoder, RRDBNet, SwinIR
from linf.models.flow import ConditionalFlow
from linf.models.linf import LINF
from linf.models.prior import UNet

ENCODERS: dict[str, Callable[[], Encoder]] = {
    "edsr": lambda: EDSR(1, 8),
    "rdn": lambda: RDN(1, 2, 8, 8),
    "rrdb": lambda: RRDBNet(blocks=1, channels=8, growth=8),
    "swinir": lambda: SwinIR(12, (2,), (2,), window=4, out_channels=6, drop_path=0.5),
}
LOSSES = {
    "nll": LikelihoodL1(),
    "mixture": LikelihoodL1(0.05, 10.0),
    "finetune": Finetune(perceptual=0.0),
}
IN_CI = ("edsr", 3, "mixture")
CASES = [
    pytest.param(*case, marks=pytest.mark.slow if case == IN_CI else pytest.mark.thorough)
    for case in product(ENCODERS, (1, 3), LOSSES)
]


def batch(patch_size: int, size: int) -> SRBatch:
    """Samples of an HR image with this many pixels a side."""
    lr, hr = torch.rand(2, 3, 12, 12), torch.rand(2, 3 * patch_size**2, 4, 4)
    return SRBatch(lr, hr, torch.rand(2, 4, 4, 2) * 2 - 1, torch.full((2, 2), 2 / size))


def graphs(loss: Any, model: Any, patch_size: int, made: Callable[[int, int], SRBatch] = batch) -> int:
    """Graphs that twenty steps at other scales make; a break is an error."""
    _dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(loss.__call__, backend=counter, fullgraph=True)
    for step in range(20):
        model.encoder.draw(0, 2 * step, 2, torch.device("cpu"))
        compiled(model, made(patch_size, 24 + 2 * step))["loss"].backward()
    return counter.frame_count


@pytest.mark.parametrize(("encoder", "patch_size", "loss"), CASES)
def test_a_step_is_one_graph_at_all_scales(encoder: str, patch_size: int, loss: str) -> None:
    model = LINF(
        ENCODERS[encoder](), partial(FourierConditioner, width=8), ConditionalFlow(patch_size, steps=2)
    )
    assert graphs(LOSSES[loss], model.train(), patch_size) == 1


def windows(patch_size: int, size: int) -> SRBatch:
    """As `batch`, with contiguous windows of 8×8 patches."""
    centres = torch.arange(8) * patch_size + patch_size // 2
    coord = torch.stack(torch.meshgrid(centres, centres, indexing="ij"), -1).expand(2, -1, -1, -1)
    lr, hr = torch.rand(2, 3, 12, 12), torch.rand(2, 3 * patch_size**2, 8, 8)
    return SRBatch(lr, hr, (2 * coord + 1) / size - 1, torch.full((2, 2), 2 / size))


@pytest.mark.parametrize(
    "task",
    [
        pytest.param("prior", marks=pytest.mark.slow),
        *(pytest.param(task, marks=pytest.mark.thorough) for task in ("lpips", "perceptual", "dists")),
    ],
)
def test_windows_are_one_graph_at_all_scales(task: str, tmp_path: Path) -> None:
    prior = UNet(3, width=8, depth=1) if task == "prior" else None
    model = LINF(EDSR(1, 8), partial(FourierConditioner, width=8), ConditionalFlow(3, steps=2), prior).train()
    loss: Any = LearnedPrior(perceptual=0.0, l1=1.0, l1_latent=1.0)
    if task != "prior":
        made = Perceptual if task == "perceptual" else partial(LearnedPerceptual, task)
        weights = write_network(tmp_path / "vgg16.pth")
        more: dict[str, Any] = {}
        if task == "lpips":  # All that the other graphs have, too.
            save(LIIF(EDSR(1, 8), partial(LIIFConditioner, width=8)), tmp_path / "liif.safetensors")
            teacher = partial(Teacher, tmp_path / "liif.safetensors")
            more = {"consistency": 3, "through_mean": 0.5, "distillation": 1.0, "teacher": teacher}
        loss = Finetune(features=partial(made, weights=weights), **more)
    assert graphs(loss, model, 3, windows) == 1


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("model", "conditioner"),
    [
        (LIIF, partial(LIIFConditioner, width=8)),
        (LTE, partial(FourierConditioner, width=8, ensemble="local")),
    ],
)
def test_regression_is_one_graph(model: Any, conditioner: Any) -> None:
    assert graphs(RegressionL1(), model(EDSR(1, 8), conditioner).train(), 1) == 1


@pytest.mark.thorough
def test_a_compiled_step_of_edsr_baseline_has_few_calls() -> None:
    model = LINF(EDSR(), partial(FourierConditioner, width=8), ConditionalFlow(1)).train()
    compute = torch.compile(LOSSES["nll"].__call__, fullgraph=True)
    _dynamo.reset()
    _, graphs = run_and_get_code(lambda: compute(model, batch(1, 30))["loss"].backward())
    call = re.compile(r"^ +(?:buf\d+ = )?(?:cpp_fused\w*\(|extern_kernels\.|torch\.ops\.)", re.MULTILINE)
    assert 100 < sum(len(call.findall(graph)) for graph in graphs) <= 250


@pytest.mark.slow
def test_the_gradient_of_a_graph_is_that_of_the_step() -> None:
    torch.manual_seed(0)
    model = LINF(EDSR(1, 8), partial(FourierConditioner, width=8), ConditionalFlow(3, steps=2)).train()
    samples, gradients = batch(3, 30), []
    _dynamo.reset()
    for compute in (LOSSES["mixture"], torch.compile(LOSSES["mixture"].__call__, backend="aot_eager")):
        model.zero_grad()
        compute(model, samples)["loss"].backward()  # type: ignore[operator]
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for eager, compiled in zip(*gradients, strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-6)
