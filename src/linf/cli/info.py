"""The command ``linf info``: the model in a checkpoint, its settings and its size."""

import zipfile
from argparse import Namespace
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from linf.cli.options import MODEL_FILE, add_command


def add_info(commands: Any) -> None:
    parser = add_command(commands, "info", _info, "show what a checkpoint holds")
    parser.add_argument("file", type=Path, metavar="FILE", help=MODEL_FILE)


def _info(given: Namespace) -> None:
    """Show what a checkpoint holds: its kind, the model with its settings, and the number of parameters."""
    from linf.checkpoints.native import load_any, resolve_path
    from linf.models.prior import UNet

    file = resolve_path(given.file)
    model = load_any(file)
    kind, facts = _kind(file)
    config: dict[str, Any] = {"prior": model.config} if isinstance(model, UNet) else model.config
    parts = {"prior": model} if isinstance(model, UNet) else dict(model.named_children())
    rows = [
        ("file", f"{file}, {decimal(file.stat().st_size)}"),
        ("kind", kind),
        ("model", type(model).__name__),
    ]
    for part, module in parts.items():
        settings = {key: value for key, value in config.get(part, {}).items() if key != "name"}
        listed = ", ".join(f"{key} {value}" for key, value in settings.items())
        rows.append((part, f"{type(module).__name__}{': ' * bool(listed)}{listed}; {_count(module)}"))
    rows += [("total", _count(model)), *facts.items()]
    if "value_range" in config:
        rows.append(("values", "{:g} is black, {:g} is white".format(*config["value_range"])))
    width = max(len(key) for key, _ in rows)
    print("\n".join(f"{key:{width}}  {value}" for key, value in rows))


def _count(module: Any) -> str:
    return f"{sum(p.numel() for p in module.parameters()):,} parameters"


def _kind(file: Path) -> tuple[str, dict[str, Any]]:
    """Return which program wrote a checkpoint, and what it holds beside the model."""
    from linf.checkpoints.pickled import read_pickle

    if file.suffix == ".safetensors":
        return "weights saved by this project (safetensors)", {}
    # Where the format allows, the weights stay on the disk.
    content = read_pickle(file, mmap=zipfile.is_zipfile(file))
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
