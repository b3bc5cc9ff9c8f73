"""Models in and out of files: this project's checkpoints and the published format. No file's code is ever run."""

import json
import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from linf.conditioner import FourierConditioner
from linf.encoders import EDSR
from linf.errors import UsageError
from linf.flow import ConditionalFlow
from linf.model import LINF

ENCODERS = {"EDSR": EDSR}
"""The encoders a file may ask for: nothing else is ever built from a file's words."""


def build(config: dict[str, Any]) -> LINF:
    """A model from its `LINF.config`, weights as they start."""
    encoder, conditioner, flow = (dict(config[part]) for part in ("encoder", "conditioner", "flow"))
    name = encoder.pop("name")
    if name not in ENCODERS:
        raise UsageError(f"its encoder {name!r} is not one of {', '.join(ENCODERS)}")
    conditioner.pop("name"), flow.pop("name")
    return LINF(
        ENCODERS[name](**encoder), partial(FourierConditioner, **conditioner), ConditionalFlow(**flow)
    )


def load(path: str | os.PathLike[str]) -> LINF:
    """The model in a checkpoint, in evaluation mode on the CPU.

    Args:
        path: a Lightning ``.ckpt`` or ``.safetensors`` of this project, or a published ``.pth``. Of a run with
            averaged weights (EMA), the average is taken.

    Raises:
        UsageError: there is no such file, or it is none of these.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"no checkpoint at {path}: give a .ckpt, .safetensors or published .pth file")
    try:
        config, weights = _safetensors(path) if path.suffix == ".safetensors" else _pickled(path)
        model = build(config)
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
    if isinstance(error, KeyError):
        return f"it lacks {error}"
    return f"it is damaged or of another kind ({type(error).__name__})"


def check_resumable(path: str | os.PathLike[str], model: LINF) -> None:
    """Raise UsageError unless the file is a Lightning checkpoint of this project and of a model like this one."""
    there, here = (dict(_flat(m.config)) for m in (load(path), model))
    if Path(path).suffix != ".ckpt":
        raise UsageError(
            f"{path} holds weights but no training state: ckpt_path takes a .ckpt of an earlier run"
        )
    differ = [key for key in there | here if there.get(key) != here.get(key)]
    if differ:
        words = ", ".join(f"{key} is {there.get(key)} there and {here.get(key)} here" for key in differ)
        raise UsageError(f"{path} is of another model: {words}; give the settings of that run")


def _flat(config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    return ((f"{part}.{key}", value) for part, settings in config.items() for key, value in settings.items())


def save(model: LINF, path: str | os.PathLike[str]) -> None:
    """Write a model to ``.safetensors``, its config inside; a kill leaves the old file or the new one."""
    path = Path(path)
    if path.suffix != ".safetensors":
        raise UsageError(f"a model is saved as .safetensors, not as {path.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_file = path.with_name(f".{path.name}.{os.getpid()}")
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    safetensors.torch.save_file(weights, partial_file, metadata={"linf": json.dumps(model.config)})
    os.replace(partial_file, path)


def _fill(model: LINF, weights: dict[str, Tensor]) -> None:
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
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        return _published(content["model"])
    raise UsageError("it is neither a checkpoint of this project nor a published one")


RULES = (
    (r"encoder\.(head|body)\.", r"encoder.\1."),
    (r"(coef|freq|phase)\.", r"conditioner.\1."),
    (r"layers\.", "conditioner.mlp."),
)
"""Published key → ours, by prefix. The flow's matrices are stacked apart from these."""

PUBLISHED_ENCODERS = {
    "edsr-baseline": {"blocks": 16, "channels": 64, "residual_scale": 1.0},
    "edsr": {"blocks": 32, "channels": 256, "residual_scale": 0.1},
}
EDSR_ARGUMENTS = {"n_resblocks": "blocks", "n_feats": "channels", "res_scale": "residual_scale"}

UNUSED = re.compile(r"encoder\.(sub|add)_mean\.(weight|bias)")
"""The mean shift that a published EDSR holds and never applies."""


def _published(model: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Config and weights of METHOD §10's format: ``{"name", "args", "sd"}``."""
    name, args, state = model["name"], model["args"], model["sd"]
    encoder = args["encoder_spec"]
    if name not in ("linf", "linf-patch") or encoder["name"] not in PUBLISHED_ENCODERS:
        raise UsageError(f"a published {name} with encoder {encoder['name']} is not known here")
    weights: dict[str, Tensor] = {}
    linears: dict[str, dict[str, Tensor]] = {}
    steps = args["flow_layers"]
    for key, value in state.items():
        if UNUSED.fullmatch(key):
            continue
        if match := re.fullmatch(r"imnet\.(?:linears\.(\d+)|last)\.(_weight|bias)", key):
            linears.setdefault(match[1] or "last", {})[match[2]] = value
            continue
        renamed = next((re.sub(f"^{old}", new, key) for old, new in RULES if re.match(old, key)), None)
        if renamed is None:
            raise UsageError(f"it has an unknown tensor {key!r} for a published {name}")
        # The published MLP is 1×1 convolutions.
        weights[renamed] = value.flatten(1) if key.startswith("layers.") and value.ndim == 4 else value
    order = [*map(str, range(steps)), "last"]
    if linears.keys() != set(order) or any(len(pair) != 2 for pair in linears.values()):
        raise UsageError(f"it has not exactly the {steps + 1} linear maps of its flow")
    weights["flow.weight"] = torch.stack([linears[k]["_weight"] for k in order])
    weights["flow.bias"] = torch.stack([linears[k]["bias"] for k in order])
    weights["flow.initialised"] = torch.tensor(True)
    given = {EDSR_ARGUMENTS[k]: v for k, v in encoder["args"].items() if k in EDSR_ARGUMENTS}
    config = {
        "encoder": {"name": "EDSR", **PUBLISHED_ENCODERS[encoder["name"]], **given},
        "conditioner": {
            "name": "FourierConditioner",
            "width": args["hidden_dim"],
            "depth": args["num_layer"],
        },
        "flow": {"name": "ConditionalFlow", "patch_size": args.get("patch_size", 1), "steps": steps},
    }
    return config, weights
