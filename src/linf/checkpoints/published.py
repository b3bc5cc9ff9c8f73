"""The published checkpoint format, there and back: ``{"model": {"name", "args", "sd"}}`` (METHOD §10).

Encoders keep the published names of their tensors; conditioner and flow have names of their own here.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from linf.errors import UsageError
from linf.models.baselines import LIIF, LTE, Regression
from linf.models.encoders import EDSR, RDN, RRDBNet, SwinIR
from linf.models.encoders.swinir import relative_positions, shift_mask
from linf.models.linf import LINF

State = dict[str, Tensor]


def _mean_shift(encoder: nn.Module) -> State:
    """EDSR's shift by DIV2K's mean colour, which published LINFs hold and never apply."""
    mean = torch.tensor([0.4488, 0.4371, 0.4040])
    eye = torch.eye(3).view(3, 3, 1, 1)
    return {
        "sub_mean.weight": eye,
        "sub_mean.bias": -mean,
        "add_mean.weight": eye.clone(),
        "add_mean.bias": mean,
    }


def _upsampler(encoder: nn.Module) -> State:
    """RRDBNet's upsampler, which published LINFs hold and never call; nobody's weights, so zeros."""
    channels = encoder.out_channels
    assert isinstance(channels, int)
    convolutions = {"upconv1": channels, "upconv2": channels, "HRconv": channels, "conv_last": 3}
    state: State = {}
    for name, out in convolutions.items():
        state |= {f"{name}.weight": torch.zeros(out, channels, 3, 3), f"{name}.bias": torch.zeros(out)}
    return state


def _attention_tables(encoder: nn.Module) -> State:
    """SwinIR's indices and masks, which follow from its windows; the masks are those of a 48² image."""
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


class _Encoder(NamedTuple):
    """How a published encoder is called here."""

    ours: type[nn.Module]
    default: dict[str, Any]
    names: dict[str, str]
    """Published argument → ours."""
    unused: Callable[[nn.Module], State]
    """What its published state holds beside what it uses."""


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

ENCODERS = {
    "edsr-baseline": _Encoder(
        EDSR, {"blocks": 16, "channels": 64, "residual_scale": 1.0}, _EDSR, _mean_shift
    ),
    "edsr": _Encoder(EDSR, {"blocks": 32, "channels": 256, "residual_scale": 0.1}, _EDSR, _mean_shift),
    "rdn": _Encoder(RDN, {**_RDN["B"], "channels": 64}, {"G0": "channels"}, lambda encoder: {}),
    "rrdb": _Encoder(
        RRDBNet,
        {"blocks": 23, "channels": 64, "growth": 32},
        {"nb": "blocks", "nf": "channels", "gc": "growth"},
        _upsampler,
    ),
    "swinir": _Encoder(SwinIR, SwinIR().config, _SWINIR, _attention_tables),
}
"""By published name. An encoder that two could describe is written as the first."""

IGNORED = {"no_upsampling", "scale", "rgb_range", "RDNkSize", "RDNconfig", "upscale", "upsampler", "img_size"}
"""Published arguments of an encoder that decide nothing once it has no upsampler, or are read apart."""


def from_published(content: dict[str, Any]) -> tuple[dict[str, Any], State]:
    """Config and weights, in our names, of a published LINF, LINF-patch, LIIF or LTE.

    Args:
        content: of the file.

    Raises:
        UsageError: the model, its encoder or a tensor is not known.
    """
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


def _encoder_config(spec: dict[str, Any]) -> tuple[dict[str, Any], set[str]]:
    """An encoder's config, and the names of what its published state holds and never uses."""
    if spec["name"] not in ENCODERS:
        raise UsageError(f"its encoder {spec['name']!r} is none of {', '.join(ENCODERS)}")
    known, given = ENCODERS[spec["name"]], spec["args"]
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
    """Tensors in our names; ``mlp`` begins the keys of the MLP, and a flow has ``steps``."""
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
            # LINF's published MLP is 1×1 convolutions.
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
    """The content of a published file: ``{"model": {"name", "args", "sd"}}``.

    Raises:
        UsageError: the published code has no such encoder or ensemble.
    """
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
                "the published format has no LINF with a local ensemble, and its prior in a file apart"
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
    # Contiguous copies: a stored view would carry all of what it looks at.
    state = {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in state.items()}
    return {"model": {"name": kind, "args": args, "sd": state}}


def _published_encoder(encoder: nn.Module) -> tuple[str, dict[str, Any], State]:
    """An encoder's published name, its arguments where they are not the default, and its unused tensors."""
    settings = encoder.config
    assert isinstance(settings, dict)
    for name, known in ENCODERS.items():
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
