"""Encoders in the published checkpoint format: ``{"name", "args"}``, and tensors that ours have no use for."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from linf.errors import UsageError
from linf.models.encoders import EDSR, RDN, Encoder, RRDBNet, SwinIR
from linf.models.encoders.swinir import relative_positions, shift_mask

State = dict[str, Tensor]


def _mean_shift(config: dict[str, Any]) -> State:
    """EDSR's shift by the mean colour of DIV2K, which published files hold and their models never apply."""
    mean = torch.tensor([0.4488, 0.4371, 0.4040])
    eye = torch.eye(3).view(3, 3, 1, 1)
    return {
        "sub_mean.weight": eye,
        "sub_mean.bias": -mean,
        "add_mean.weight": eye.clone(),
        "add_mean.bias": mean,
    }


def _upsampler(config: dict[str, Any]) -> State:
    """RRDBNet's upsampler, which published files hold and their models never call; written as zeros."""
    channels = config["channels"]
    convolutions = {"upconv1": channels, "upconv2": channels, "HRconv": channels, "conv_last": 3}
    state: State = {}
    for name, out in convolutions.items():
        state |= {f"{name}.weight": torch.zeros(out, channels, 3, 3), f"{name}.bias": torch.zeros(out)}
    return state


def _attention_tables(config: dict[str, Any]) -> State:
    """SwinIR's indices and masks, which follow from its window size; the masks are those of a 48² image."""
    side = config["window"]
    index, mask = relative_positions(side), shift_mask((48, 48), side, side // 2, torch.device("cpu"))
    state: State = {}
    for i, depth in enumerate(config["depths"]):
        for j in range(depth):
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
    unused: Callable[[dict[str, Any]], State]
    """What its published state holds beside the tensors that it uses."""


_EDSR = {"n_resblocks": "blocks", "n_feats": "channels", "res_scale": "residual_scale"}
_RDN = {"A": {"blocks": 20, "layers": 6, "growth": 32}, "B": {"blocks": 16, "layers": 8, "growth": 64}}

PUBLISHED = {
    "edsr-baseline": _Published(
        EDSR, {"blocks": 16, "channels": 64, "residual_scale": 1.0}, _EDSR, _mean_shift
    ),
    "edsr": _Published(EDSR, {"blocks": 32, "channels": 256, "residual_scale": 0.1}, _EDSR, _mean_shift),
    "rdn": _Published(RDN, {**_RDN["B"], "channels": 64}, {"G0": "channels"}, lambda config: {}),
    "rrdb": _Published(
        RRDBNet,
        {"blocks": 23, "channels": 64, "growth": 32},
        {"nb": "blocks", "nf": "channels", "gc": "growth"},
        _upsampler,
    ),
    "swinir": _Published(
        SwinIR,
        {
            "channels": 180,
            "depths": [6] * 6,
            "heads": [6] * 6,
            "window": 8,
            "mlp_ratio": 2.0,
            "drop_path": 0.1,
            "out_channels": 64,
        },
        {
            "embed_dim": "channels",
            "depths": "depths",
            "num_heads": "heads",
            "window_size": "window",
            "mlp_ratio": "mlp_ratio",
            "drop_path_rate": "drop_path",
        },
        _attention_tables,
    ),
}
"""Encoders by published name. One that two entries could describe is written as the first."""

IGNORED = {"no_upsampling", "scale", "rgb_range", "RDNkSize", "RDNconfig", "upscale", "upsampler", "img_size"}
"""Published arguments of an encoder that have no effect without its upsampler, or are read elsewhere."""


def encoder_from_published(spec: dict[str, Any]) -> tuple[dict[str, Any], set[str]]:
    """Convert a published encoder's ``{"name", "args"}``.

    Returns:
        Its config in our terms, and the names of the tensors that its published state holds and never uses.

    Raises:
        UsageError: the encoder or one of its arguments is unknown.
    """
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
    return {"name": known.ours.__name__, **settings}, set(known.unused(settings))


def encoder_to_published(encoder: Encoder) -> tuple[str, dict[str, Any], State]:
    """Convert an encoder of ours.

    Returns:
        Its published name, its arguments that are not the default, and the tensors that its published state holds and
        never uses.

    Raises:
        UsageError: the published code has no such encoder.
    """
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
            return name, spec, known.unused(settings)
    raise UsageError(f"the published code has no encoder {type(encoder).__name__} with {settings}")
