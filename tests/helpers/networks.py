"""Torchvision's networks with random weights, in files of torchvision's layout."""

from pathlib import Path

import torch
import torchvision
from safetensors.torch import save_file
from torch import nn


def convolutions(network: str) -> nn.Module:
    """Torchvision's ``features`` on the meta device."""
    with torch.device("meta"):
        return getattr(torchvision.models, network)().features


def write_network(path: Path, network: str = "vgg16") -> Path:
    """Write random weights, of which features are about as large as real ones, and return the path.

    A ``.pth`` also holds a part of the classifier, as torchvision's files do.
    """
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, like in convolutions(network).state_dict().items():
        size = (2 / like[0].numel()) ** 0.5 if like.ndim == 4 else 0.1
        state[f"features.{name}"] = size * torch.randn(like.shape, generator=generator)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({**state, "classifier.1.bias": torch.zeros(3)}, path)
    return path
