"""Networks of other projects as peers of LINF: every architecture that spandrel knows by its checkpoint alone."""

import os
from importlib.metadata import version
from typing import Any

from linf.checkpoints.native import resolve_path
from linf.errors import UsageError
from linf.models.fixed_scale import FixedScale


def load_foreign(path: str | os.PathLike[str]) -> FixedScale:
    """Load a network that spandrel reads: ESRGAN, SwinIR, HAT, DAT, and some forty more.

    Args:
        path: a ``.pth``, ``.pt``, ``.ckpt`` or ``.safetensors`` as its authors published it, or a name that
            `linf weights list` shows, ``dat_light_x4`` for example.

    Returns:
        The network in evaluation mode on the CPU, at its own scale; other sizes are resized from there.

    Raises:
        UsageError: spandrel is not installed, there is no such file, or it holds no network from images to images that
            spandrel knows.
    """
    try:
        import spandrel
    except ImportError as error:
        raise UsageError(
            f"model=spandrel needs the package spandrel ({error}): pip install 'linf[peers]'"
        ) from error
    file = resolve_path(path)
    if not file.is_file():
        raise UsageError(f"no checkpoint at {file}: give the file of a network that spandrel reads")
    try:
        found: Any = spandrel.ModelLoader().load_from_file(file)
    except Exception as error:  # Its readers answer a broken file with any exception.
        unknown = isinstance(error, spandrel.UnsupportedModelError)
        why = "its architecture is not one that it knows" if unknown else f"{type(error).__name__}: {error}"
        raise UsageError(f"spandrel {version('spandrel')} cannot read {file}: {why}") from error
    kind = found.architecture.name
    if not isinstance(found, spandrel.ImageModelDescriptor):
        raise UsageError(
            f"{file} holds {kind}, which needs a mask beside the image: give a super-resolution network"
        )
    if found.input_channels != found.output_channels:
        raise UsageError(
            f"{file} holds {kind} from {found.input_channels} channels to {found.output_channels}: give a network "
            "whose output is an image like its input"
        )
    found.eval().model.requires_grad_(False)
    return FixedScale(
        found.model,
        found.scale,
        title=f"{kind} ×{found.scale}",
        image_channels=found.output_channels,
        call=found,
        config={
            "network": {"name": kind, "scale": found.scale, "tags": list(found.tags)},
            "spandrel": version("spandrel"),
        },
    )
