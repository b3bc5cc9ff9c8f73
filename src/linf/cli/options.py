"""What several commands have in common: how they are added, a device, a file that is not overwritten unasked."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linf.errors import UsageError

if TYPE_CHECKING:
    import torch

MODEL_FILE = "photo, default (see `linf models`), or a .ckpt, .safetensors or published .pth"
LINF_FILE = f"{MODEL_FILE} of a LINF"


def add_command(commands: Any, name: str, run: Callable[[Namespace], None], about: str) -> ArgumentParser:
    """Add a command to subparsers; the function that runs it describes it by its docstring."""
    parser = commands.add_parser(name, help=about, description=run.__doc__)
    parser.set_defaults(run=run)
    return parser


def check_output(path: Path, force: bool) -> None:
    """Raise UsageError if an output file exists and ``--force`` is not given, if it is a folder, or if its folder is
    no folder or cannot be written to: what is written there may take minutes to compute.
    """
    if path.is_dir() or (path.exists() and not force):
        raise UsageError(f"{path} exists: choose another name" + (", or --force" if path.is_file() else ""))
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not (above.is_dir() and os.access(above, os.W_OK | os.X_OK)):
        reason = f"{above} is {'read-only' if above.is_dir() else 'a file'}"
        raise UsageError(f"cannot write {path}: {reason}; choose another folder")


def check_image_folders(folders: Sequence[str], name: str) -> None:
    """Raise UsageError if a folder of images is not there; ``name`` is what the command calls it."""
    missing = [folder for folder in folders if not Path(folder).expanduser().is_dir()]
    if missing:
        raise UsageError(f"no folder {', '.join(missing)}: give a folder of images as {name}")


def chosen_device(name: str) -> torch.device:
    """Return the device of ``--device``; raise UsageError if there is no such device."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        found = ["cpu", *(f"cuda:{n}" for n in range(torch.cuda.device_count()))]
        raise UsageError(f"--device {name} is not here: give auto or one of {', '.join(found)}") from error
    return device
