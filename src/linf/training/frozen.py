"""Parts of a model that a training leaves as they are."""

from collections.abc import Sequence

from torch import nn

from linf.errors import UsageError


def freeze(model: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    """Take the parts of these names out of what is trained, and return them.

    Raises:
        UsageError: the model has no such part.
    """
    parts = dict(model.named_children())
    if unknown := [name for name in names if name not in parts]:
        raise UsageError(f"frozen has {', '.join(unknown)}; the model's parts are {', '.join(parts)}")
    for name in names:
        parts[name].requires_grad_(False)
    return [parts[name] for name in names]
