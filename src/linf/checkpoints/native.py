"""Models in and out of files: this project's checkpoints and the published format. No file's code is ever run."""

import json
import logging
import os
import re
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from linf.checkpoints.published import from_published
from linf.errors import UsageError
from linf.files import atomic_write
from linf.models.baselines import LIIF, LTE, LIIFConditioner
from linf.models.conditioner import FourierConditioner
from linf.models.encoders import EDSR, RDN, RRDBNet, SwinIR
from linf.models.flow import ConditionalFlow
from linf.models.linf import LINF
from linf.models.prior import UNet, published_prior

log = logging.getLogger(__name__)

Model = LINF | LIIF | LTE
"""What a checkpoint can hold."""

ENCODERS = {encoder.__name__: encoder for encoder in (EDSR, RDN, RRDBNet, SwinIR)}
CONDITIONERS = {conditioner.__name__: conditioner for conditioner in (FourierConditioner, LIIFConditioner)}
REGRESSIONS = {model.__name__: model for model in (LIIF, LTE)}
"""What a file may ask for: nothing else is ever built from a file's words."""


SHIPPED = Path(__file__).with_name("zoo") / "default.safetensors"
"""The model that comes with this package, called ``default`` (docs/model-card.md)."""


def build(config: dict[str, Any]) -> Model:
    """A model from its ``config``, weights as they start."""
    parts = {part: dict(settings) for part, settings in config.items()}
    encoder = _chosen(ENCODERS, "encoder", parts)(**parts["encoder"])
    conditioner = partial(_chosen(CONDITIONERS, "conditioner", parts), **parts["conditioner"])
    if "model" in parts:
        return _chosen(REGRESSIONS, "model", parts)(encoder, conditioner)
    flow = _chosen({"ConditionalFlow": ConditionalFlow}, "flow", parts)(**parts["flow"])
    prior = _chosen({"UNet": UNet}, "prior", parts)(**parts["prior"]) if "prior" in parts else None
    return LINF(encoder, conditioner, flow, prior)


def _chosen(known: dict[str, Any], part: str, parts: dict[str, dict[str, Any]]) -> Any:
    name = parts[part].pop("name")
    if name not in known:
        raise UsageError(f"its {part} {name!r} is not one of {', '.join(known)}")
    return known[name]


def load(path: str | os.PathLike[str], prior: str | os.PathLike[str] | None = None) -> Model:
    """The model in a checkpoint, in evaluation mode on the CPU.

    Args:
        path: a Lightning ``.ckpt`` or ``.safetensors`` of this project, a published ``.pth``, or ``default`` for the
            model that comes with this package. Of a run with averaged weights (EMA), the average is taken.
        prior: a file to take the prior of a LINF from: a published prior, or any checkpoint that has one.

    Raises:
        UsageError: there is no such file, or it is none of these.
    """
    model = read(path)
    if isinstance(model, UNet):
        raise UsageError(
            f"{path} holds a prior without its LINF: give the LINF's file, and this one as the prior"
        )
    if prior is not None:
        if not isinstance(model, LINF):
            raise UsageError(f"{path} holds a {type(model).__name__}, which takes no prior")
        model.set_prior(load_prior(prior))
    return model


def load_prior(path: str | os.PathLike[str]) -> UNet:
    """The prior in a published prior file, or in a checkpoint of a LINF that has one; in evaluation mode."""
    found = read(path)
    prior = found if isinstance(found, UNet) else getattr(found, "prior", None)
    if prior is None:
        raise UsageError(f"{path} holds no prior")
    return prior


def resolve_path(path: str | os.PathLike[str]) -> Path:
    """The file of a checkpoint, also of the one called ``default``."""
    return SHIPPED if os.fspath(path) == "default" else Path(path)


def read(path: str | os.PathLike[str]) -> Model | UNet:
    """What a file holds, in evaluation mode on the CPU: a model, or a published prior without its LINF."""
    path = resolve_path(path)
    if not path.is_file():
        raise UsageError(
            f"no checkpoint at {path}: give a .ckpt, .safetensors or published .pth file, or default"
        )
    try:
        config, weights = _safetensors(path) if path.suffix == ".safetensors" else _pickled(path)
        model: Model | UNet = UNet(**config["prior"]) if config.keys() == {"prior"} else build(config)
        _fill(model, weights)
    except UsageError as error:
        raise UsageError(f"{path} cannot be loaded: {error}") from error
    except Exception as error:  # Readers answer a broken file with anything, AssertionError included.
        raise UsageError(f"{path} is not a checkpoint that can be loaded: {_reason(error)}") from error
    return model.eval()


def _reason(error: Exception) -> str:
    code = re.search(r"GLOBAL (\S+)", str(error))
    if code:
        return f"it holds {code[1]}, and no file's code is ever run"
    # Text that happens to be pickle ends in a KeyError too, for a number.
    if isinstance(error, KeyError) and isinstance(error.args[0], str):
        return f"it lacks {error}"
    return f"it is damaged or of another kind ({type(error).__name__})"


def newest(folder: Path) -> Path | None:
    """The checkpoint of a run that has most steps behind it, of those in a folder that are whole; None without one.

    A damaged one is told and left out.
    """
    found: list[tuple[int, Path]] = []
    for path in sorted(folder.glob("*.ckpt")):
        try:
            if not _is_whole(path):
                raise zipfile.BadZipFile
            found.append(
                (torch.load(path, map_location="cpu", weights_only=True, mmap=True)["global_step"], path)
            )
        except Exception as error:  # Readers answer a broken file with anything.
            log.warning("%s is damaged (%s): it is left out", path, type(error).__name__)
    return max(found, default=(0, None))[1]


def to_resume(given: str | os.PathLike[str] | None, folder: Path) -> Path | None:
    """The checkpoint that a run goes on from: the newest of its own, if there are any; None for a new run.

    Args:
        given: what the user asks for. One of the run's own counts as it is; another one starts a run that has none.
            Where it is damaged, the newest beside it is taken, which a warning tells.
        folder: of the run's own checkpoints.
    """
    if given is None:
        return newest(folder)
    given = Path(given)
    own = given.absolute().parent == folder.absolute()
    if not own and (later := newest(folder)):
        return later
    if given.suffix == ".ckpt" and given.is_file() and not _is_whole(given):
        beside = newest(given.parent)
        if beside is None and zipfile.is_zipfile(given):
            raise UsageError(f"{given} is damaged, and no whole checkpoint is beside it: choose another")
        if beside is not None:
            log.warning("going on from %s instead of %s", beside, given)
        return beside or given
    return given


def _is_whole(path: Path) -> bool:
    """Whether a file that `torch.save` wrote has the bytes it was written with: its checksums say so."""
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip() is None
    except Exception:  # Readers answer a broken file with anything.
        return False


def check_resumable(path: str | os.PathLike[str], model: Model) -> None:
    """Raise UsageError unless the file is a Lightning checkpoint of this project and of a model like this one."""
    there = load(path)
    if Path(path).suffix != ".ckpt":
        raise UsageError(
            f"{path} holds weights but no training state: ckpt_path takes a .ckpt of an earlier run, and "
            "init_from any model to start from"
        )
    _check_same(path, there, model)


def start_from(path: str | os.PathLike[str], model: Model) -> None:
    """Give a model the weights of a checkpoint, ours or published; UsageError unless that is of a model like it.

    A prior that the checkpoint lacks stays as it is.
    """
    there = load(path)
    if isinstance(there, LINF) and isinstance(model, LINF) and there.prior is None:
        there.set_prior(model.prior)
    _check_same(path, there, model)
    model.load_state_dict(there.state_dict())


def average_with(path: str | os.PathLike[str], model: Model) -> None:
    """Move a model half the way to the weights of a checkpoint; UsageError unless that is of a model like it.

    Between a model and what it became by further training lies one with much of what either does best (Wortsman et
    al., arXiv 2109.01903).
    """
    there = load(path)
    _check_same(path, there, model)
    theirs = there.state_dict()
    mean = {k: (v + theirs[k]) / 2 if v.is_floating_point() else v for k, v in model.state_dict().items()}
    model.load_state_dict(mean)


def _check_same(path: str | os.PathLike[str], there_model: Model, here_model: Model) -> None:
    there, here = (dict(_flat(m.config)) for m in (there_model, here_model))
    differ = [key for key in there | here if there.get(key) != here.get(key)]
    if differ:
        words = ", ".join(f"{key} is {there.get(key)} there and {here.get(key)} here" for key in differ)
        raise UsageError(f"{path} is of another model: {words}; give the settings of that run")


def _flat(config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    return ((f"{part}.{key}", value) for part, settings in config.items() for key, value in settings.items())


def save(model: Model, path: str | os.PathLike[str], *, half: bool = False) -> None:
    """Write a model to ``.safetensors``, its config inside; a kill leaves the old file or the new one.

    Args:
        model: what is saved.
        path: of the file.
        half: in half precision, half the size; it is loaded in single precision again.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise UsageError(f"a model is saved as .safetensors, not as {path.name}")
    weights = {
        name: (value.half() if half and value.is_floating_point() else value).contiguous()
        for name, value in model.state_dict().items()
    }
    with atomic_write(path) as part:
        safetensors.torch.save_file(weights, part, metadata={"linf": json.dumps(model.config)})


def _fill(model: Model | UNet, weights: dict[str, Tensor]) -> None:
    wanted = model.state_dict()
    for problem, names in (
        ("lacks", wanted.keys() - weights.keys()),
        ("has unknown", weights.keys() - wanted.keys()),
        (
            "has mis-shaped",
            {n for n in wanted.keys() & weights.keys() if wanted[n].shape != weights[n].shape},
        ),
    ):
        if names:
            raise UsageError(f"it {problem} {len(names)} tensors, such as {min(names)!r}, for its own config")
    model.load_state_dict(weights)


def _safetensors(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if "linf" not in metadata:
            raise UsageError("it holds tensors but no LINF config: it was not written by this project")
        return json.loads(metadata["linf"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def _pickled(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    content = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(content, dict) and "linf" in content:
        prefix = "model."
        weights = content["state_dict"].items()
        return content["linf"], {
            name.removeprefix(prefix): v for name, v in weights if name.startswith(prefix)
        }
    if isinstance(content, dict) and isinstance(content.get("prior_model"), dict):
        settings, weights = published_prior(content)
        return {"prior": {k: v for k, v in settings.items() if k != "name"}}, weights
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        return from_published(content)
    raise UsageError("it is neither a checkpoint of this project nor a published one")
