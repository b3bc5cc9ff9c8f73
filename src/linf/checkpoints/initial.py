"""An encoder's first weights, out of another model's file."""

import os
import re
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from linf.checkpoints import pretrained as weights
from linf.errors import UsageError

UNUSED = re.compile(
    r"(sub|add)_mean\.(weight|bias)|(upconv[12]|HRconv|conv_last)\.(weight|bias)|"
    r".*\.(attn_mask|relative_position_index)"
)
"""What published encoders hold and never use: EDSR's mean shift, RRDB's upsampler, SwinIR's tables."""


def start_from(encoder: nn.Module, pretrained: str | os.PathLike[str] | None) -> None:
    """Give an encoder the weights of another model's, tensor for tensor.

    Args:
        encoder: of the same make.
        pretrained: a name that `linf weights list` shows, or a ``.ckpt``, ``.safetensors`` or published ``.pth``
            file; None leaves the encoder as it is.

    Raises:
        UsageError: there is no such file, or it has not exactly this encoder in it.
    """
    if pretrained is None:
        return
    if pretrained in weights.KNOWN:
        path = weights.path(str(pretrained))
    else:
        path = Path(pretrained)
        if not path.is_file():
            names = ", ".join(name for name, known in weights.KNOWN.items() if known.convolutions is None)
            raise UsageError(f"encoder.pretrained={pretrained}: give the file of a checkpoint, or {names}")
    given, wanted = _encoder(path), encoder.state_dict()
    differ = sorted(k for k in given.keys() | wanted.keys() if _shape(given, k) != _shape(wanted, k))
    if differ:
        key = differ[0]
        raise UsageError(
            f"{path} holds another encoder than {type(encoder).__name__} with these settings: {key} is "
            f"{_shape(given, key)} there and {_shape(wanted, key)} here"
        )
    encoder.load_state_dict(given)


def _shape(state: dict[str, Tensor], key: str) -> str:
    return "×".join(map(str, state[key].shape)) if key in state else "missing"


def _encoder(path: Path) -> dict[str, Tensor]:
    """The encoder's tensors in a file, under the encoder's own names."""
    try:
        if path.suffix == ".safetensors":
            state, prefix = safetensors.torch.load_file(path), "encoder."
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
            published = "state_dict" not in content
            state = content["model"]["sd"] if published else content["state_dict"]
            prefix = "encoder." if published else "model.encoder."
        names = {key: key.removeprefix(prefix) for key in state if key.startswith(prefix)}
        found = {name: state[key].float() for key, name in names.items() if not UNUSED.fullmatch(name)}
    except Exception as error:  # Readers answer a broken file with anything.
        raise UsageError(f"{path} is not a checkpoint that can be loaded ({type(error).__name__})") from error
    if not found:
        raise UsageError(f"{path} holds no encoder")
    return found
