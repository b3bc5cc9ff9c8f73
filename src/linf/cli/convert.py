"""The command ``linf convert``: the model in a checkpoint in another format."""

import io
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from linf.cli.options import MODEL_FILE, add_command, check_output
from linf.errors import UsageError
from linf.files import atomic_write, file_errors

NOT_IN_PUBLISHED = {
    "correlation": "how the latents of neighbouring patches are correlated",
    "tails": "how heavy the tails of its latents are",
    "usual_deviation": "how much noise is usual, by which `linf upscale` knows noisy images",
    "value_range": "which values are black and white",
}
"""What a model may know that the published format has no place for, by its name in the config."""


def add_convert(commands: Any) -> None:
    parser = add_command(
        commands, "convert", _convert, "convert any checkpoint to .safetensors or the published .pth"
    )
    parser.add_argument("source", type=Path, metavar="IN", help=MODEL_FILE)
    parser.add_argument(
        "out", type=Path, metavar="OUT", help="NAME.safetensors, or NAME.pth for the published format"
    )
    parser.add_argument(
        "--prior", type=Path, metavar="FILE", help="take the learned prior of a LINF from this file"
    )
    parser.add_argument(
        "--mean",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="average the weights of IN with those of other checkpoints, for instance of stage 2 with stage 1; give it "
        "after OUT",
    )
    parser.add_argument(
        "--half", action="store_true", help="write weights in half precision (.safetensors only)"
    )
    parser.add_argument("--force", action="store_true", help="overwrite OUT")


def _convert(given: Namespace) -> None:
    """Write the model in a checkpoint to a file of another format, chosen by the suffix of OUT."""
    import torch

    from linf.checkpoints.native import load, save
    from linf.checkpoints.published import to_published
    from linf.checkpoints.start import average_with

    out = given.out
    if out.suffix not in (".safetensors", ".pth"):
        raise UsageError(
            f"cannot write {out}: end its name in .safetensors, or in .pth for the published format"
        )
    if given.half and out.suffix == ".pth":
        raise UsageError("the published format has single precision: leave out --half, or write .safetensors")
    check_output(out, given.force)
    model = load(given.source, given.prior)
    if given.mean is not None:
        average_with(given.mean, model)
    with file_errors(f"cannot write {out}"):
        if out.suffix == ".safetensors":
            save(model, out, half=given.half)
        else:
            content = io.BytesIO()
            torch.save(to_published(model), content)
            with atomic_write(out) as part:
                part.write_bytes(content.getbuffer())
    print(f"{out}, {decimal(out.stat().st_size)}")
    if out.suffix == ".pth" and (
        lost := [what for name, what in NOT_IN_PUBLISHED.items() if name in model.config]
    ):
        print(f"note: {out} does not say {', nor '.join(lost)}: .safetensors does", file=sys.stderr)
