"""The published checkpoint format, read and written: ``{"model": {"name", "args", "sd"}}`` (METHOD §10).

Encoders and prior keep the published names of their tensors; conditioner and flow have other names here.
"""

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from linf.errors import UsageError
from linf.models.baselines import LIIF, LTE, Regression
from linf.models.encoders import EDSR, RDN, Encoder, RRDBNet, SwinIR
from linf.models.encoders.swinir import relative_positions, shift_mask
from linf.models.linf import LINF

State = dict[str, Tensor]


def _mean_shift(encoder: Encoder) -> State:
    """EDSR's shift by the mean colour of DIV2K, which published files hold and their models never apply."""
    mean = torch.tensor([0.4488, 0.4371, 0.4040])
    eye = torch.eye(3).view(3, 3, 1, 1)
    return {
        "sub_mean.weight": eye,
        "sub_mean.bias": -mean,
        "add_mean.weight": eye.clone(),
        "add_mean.bias": mean,
    }


def _upsampler(encoder: Encoder) -> State:
    """RRDBNet's upsampler, which published files hold and their models never call; written as zeros."""
    channels = encoder.out_channels
    convolutions = {"upconv1": channels, "upconv2": channels, "HRconv": channels, "conv_last": 3}
    state: State = {}
    for name, out in convolutions.items():
        state |= {f"{name}.weight": torch.zeros(out, channels, 3, 3), f"{name}.bias": torch.zeros(out)}
    return state


def _attention_tables(encoder: Encoder) -> State:
    """SwinIR's indices and masks, which follow from its window size; the masks are those of a 48² image."""
    assert isinstance(encoder, SwinIR)
    side = encoder.window
    index, mask = relative_positions(side), shift_mask((48, 48), side, side // 2, torch.device("cpu"))
    state: State = {}
    for i, layer in enumerate(encoder.layers):
        for j in range(len(layer.residual_group["blocks"])):  # type: ignore[index]
            block = f"layers.{i}.residual_group.blocks.{j}"
            state[f"{block}.attn.relative_position_index"] = index.clone()
            if j % 2:
                state[f"{block}.attn_mask"] = mask.clone()
    return state


class _Published(NamedTuple):
    """A published encoder in our terms."""

    ours: type[Encoder]
    default: dict[str, Any]
    names: dict[str, str]
    """Published argument → ours."""
    unused: Callable[[Encoder], State]
    """What its published state holds beside the tensors that it uses."""


_EDSR = {"n_resblocks": "blocks", "n_feats": "channels", "res_scale": "residual_scale"}
_RDN = {"A": {"blocks": 20, "layers": 6, "growth": 32}, "B": {"blocks": 16, "layers": 8, "growth": 64}}
_SWINIR = {
    "embed_dim": "channels",
    "depths": "depths",
    "num_heads": "heads",
    "window_size": "window",
    "mlp_ratio": "mlp_ratio",
    "drop_path_rate": "drop_path",
}

PUBLISHED = {
    "edsr-baseline": _Published(
        EDSR, {"blocks": 16, "channels": 64, "residual_scale": 1.0}, _EDSR, _mean_shift
    ),
    "edsr": _Published(EDSR, {"blocks": 32, "channels": 256, "residual_scale": 0.1}, _EDSR, _mean_shift),
    "rdn": _Published(RDN, {**_RDN["B"], "channels": 64}, {"G0": "channels"}, lambda encoder: {}),
    "rrdb": _Published(
        RRDBNet,
        {"blocks": 23, "channels": 64, "growth": 32},
        {"nb": "blocks", "nf": "channels", "gc": "growth"},
        _upsampler,
    ),
    "swinir": _Published(SwinIR, SwinIR().config, _SWINIR, _attention_tables),
}
"""Encoders by published name. One that two entries could describe is written as the first."""

IGNORED = {"no_upsampling", "scale", "rgb_range", "RDNkSize", "RDNconfig", "upscale", "upsampler", "img_size"}
"""Published arguments of an encoder that have no effect without its upsampler, or are read elsewhere."""


def from_published(content: dict[str, Any]) -> tuple[dict[str, Any], State]:
    """Convert a published LINF, LINF-patch, LIIF, LTE or prior to config and weights in our names.

    Args:
        content: what the file holds.

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
    encoder, unused = _encoder_config(args["encoder_spec"])
    if name in ("linf", "linf-patch"):
        config = {
            "encoder": encoder,
            "conditioner": {
                "name": "FourierConditioner",
                "width": args["hidden_dim"],
                "depth": args["num_layer"],
                "ensemble": "feature",
            },
            "flow": {
                "name": "ConditionalFlow",
                "patch_size": args.get("patch_size", 1),
                "steps": args["flow_layers"],
            },
        }
        return config, _weights(model["sd"], r"layers\.", unused, steps=args["flow_layers"])
    hidden = args["imnet_spec"]["args"]["hidden_list"]
    if len(set(hidden)) != 1:
        raise UsageError(f"its MLP has hidden layers of different width, {hidden}")
    conditioner = {"width": hidden[0], "depth": len(hidden)}
    if name == "liif":
        if not all(args.get(key, True) for key in ("local_ensemble", "feat_unfold", "cell_decode")):
            raise UsageError("it is a LIIF without local ensemble, feature unfolding or cell decoding")
        config = {"model": {"name": "LIIF"}, "encoder": encoder, "conditioner": {"name": "LIIFConditioner"}}
    else:
        if args.get("hidden_dim", 256) != hidden[0]:
            raise UsageError(f"its Fourier features are {args['hidden_dim']} wide and its MLP {hidden[0]}")
        config = {"model": {"name": "LTE"}, "encoder": encoder, "conditioner": {"name": "FourierConditioner"}}
        conditioner["ensemble"] = "local"
    config["conditioner"] |= conditioner
    return config, _weights(model["sd"], r"imnet\.layers\.", unused)


def published_prior(content: dict[str, Any]) -> tuple[dict[str, Any], State]:
    """Convert a published prior, ``{"prior_model": {"name", "args", "sd"}, …}``.

    Returns:
        The arguments of `UNet` beside its ``name``, and its state dict.

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
    return config, dict(given["sd"])


def _encoder_config(spec: dict[str, Any]) -> tuple[dict[str, Any], set[str]]:
    """An encoder's config, and the names of the tensors that its published state holds and never uses."""
    if spec["name"] not in PUBLISHED:
        raise UsageError(f"its encoder {spec['name']!r} is none of {', '.join(PUBLISHED)}")
    known, given = PUBLISHED[spec["name"]], spec["args"]
    unknown = given.keys() - known.names.keys() - IGNORED
    if unknown:
        raise UsageError(
            f"its encoder {spec['name']} has an argument {min(unknown)!r} that is not known here"
        )
    settings = {**known.default, **{known.names[k]: v for k, v in given.items() if k in known.names}}
    if "RDNconfig" in given:
        settings |= _RDN[given["RDNconfig"]]
    settings = {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}
    return {"name": known.ours.__name__, **settings}, set(known.unused(known.ours(**settings)))


def _weights(published: State, mlp: str, unused: set[str], steps: int | None = None) -> State:
    """The tensors in our names; ``mlp`` matches the prefix of the MLP's keys, and ``steps`` are those of a flow."""
    weights: State = {}
    linears: dict[str, State] = {}
    for key, value in published.items():
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
    assert isinstance(model.encoder, Encoder)
    name, spec, unused = _published_encoder(model.encoder)
    state = {k: v for k, v in model.state_dict().items() if k.startswith("encoder.")}
    state |= {f"encoder.{k}": v for k, v in unused.items()}
    conditioner = model.config["conditioner"]
    local = conditioner.get("ensemble") == "local"
    mlp = "imnet.layers." if isinstance(model, Regression) else "layers."
    for key, value in model.conditioner.state_dict().items():
        if not key.startswith("mlp."):
            state[key] = value
        elif isinstance(model, LINF) and key.endswith("weight"):
            state[mlp + key.removeprefix("mlp.")] = value[:, :, None, None]
        else:
            state[mlp + key.removeprefix("mlp.")] = value
    args: dict[str, Any] = {"encoder_spec": {"name": name, "args": {"no_upsampling": True, **spec}}}
    if isinstance(model, LINF):
        if local or "prior" in model.config:
            raise UsageError(
                "the published format has no LINF with a local ensemble, and keeps the prior in a file of its own"
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


def _published_encoder(encoder: Encoder) -> tuple[str, dict[str, Any], State]:
    """An encoder's published name, its arguments that are not the default, and its unused tensors."""
    settings = encoder.config
    for name, known in PUBLISHED.items():
        if known.ours is not type(encoder):
            continue
        ours = set(known.names.values())
        spec = {p: settings[k] for p, k in known.names.items() if settings[k] != known.default[k]}
        rest = {k: v for k, v in settings.items() if k not in ours}
        if isinstance(encoder, RDN):
            letter = next((letter for letter, config in _RDN.items() if config == rest), None)
            if letter is None:
                break
            return name, spec if letter == "B" else {**spec, "RDNconfig": letter}, {}
        if all(known.default[k] == v for k, v in rest.items()) and settings.get("residual_scale") in (
            None,
            known.default.get("residual_scale"),
        ):
            return name, spec, known.unused(encoder)
    raise UsageError(f"the published code has no encoder {type(encoder).__name__} with {settings}")
