"""The published checkpoint format, read and written: ``{"model": {"name", "args", "sd"}}`` (METHOD §10).

Encoders and prior keep the published names of their tensors; conditioner and flow have other names here.
"""

import math
import re
from typing import Any

import torch

from linf.checkpoints.pickled import plain_state
from linf.checkpoints.published_encoders import State, encoder_from_published, encoder_to_published
from linf.errors import UsageError
from linf.models.baselines import LIIF, LTE, Regression
from linf.models.linf import LINF


def from_published(content: dict[str, Any]) -> tuple[dict[str, Any], State]:
    """Convert what a file of a published LINF, LINF-patch, LIIF, LTE or prior holds to config and weights in our names.

    Raises:
        UsageError: the model, its encoder or a tensor is unknown.
    """
    if isinstance(content.get("prior_model"), dict):
        prior, weights = published_prior(content)
        return {"prior": prior}, weights
    model = content["model"]
    name, args = model["name"], model["args"]
    if name not in ("linf", "linf-patch", "liif", "lte"):
        raise UsageError(f"it holds a published {name}, which is none of linf, linf-patch, liif, lte")
    encoder, unused = encoder_from_published(args["encoder_spec"])
    config = {"encoder": encoder, "conditioner": {"name": "FourierConditioner", "ensemble": "feature"}}
    if name in ("linf", "linf-patch"):
        steps = args["flow_layers"]
        config["conditioner"] |= {"width": args["hidden_dim"], "depth": args["num_layer"]}
        config["flow"] = {"name": "ConditionalFlow", "patch_size": args.get("patch_size", 1), "steps": steps}
        return config, _weights(model["sd"], r"layers\.", unused, steps)
    hidden = args["imnet_spec"]["args"]["hidden_list"]
    if len(set(hidden)) != 1:
        raise UsageError(f"its MLP has hidden layers of different width, {hidden}")
    config["model"] = {"name": name.upper()}
    if name == "liif":
        if not all(args.get(key, True) for key in ("local_ensemble", "feat_unfold", "cell_decode")):
            raise UsageError("it is a LIIF without local ensemble, feature unfolding or cell decoding")
        config["conditioner"] = {"name": "LIIFConditioner"}
    else:
        if args.get("hidden_dim", 256) != hidden[0]:
            raise UsageError(f"its Fourier features are {args['hidden_dim']} wide and its MLP {hidden[0]}")
        config["conditioner"]["ensemble"] = "local"
    config["conditioner"] |= {"width": hidden[0], "depth": len(hidden)}
    return config, _weights(model["sd"], r"imnet\.layers\.", unused)


def published_prior(content: dict[str, Any]) -> tuple[dict[str, Any], State]:
    """Convert a published prior, ``{"prior_model": {"name", "args", "sd"}, …}``, to arguments of `UNet` beside its
    ``name``, and its state dict.

    Raises:
        UsageError: it is another network than `UNet`.
    """
    given = content["prior_model"]
    args = dict(given["args"])
    channels, width, depth = args.pop("in_chans"), args.pop("dim", 64), args.pop("depth", 3)
    bilinear_up = args.pop("bilinear", True)
    patch_size = math.isqrt(max(channels // 3, 1))
    if given["name"] != "unet" or not bilinear_up or args or channels != 3 * patch_size**2:
        settings = ", ".join(f"{key}={value!r}" for key, value in given["args"].items())
        raise UsageError(f"a published prior {given['name']!r} with {settings} is not known here")
    config = {"name": "UNet", "patch_size": patch_size, "width": width, "depth": depth}
    return config, plain_state(given["sd"])


def _weights(published: State, mlp: str, unused: set[str], steps: int | None = None) -> State:
    """The tensors in our names; ``mlp`` matches the prefix of the MLP's keys, and ``steps`` are those of a flow."""
    weights: State = {}
    linears: dict[str, State] = {}
    for key, value in plain_state(published).items():
        if key.removeprefix("encoder.") in unused:
            continue
        flow = re.fullmatch(r"imnet\.(?:linears\.(\d+)|last)\.(_weight|bias)", key) if steps else None
        if flow:
            linears.setdefault(flow[1] or "last", {})[flow[2]] = value
        elif key.startswith("encoder."):
            weights[key] = value
        elif re.match(r"(coef|freq|phase)\.", key):
            weights[f"conditioner.{key}"] = value
        elif re.match(mlp, key):
            # The published LINF has 1×1 convolutions in place of linear layers.
            weights[re.sub(mlp, "conditioner.mlp.", key, count=1)] = (
                value.flatten(1) if value.ndim == 4 else value
            )
        else:
            raise UsageError(f"it has an unknown tensor {key!r} for a published model")
    if steps:
        order = [*map(str, range(steps)), "last"]
        if linears.keys() != set(order) or any(len(pair) != 2 for pair in linears.values()):
            raise UsageError(f"it has not exactly the {steps + 1} linear maps of its flow")
        weights["flow.weight"] = torch.stack([linears[k]["_weight"] for k in order])
        weights["flow.bias"] = torch.stack([linears[k]["bias"] for k in order])
        weights["flow.initialised"] = torch.tensor(True)
    return weights


def to_published(model: LINF | Regression) -> dict[str, Any]:
    """Convert a model to the content of a published file, ``{"model": {"name", "args", "sd"}}``.

    Raises:
        UsageError: the published code has no such encoder or ensemble.
    """
    if model.image_channels != 3:
        raise UsageError(
            f"the published format is for RGB, and the model for images of {model.image_channels} channels: write "
            ".safetensors"
        )
    name, spec, unused = encoder_to_published(model.encoder)
    state = {k: v for k, v in model.state_dict().items() if k.startswith("encoder.")}
    state |= {f"encoder.{k}": v for k, v in unused.items()}
    conditioner = model.config["conditioner"]
    local = conditioner.get("ensemble") == "local"
    mlp = "imnet.layers." if isinstance(model, Regression) else "layers."
    for key, value in model.conditioner.state_dict().items():
        if isinstance(model, LINF) and re.match(r"mlp\..*weight$", key):
            value = value[:, :, None, None]
        state[re.sub(r"^mlp\.", mlp, key)] = value
    args: dict[str, Any] = {"encoder_spec": {"name": name, "args": {"no_upsampling": True, **spec}}}
    if isinstance(model, LINF):
        if local:
            raise UsageError("the published format has no LINF with a local ensemble: write .safetensors")
        if "prior" in model.config:
            raise UsageError(
                "the published format has the prior in a file of its own, which is not written here: write .safetensors"
            )
        for k in range(model.flow.steps + 1):
            linear = f"imnet.linears.{k}" if k < model.flow.steps else "imnet.last"
            state[f"{linear}._weight"], state[f"{linear}.bias"] = model.flow.weight[k], model.flow.bias[k]
        args |= {
            "imnet_spec": {"name": "flow", "args": {"name": "flow"}},
            "flow_layers": model.flow.steps,
            "num_layer": conditioner["depth"],
            "hidden_dim": conditioner["width"],
        }
        if model.patch_size > 1:
            args["patch_size"] = model.patch_size
        kind = "linf-patch" if model.patch_size > 1 else "linf"
    else:
        if isinstance(model, LTE) and not local:
            raise UsageError("the published format has no LTE without the local ensemble")
        hidden = [conditioner["width"]] * conditioner["depth"]
        args["imnet_spec"] = {"name": "mlp", "args": {"out_dim": 3, "hidden_list": hidden}}
        if isinstance(model, LTE):
            args["hidden_dim"] = conditioner["width"]
        kind = "liif" if isinstance(model, LIIF) else "lte"
    # Contiguous copies: a view would be saved with the whole tensor behind it.
    state = {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in state.items()}
    return {"model": {"name": kind, "args": args, "sd": state}}
