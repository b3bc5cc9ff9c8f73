"""Checkpoints: models written to files and read from them. No file's code is ever run."""

import json
import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import safe_open
from torch import Tensor

from linf.checkpoints.pickled import plain_state, read_pickle
from linf.checkpoints.pretrained import KNOWN, weights_file
from linf.checkpoints.published import from_published
from linf.checkpoints.shipped import SHIPPED, shipped_file
from linf.errors import UsageError
from linf.files import atomic_write, expand_home, search_working_folder
from linf.models import KNOWLEDGE
from linf.models.baselines import LIIF, LTE, LIIFConditioner
from linf.models.conditioner import FourierConditioner
from linf.models.correlation import LatentCorrelation
from linf.models.encoders import Encoder, every_encoder
from linf.models.flow import ConditionalFlow
from linf.models.linf import LINF
from linf.models.prior import UNet
from linf.models.tails import Tails

Model = LINF | LIIF | LTE
"""What a checkpoint can hold."""

BUILDABLE: dict[str, tuple[type, ...]] = {
    "conditioner": (FourierConditioner, LIIFConditioner),
    "flow": (ConditionalFlow,),
    "prior": (UNet,),
    "correlation": (LatentCorrelation,),
    "model": (LIIF, LTE),
}
"""The classes that each part of a config may name, beside the encoders; nothing else is ever built from a file."""

BASELINE = {"model", "encoder", "conditioner", "value_range"}
PARTS = {"encoder", "conditioner", "flow", "prior", *KNOWLEDGE}
"""What the config of a LIIF or LTE may have, and that of a LINF."""


def build(config: dict[str, Any]) -> Model:
    """Build a model from its ``config``, with fresh weights.

    Raises:
        ValueError: the config has an unknown part or class, or a class refuses its arguments.
    """
    if unknown := config.keys() - (BASELINE if "model" in config else PARTS):
        raise UsageError(
            f"its config has {', '.join(sorted(unknown))}, which this version of linf does not know"
        )
    parts = _part("encoder", config)(), _part("conditioner", config)
    if "model" in config:
        model: Model = _part("model", config)(*parts)
    else:
        flow, prior = _part("flow", config)(), _part("prior", config)() if "prior" in config else None
        model = LINF(*parts, flow, prior)
        model.correlation = _part("correlation", config)() if "correlation" in config else None
        model.tails = {float(s): Tails(*each) for s, each in config.get("tails", {}).items()}
        model.usual_deviation = {float(s): limit for s, limit in config.get("usual_deviation", {}).items()}
    if "value_range" in config:
        black, white = config["value_range"]
        model.value_range = float(black), float(white)
    return model


def _part(part: str, config: dict[str, Any]) -> Callable[..., Any]:
    arguments = dict(config[part])
    name = arguments.pop("name")
    known: Mapping[str, type] = {kind.__name__: kind for kind in BUILDABLE.get(part, ())} or _encoders()
    if name not in known:
        hint = "; name the module that has it, LINF_MODULES=…" * (part == "encoder")
        raise UsageError(f"its {part} {name!r} is not one of {', '.join(known)}{hint}")
    return partial(known[name], **arguments)


def _encoders() -> dict[str, type[Encoder]]:
    """The encoders of this package and of the user's modules that LINF_MODULES names, with commas between them."""
    names = [name.strip() for name in os.environ.get("LINF_MODULES", "").split(",")]
    for name in filter(None, names):
        search_working_folder()
        try:
            import_module(name)
        except Exception as error:  # A user's file can hold any mistake.
            reason = f"{type(error).__name__}: {error}"
            raise UsageError(f"LINF_MODULES names {name}, which cannot be imported ({reason})") from error
    return every_encoder()


def load(path: str | os.PathLike[str], prior: str | os.PathLike[str] | None = None) -> Model:
    """Load the model in a checkpoint, in evaluation mode on the CPU.

    Args:
        path: a Lightning ``.ckpt`` or a ``.safetensors`` of this project, a published ``.pth``, or the name of an
            included model, ``photo`` or ``default``. From the checkpoint of a run with averaged weights (EMA), the
            average is loaded.
        prior: a published prior, or any checkpoint that has one; a LINF then takes its prior from there.

    Raises:
        UsageError: there is no such file, or it is none of these.
    """
    model = load_any(path)
    if isinstance(model, UNet):
        raise UsageError(
            f"{path} holds a prior without its LINF: give the LINF's file, and this one as the prior"
        )
    if prior is not None:
        model.set_prior(load_prior(prior))
    return model


def load_prior(path: str | os.PathLike[str]) -> UNet:
    """Load a prior, in evaluation mode, from a published prior file or from the checkpoint of a LINF that has one."""
    found = load_any(path)
    prior = found if isinstance(found, UNet) else getattr(found, "prior", None)
    if prior is None:
        raise UsageError(f"{path} holds no prior")
    return prior


def resolve_path(path: str | os.PathLike[str]) -> Path:
    """The file of a checkpoint; a name of a model in the package, or of fetched weights, stands for its file."""
    name = os.fspath(path)
    if name in KNOWN and not Path(name).exists():
        return weights_file(name)
    return shipped_file(path) or Path(expand_home(name))


def load_any(path: str | os.PathLike[str]) -> Model | UNet:
    """Read what a file holds, in evaluation mode on the CPU: a model, or a published prior without its LINF."""
    path = resolve_path(path)
    if not path.is_file():
        names = "model.safetensors", "checkpoints/best.ckpt", "checkpoints/last.ckpt"
        of_run = next((path / name for name in names if (path / name).is_file()), None)
        kinds = f"a .ckpt, .safetensors or published .pth file, or {' or '.join(SHIPPED)}"
        raise UsageError(f"no checkpoint at {path}: give {of_run or kinds}")
    try:
        open(path, "rb").close()  # Of one that may not be read, safetensors says that it is not there.
        config, weights = _safetensors(path) if path.suffix == ".safetensors" else _pickled(path)
        model = _built(config)
        _fill(model, weights)
    except UsageError as error:
        raise UsageError(f"{path} cannot be loaded: {error}") from error
    except Exception as error:  # Readers answer a broken file with any exception.
        raise UsageError(f"{path} is not a checkpoint that can be loaded: {_reason(error)}") from error
    return model.eval()


def _built(config: dict[str, Any]) -> Model | UNet:
    try:
        return _part("prior", config)() if config.keys() == {"prior"} else build(config)
    except TypeError as error:  # An argument of another version, or of another kind.
        raise UsageError(f"its config does not fit this version of linf ({error})") from error
    except ValueError as error:
        raise UsageError(str(error)) from error


def _reason(error: Exception) -> str:
    if isinstance(error, PermissionError) and error.strerror:
        return error.strerror
    if code := re.search(r"GLOBAL (\S+)", str(error)):
        return f"it holds {code[1]}, and no file's code is ever run"
    # Text that happens to be valid pickle raises a KeyError too, but of a number.
    if isinstance(error, KeyError) and isinstance(error.args[0], str):
        return f"it lacks {error}"
    return f"it is damaged or of another kind ({type(error).__name__})"


def save(model: Model, path: str | os.PathLike[str], *, half: bool = False) -> None:
    """Write a model and its config to a ``.safetensors`` file, atomically.

    Args:
        model: the model.
        path: the file to write; its name ends in ``.safetensors``.
        half: whether to store half precision, which halves the size of the file; `load` converts to single precision.

    Raises:
        UsageError: the name has another suffix, a weight is beyond half precision, or `load` could not read the file.
        OSError: the file cannot be written.
    """
    path = Path(expand_home(os.fspath(path)))
    if path.suffix != ".safetensors":
        raise UsageError(f"a model is saved as .safetensors, not as {path.name}")
    model = getattr(model, "_orig_mod", model)  # What torch.compile was given.
    if not isinstance(model, Model):
        raise UsageError(f"a {type(model).__name__} cannot be saved: give the LINF, LIIF or LTE in it")
    if any("_orig_mod" in name for name in model.state_dict()):
        raise UsageError(
            "a part of the model is compiled, which renames its weights: use part.compile() instead"
        )
    weights = {
        name: (value.half() if half and value.is_floating_point() else value).contiguous()
        for name, value in model.state_dict().items()
    }
    for name, value in model.state_dict().items():
        if not value.isfinite().equal(weights[name].isfinite()):
            raise UsageError(f"{name} is beyond 65504, where half precision ends: write single precision")
    with atomic_write(path) as part:
        # Its own writing of files would raise an error that is no OSError.
        part.write_bytes(safetensors.torch.save(weights, {"linf": json.dumps(model.config)}))


def _fill(model: Model | UNet, weights: dict[str, Tensor]) -> None:
    expected = model.state_dict()
    shared = expected.keys() & weights.keys()
    for problem, names in (
        ("missing", expected.keys() - weights.keys()),
        ("unknown", weights.keys() - expected.keys()),
        ("of another shape", {name for name in shared if expected[name].shape != weights[name].shape}),
    ):
        if names:
            some = ", ".join(sorted(names)[:3])
            raise UsageError(f"its tensors do not fit its config: {len(names)} {problem} ({some})")
    model.load_state_dict(weights)


def _safetensors(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if "linf" not in metadata:
            raise UsageError("it holds tensors but no LINF config: it was not written by this project")
        return json.loads(metadata["linf"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _pickled(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    content = read_pickle(path)
    if isinstance(content, dict) and "linf" in content:
        state, prefix = plain_state(content["state_dict"]), "model."
        weights = {key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)}
        return content["linf"], weights
    if isinstance(content, dict) and any(isinstance(content.get(k), dict) for k in ("prior_model", "model")):
        return from_published(content)
    raise UsageError("it is neither a checkpoint of this project nor a published one")
