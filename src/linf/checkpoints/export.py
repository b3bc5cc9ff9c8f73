"""Writing a model as a graph that runs without this package: `torch.export` and ONNX."""

import io
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from linf.checkpoints.graph import AXES, Graph, Run, description, difference, example
from linf.errors import UsageError
from linf.files import atomic_write
from linf.models.linf import LINF

OPSET = 18
"""The lowest opset that torch's exporter writes, and therefore the most widely supported."""

TOLERANCE = 1e-4
"""The largest accepted difference from the model, where white is 1."""


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
            torch.export.save(program, content, extra_files={"linf.txt": description(model)})
            part.write_bytes(content.getbuffer())
            content.seek(0)
            run: Run | None = torch.export.load(content).module()
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


def onnx_runner(path: Path) -> Run:
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
    graph.doc_string = description(model)
    facts = {"version": graph.producer_version, "patch_size": model.patch_size, "dim": model.flow.dim}
    graph.metadata_props["linf"] = json.dumps({**facts, "config": model.config})
    written.save(path, external_data=False)


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
