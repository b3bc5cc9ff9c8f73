"""Sections `machine` and `parity`: what the card can do, and whether it computes what the published code did."""

import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import linf
from benchmarks.gpu.bars import MODES
from benchmarks.gpu.work import REFERENCE, Run, batch, milliseconds
from linf.checkpoints.published import published_prior
from linf.losses.flow import LikelihoodL1
from linf.metrics.networks import LPIPSNetwork
from linf.models.encoders import RDN, SwinIR
from linf.models.linf import LINF
from linf.models.prior import UNet

CASES = ("edsr_pixel", "edsr_patch3", "rrdb_patch3", "rrdb_pixel_out")


def machine(run: Run) -> None:
    """The ceilings that the other sections' times are to be read against."""
    side = 256 if run.tiny else 8192
    for name, dtype, precision in (
        ("bf16", torch.bfloat16, "IEEE"),
        ("TF32", torch.float32, "high"),
        ("fp32", torch.float32, "IEEE"),
    ):
        # Of noise: constants take less power, and so run faster.
        a, b = (torch.randn(side, side, device=run.device).to(dtype) for _ in range(2))
        with digits(precision):
            took = milliseconds(partial(torch.mm, a, b), warm=3)
        detail = _versions() if name == "bf16" else ""
        run.tell(f"product in {name}", 2 * side**3 / took / 1e9, "TFLOP/s", detail)
    source = torch.empty(2**20 if run.tiny else 2**32, dtype=torch.uint8, device=run.device)
    target = torch.empty_like(source)
    took = milliseconds(lambda: target.copy_(source), warm=3)
    run.tell("copy on the GPU", 2 * source.numel() / took / 1e9, "TB/s", "bytes read and written")
    few = torch.zeros(8, device=run.device)
    took = milliseconds(lambda: [few.add_(1) for _ in range(1000)])
    run.tell("launch of a kernel", took, "µs", "of the host, one after another")


def _versions() -> str:
    known = {"torch": str(torch.__version__)}
    if torch.cuda.is_initialized():
        known |= {
            "cuDNN": str(torch.backends.cudnn.version()),
            "NCCL": ".".join(map(str, torch.cuda.nccl.version())),
        }
        try:
            query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
            known["driver"] = subprocess.run(query, capture_output=True, text=True).stdout.split("\n")[0]
        except OSError:
            pass
    return ", ".join(f"{name} {version}" for name, version in known.items())


@contextmanager
def digits(mode: str) -> Iterator[None]:
    """float32 products and convolutions in IEEE precision, convolutions in TF32 (torch's default), or both (high)."""
    matmul, conv = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = matmul.fp32_precision, conv.fp32_precision
    matmul.fp32_precision = "tf32" if mode == "high" else "ieee"
    conv.fp32_precision = "ieee" if mode == "IEEE" else "tf32"
    try:
        yield
    finally:
        matmul.fp32_precision, conv.fp32_precision = before


def parity(run: Run) -> None:
    """Features, images and densities of the reference arrays in each precision; and a step's gradients."""
    cases = {name: _case(name, run.device) for name in CASES}
    encoders = {
        "encoder_swinir": SwinIR(24, (2, 2), (3, 3)),
        "encoder_rdn_narrow": RDN(3, 4, 8, 8),
    }
    with digits("IEEE"), torch.no_grad():
        off = {name: _features_off(model.encoder, arrays) for name, (model, arrays) in cases.items()}
        for name, encoder in encoders.items():
            off[name] = _features_off(_loaded(encoder, name).to(run.device), _arrays(name, run.device))
        _tell_worst(run, "features, IEEE", off)
        run.tell("latents of the learned prior, IEEE", _prior_off(run.device))
    there_and_back = {}
    for mode in MODES:
        images, log_p = {}, {}
        with digits(mode if mode in ("IEEE", "high") else "TF32 convolutions"), _autocast(run, mode):
            for name, (model, arrays) in cases.items():
                images[name], log_p[name] = _images_off(model, arrays), _log_p_off(model, arrays)
                there_and_back[f"{name}, {mode}"] = _there_and_back(model, arrays)
        _tell_worst(run, f"images, {mode}", images)
        _tell_worst(run, f"log p, {mode}", log_p)
    _tell_worst(run, "flow there and back, worst precision", there_and_back)
    with digits("IEEE"):
        model = cases["edsr_patch3"][0]
        run.tell("gradients of a step against the CPU's, IEEE", _gradients_off(model, run.device))
        for name, published in (("ex_p0", 0.722), ("ex_p1", 0.138)):
            lpips = LPIPSNetwork().to(run.device)
            value = float(lpips(_example(name).to(run.device), _example("ex_ref").to(run.device)))
            run.tell(f"LPIPS of {name}, off {published}", abs(value - published), detail=f"{value:.4f}")


def _tell_worst(run: Run, what: str, off: dict[str, float]) -> None:
    worst = max(off, key=lambda name: off[name])
    run.tell(what, off[worst], detail=worst)


def _autocast(run: Run, mode: str) -> AbstractContextManager[object]:
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(mode)
    return nullcontext() if dtype is None else torch.autocast(run.device.type, dtype)


def _arrays(name: str, device: torch.device) -> dict[str, Tensor]:
    with np.load(REFERENCE / f"{name}.npz") as arrays:
        return {key: torch.from_numpy(array).to(device) for key, array in arrays.items()}


def _case(name: str, device: torch.device) -> tuple[LINF, dict[str, Tensor]]:
    model = linf.load(REFERENCE / f"{name}.pth")
    assert isinstance(model, LINF)
    return model.to(device), _arrays(name, device)


def _loaded(encoder: nn.Module, name: str) -> nn.Module:
    state = torch.load(REFERENCE / f"{name}.pth", weights_only=True)["sd"]
    encoder.load_state_dict({key: value.float() for key, value in state.items()})
    return encoder.eval()


def _features_off(encoder: nn.Module, arrays: dict[str, Tensor]) -> float:
    height, width = arrays["lr"].shape[-2:]  # The published SwinIR pads to whole windows.
    return _off(encoder(arrays["lr"]), arrays["feat"][..., :height, :width])


def _off(ours: Tensor, published: Tensor) -> float:
    return float((ours.float() - published).abs().max())


def _images_off(model: LINF, arrays: dict[str, Tensor]) -> float:
    lr, (height, width) = (arrays["lr"] + 1) / 2, arrays["sr_tau0"].shape[-2:]
    z = arrays["z"].view(*arrays["coord"].shape[:3], -1)
    images = model.sample(lr, (height, width), temperature=[0, 0.8], z=z)
    # Patches of 3×3 whose centre lies beyond the edge have another coordinate in the published code.
    rows, cols = (slice(n - (n % 3 == 1 and model.patch_size == 3)) for n in (height, width))
    return max(
        _off((2 * ours - 1)[..., rows, cols], arrays[key][..., rows, cols])
        for ours, key in zip(images, ("sr_tau0", "sr_tau08"), strict=True)
    )


@torch.no_grad()
def _log_p_off(model: LINF, arrays: dict[str, Tensor]) -> float:
    lr, where = (arrays["lr"] + 1) / 2, (arrays["coord"], arrays["cell"])
    residual = arrays["gt"]
    if model.patch_size == 1:  # There it is an image.
        residual = model.residual(lr, (residual + 1) / 2, *where)
    return _off(model.log_prob(lr, residual, *where).flatten(), arrays["log_p"])


@torch.no_grad()
def _there_and_back(model: LINF, arrays: dict[str, Tensor]) -> float:
    condition = model.condition((arrays["lr"] + 1) / 2, arrays["coord"], arrays["cell"])
    x = torch.linspace(-1, 1, model.dim * condition.shape[-1], device=condition.device).view(model.dim, -1)
    return _off(model.flow.inverse(model.flow(x, condition)[0], condition), x)


def _prior_off(device: torch.device) -> float:
    _, weights = published_prior(torch.load(REFERENCE / "prior_patch3.pth", weights_only=True))
    prior, arrays = UNet(3, width=16), _arrays("prior_patch3", device)
    prior.load_state_dict(weights)
    return _off(prior.to(device).eval()(arrays["z_lr"], arrays["lr"]), arrays["z_hat"])


def _gradients_off(model: LINF, device: torch.device) -> float:
    """The largest difference of a parameter's gradient, relative to its norm."""
    gradients = []
    for place in (torch.device("cpu"), device):
        copy = deepcopy(model).to(place).train()
        LikelihoodL1(1.0, 1.0)(copy, batch(place, model.patch_size, 2, 16, 8))["loss"].backward()
        gradients.append({name: p.grad.cpu() for name, p in copy.named_parameters() if p.grad is not None})
    cpu, gpu = gradients
    return max(float((gpu[name] - g).norm() / g.norm().clamp(min=1e-12)) for name, g in cpu.items())


def _example(name: str) -> Tensor:
    pixels = np.asarray(Image.open(REFERENCE / "lpips" / f"{name}.png").convert("RGB"))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 255
