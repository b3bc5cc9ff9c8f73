"""The command ``linf models``: the models that come with the package."""

from argparse import Namespace
from typing import Any

from rich.filesize import decimal

from linf.cli.options import add_command


def add_models(commands: Any) -> None:
    add_command(commands, "models", _models, "list the models in the package, and say which to use")


def _models(given: Namespace) -> None:
    """List the models that come with the package: what each is for, its training, limits and size."""
    from linf.checkpoints.native import load, resolve_path
    from linf.checkpoints.shipped import SHIPPED

    for name, model in SHIPPED.items():
        loaded, file = load(name), resolve_path(name)
        size = sum(p.numel() for p in loaded.parameters())
        facts = {
            "for": model.take,
            "training": model.training,
            "limits": model.limits,
            "size": f"{size:,} parameters, {decimal(file.stat().st_size)}",
        }
        print(name)
        print("\n".join(f"  {key:9} {value}" for key, value in facts.items()))
