"""The command ``linf export``: a LINF as a graph that runs without this package."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from linf.cli.options import LINF_FILE, add_command, check_output
from linf.errors import UsageError
from linf.files import file_errors


def add_export(commands: Any) -> None:
    parser = add_command(
        commands, "export", _export, "write a model as a graph that runs without linf: torch.export or ONNX"
    )
    parser.add_argument("model", metavar="MODEL", help=LINF_FILE)
    parser.add_argument("out", type=Path, metavar="OUT", help="NAME.pt2 for torch.export.load, or NAME.onnx")
    parser.add_argument(
        "--opset", type=int, metavar="N", help="opset version of ONNX (default: the lowest possible)"
    )
    parser.add_argument("--force", action="store_true", help="overwrite OUT")


def _export(given: Namespace) -> None:
    """Write a LINF as one graph with the inputs lr, size, temperature and z, for images of any size; the file describes
    these inputs.

    The graph is checked against the model first. It takes whole images, without tiles, so memory grows with the output.
    A learned prior is left out.
    """
    from linf.checkpoints.export import OPSET, export
    from linf.checkpoints.native import load

    out = given.out
    check_output(out, given.force)
    if given.opset is not None and out.suffix == ".pt2":
        raise UsageError("--opset is of ONNX: leave it out, or write .onnx")
    model = load(given.model)
    with file_errors(f"cannot write {out}"):
        worst = export(model, out, opset=OPSET if given.opset is None else given.opset)
    checked = "not checked: install onnxruntime to have it checked"
    if worst is not None:
        checked = f"in its check at most {worst:.1e} from the model"
    print(f"{out}, {decimal(out.stat().st_size)}, {checked}")
