"""First weights: what a model or its encoder starts from, and the mean of two models."""

import os
from typing import Any

from linf.checkpoints.native import Model, check_same, load, load_any, resolve_path
from linf.checkpoints.pretrained import KNOWN, weights_file
from linf.errors import UsageError
from linf.models.encoders import Encoder
from linf.models.linf import LINF


def start_from(path: str | os.PathLike[str], model: Model) -> None:
    """Give a model the weights of a checkpoint, ours or published, of a model like it.

    A prior that the checkpoint lacks stays as it is.

    Raises:
        UsageError: the checkpoint cannot be loaded, or is of another model.
    """
    other = load(path)
    if isinstance(other, LINF) and isinstance(model, LINF) and other.prior is None:
        other.set_prior(model.prior)
    check_same(path, other, model)
    model.load_state_dict(other.state_dict())


def start_encoder_from(source: str | os.PathLike[str], encoder: Encoder) -> None:
    """Give an encoder the weights of the encoder in another model's checkpoint.

    Args:
        source: a name that `linf weights list` shows, or the file of a checkpoint, ours or published.
        encoder: an encoder with the same tensors; the model around it may be another one.

    Raises:
        UsageError: there is no such file, or its encoder is another one.
    """
    path = weights_file(str(source)) if source in KNOWN else resolve_path(source)
    if not path.is_file():
        names = ", ".join(name for name, known in KNOWN.items() if known.convolutions is None)
        raise UsageError(f"encoder_from={source}: give the file of a checkpoint, or {names}")
    given = getattr(load_any(path), "encoder", None)
    if given is None:
        raise UsageError(f"{path} holds no encoder")
    theirs, ours = given.state_dict(), encoder.state_dict()
    for key in sorted(theirs.keys() | ours.keys()):
        there, here = _shape(theirs.get(key)), _shape(ours.get(key))
        if there != here:
            raise UsageError(
                f"{path} holds another encoder than {type(encoder).__name__} with these settings: {key} is {there} "
                f"there and {here} here"
            )
    encoder.load_state_dict(theirs)


def _shape(tensor: Any) -> str:
    return "missing" if tensor is None else "×".join(map(str, tensor.shape))


def average_with(path: str | os.PathLike[str], model: Model) -> None:
    """Move a model halfway to the weights of a checkpoint of a model like it.

    The mean of a model and of what further training made of it keeps much of what either does best (Wortsman et al.,
    arXiv 2109.01903).

    Raises:
        UsageError: the checkpoint cannot be loaded, or is of another model.
    """
    other = load(path)
    check_same(path, other, model)
    theirs = other.state_dict()
    mean = {k: (v + theirs[k]) / 2 if v.is_floating_point() else v for k, v in model.state_dict().items()}
    model.load_state_dict(mean)
