"""The model as a graph that runs without this package: `torch.export` and ONNX."""

import copy
import io
import json
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from linf.coordinates import patch_centres
from linf.errors import UsageError
from linf.files import atomic_write
from linf.models import DEFAULT_TEMPERATURE
from linf.models.explosion import EXPLODED
from linf.models.linf import LINF

OPSET = 18
"""The lowest opset that torch's exporter writes, and therefore the most widely supported."""

TOLERANCE = 1e-4
"""The largest accepted difference from the model, where white is 1."""

AXES = {
    "lr": {0: "batch", 2: "h", 3: "w"},
    "size": {},
    "temperature": {},
    "z": {0: "batch", 1: "gh", 2: "gw"},
}
"""The inputs of a graph in order, and their dynamic axes."""

_Run = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""A function of a graph's four inputs."""


class Graph(nn.Module):
    """The module that is exported: `LINF.sample` of whole images, with latents and temperature as inputs. It does not
    work in tiles, so that memory grows with the output: about 2 kB per pixel at P = 3, and nine times that at P = 1.
    The model is copied without its prior and what it knows of its latents.
    """

    inverses: Tensor

    def __init__(self, model: LINF) -> None:
        super().__init__()
        self.model = copy.deepcopy(model)
        self.model.set_prior(None)
        self.model.correlation = None
        self.register_buffer("inverses", model.flow.inverses().contiguous())
        self.eval().requires_grad_(False)

    def forward(self, lr: Tensor, size: Tensor, temperature: Tensor, z: Tensor) -> Tensor:
        """Super-resolve to (B,C,H,W), not clamped; as in `LINF.sample`, a patch beyond ±`EXPLODED` becomes its mean.

        Args:
            lr: (B,C,h,w) in [0, 1].
            size: (2,) int64, the output's H and W.
            temperature: (), τ ≥ 0, which multiplies z.
            z: (B,gh,gw,D) latents, gh = ceil(H/P), gw = ceil(W/P).
        """
        height, width = size.tolist()
        torch._check(height >= 1)
        torch._check(width >= 1)
        batch, dim, p = z.shape[0], z.shape[-1], self.model.patch_size
        rows, cols = (height + p - 1) // p, (width + p - 1) // p
        y, x = patch_centres(height, p, device=lr.device), patch_centres(width, p, device=lr.device)
        coord = torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1).expand(batch, -1, -1, -1)
        cell = (2 / size.to(lr.dtype)).expand(batch, -1)
        condition = self.model.condition(lr, coord, cell)
        latents = z.reshape(batch * rows * cols, dim).T
        flow = self.model.flow
        mean = flow.inverse(torch.zeros_like(latents), condition, self.inverses)
        noise = temperature * flow.inverse_linear(latents, condition, self.inverses)
        residual = torch.where((mean.abs() <= EXPLODED).all(0), mean, 0)
        residual = residual + torch.where((mean.abs() + noise.abs() <= EXPLODED).all(0), noise, 0)
        # Written so that torch 2.9 exports it, too: there, four dimensions and a slice would ask for numbers of pixels.
        patches = residual.view(dim, batch, rows * cols).transpose(0, 1).reshape(batch, dim, rows, cols)
        torch._check(height <= rows * p)
        torch._check(width <= cols * p)
        image = F.pixel_shuffle(patches, p).narrow(-2, 0, height).narrow(-1, 0, width)
        return F.interpolate(lr, (height, width), mode="bilinear", align_corners=False) + image / 2


def export(model: nn.Module, out: Path, *, opset: int = OPSET) -> float | None:
    """Write a model as a graph with the inputs and output of `Graph.forward`, and check it before it takes its place.

    Args:
        model: a LINF on the CPU.
        out: the file, ``.pt2`` for `torch.export.load`, or ``.onnx``.
        opset: the version of ONNX's operators.

    Returns:
        The largest difference from `LINF.sample`, where white is 1; None for ONNX without onnxruntime.

    Raises:
        UsageError: the model has no flow, the suffix or opset is not supported, a package is missing, the weights are
            too large for ONNX, or the graph differs from the model by more than `TOLERANCE`.
        OSError: the file cannot be written.
    """
    if not isinstance(model, LINF):
        raise UsageError(f"a {type(model).__name__} has no flow to export: give a LINF")
    if out.suffix not in (".pt2", ".onnx"):
        raise UsageError(f"cannot write {out}: end its name in .pt2 for torch.export, or in .onnx")
    if out.suffix == ".onnx":
        _check_onnx(model, opset)
    program = _program(model)
    with atomic_write(out) as part, _quiet():
        if out.suffix == ".pt2":
            content = io.BytesIO()  # On a full disk, torch's own writer aborts the process.
            torch.export.save(program, content, extra_files={"linf.txt": _description(model)})
            part.write_bytes(content.getbuffer())
            content.seek(0)
            run: _Run | None = torch.export.load(content).module()
        else:
            _write_onnx(model, program, part, opset)
            run = onnx_runner(part) if find_spec("onnxruntime") else None
        worst = difference(model, run) if run else None
        if worst is not None and not worst <= TOLERANCE:
            raise UsageError(
                f"{out} would differ from the model by {worst:.1e}, more than {TOLERANCE:g}: nothing is written; "
                "another version of torch or onnxscript may be exact"
            )
    return worst


def _program(model: LINF) -> torch.export.ExportedProgram:
    given = example(model, 2, 11, 13, 35, 44)
    shapes = tuple({axis: torch.export.Dim.DYNAMIC for axis in names} for names in AXES.values())
    with torch.no_grad(), _quiet():
        program = torch.export.export(Graph(model), given, dynamic_shapes=shapes)
    # Without the example inputs, no guards on their sizes are written, some of which depend only on memory layout.
    program.example_inputs = None
    for part in program.graph_module.modules():
        for node in part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # It contains paths of this machine.
    return program


def example(
    model: LINF, batch: int, h: int, w: int, height: int, width: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Make the same inputs of a `Graph` each time: a smooth image, its output size, τ = 0.8 and latents."""
    generator = torch.Generator().manual_seed(0)
    lr = F.interpolate(
        torch.rand(batch, model.image_channels, 3, 3, generator=generator), (h, w), mode="bilinear"
    )
    z = model.sample_latents((height, width), 0, batch=batch)
    return lr, torch.tensor([height, width]), torch.tensor(0.8), z


@torch.no_grad()
def difference(model: LINF, run: _Run) -> float:
    """Measure the largest difference of ``run`` from `LINF.sample` over several sizes."""
    worst = 0.0
    for case in ((1, 9, 7, 30, 23), (3, 5, 8, 5, 8), (1, 1, 3, 1, 16), (1, 16, 24, 53, 36)):
        given = example(model, *case)
        expected = model.sample(given[0], case[-2:], temperature=[float(given[2])], z=given[3])[0]
        worst = max(worst, float((run(*given) - expected).abs().max().nan_to_num(math.inf)))
    return worst


def onnx_runner(path: Path) -> _Run:
    """Load an ONNX file as a function of tensors, run by onnxruntime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(*given: Tensor) -> Tensor:
        arrays = {name: value.numpy() for name, value in zip(AXES, given, strict=True)}
        return torch.from_numpy(session.run(None, arrays)[0])

    return run


def _check_onnx(model: LINF, opset: int) -> None:
    if not (find_spec("onnx") and find_spec("onnxscript")):
        raise UsageError("writing .onnx requires ONNX: pip install 'linf[export]'")
    import onnx

    highest = onnx.defs.onnx_opset_version()
    if not OPSET <= opset <= highest:
        raise UsageError(f"opset {opset} cannot be written: give one from {OPSET} to {highest}")
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    if size > 2e9:
        raise UsageError(f"the weights are {size / 1e9:.1f} GB and one ONNX file holds 2: write .pt2")


def _write_onnx(model: LINF, program: torch.export.ExportedProgram, path: Path, opset: int) -> None:
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass
    from onnxscript import optimizer

    written = torch.onnx.export(
        program,
        dynamo=True,
        # The optimizer would drop 1e-9, which keeps area weights from 0 / 0, as if it were 0.
        optimize=False,
        verbose=False,
        opset_version=opset,
        input_names=list(AXES),
        output_names=["image"],
        dynamic_shapes=tuple(AXES.values()),
    )
    assert written is not None
    graph = written.model
    if graph.opset_imports[""] != opset:
        raise UsageError(f"opset {opset} cannot be written by this torch and onnxscript: give {OPSET}")
    optimizer.fold_constants(graph)
    optimizer.remove_unused_nodes(graph)
    ClearMetadataAndDocStringPass()(graph)
    graph.producer_name, graph.producer_version = "linf", metadata.version("linf")
    graph.doc_string = _description(model)
    facts = {"version": graph.producer_version, "patch_size": model.patch_size, "dim": model.flow.dim}
    graph.metadata_props["linf"] = json.dumps({**facts, "config": model.config})
    written.save(path, external_data=False)


def _description(model: LINF) -> str:
    """Describe inputs and output for a reader who has only the file."""
    p, d, c = model.patch_size, model.flow.dim, model.image_channels
    colours = "RGB in" if c == 3 else "channels in"
    return (
        "Super-resolution at any scale by a local implicit normalizing flow (arXiv 2303.05156). "
        f"lr: float32 (batch, {c}, h, w), {colours} [0, 1]. size: int64 (2,), height H and width W of the output. "
        f"temperature: float32 scalar from 0 up; 0 is the mean, {DEFAULT_TEMPERATURE} the usual sample. "
        f"z: float32 (batch, ceil(H/{p}), ceil(W/{p}), {d}), standard Gaussian; patch size P = {p}, D = {d}. "
        f"image: float32 (batch, {c}, H, W), not clamped to [0, 1]."
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters' logs and warnings, which are meant for their developers."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
