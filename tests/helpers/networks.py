"""Networks with made weights, in files such as torchvision writes."""

from pathlib import Path

import torch
import torchvision
from safetensors.torch import save_file
from torch import nn


def network(backbone: str) -> nn.Module:
    """Torchvision's network without its memory."""
    with torch.device("meta"):
        return getattr(torchvision.models, backbone)()


def write_vgg(path: Path, backbone: str = "vgg16") -> Path:
    """A state_dict as torchvision gives it, less the classifier, whose features are about as large as real ones."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, like in network(backbone).features.state_dict().items():
        weights[f"features.{name}"] = value = torch.zeros(like.shape)
        if value.ndim == 4:
            value.normal_(0, (2 / value[0].numel()) ** 0.5, generator=generator)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(weights, path)
    else:
        torch.save({**weights, "classifier.0.bias": torch.zeros(3)}, path)
    return path


def convolutions(network: str) -> nn.Module:
    """Torchvision's ``features`` without their memory."""
    with torch.device("meta"):
        return getattr(torchvision.models, network)().features


def write_network(path: Path, network: str) -> Path:
    """Made-up weights as torchvision gives them, less the classifier; features are about as large as real ones."""
    generator = torch.Generator().manual_seed(0)
    state = {"classifier.1.bias": torch.zeros(3)}
    for name, like in convolutions(network).state_dict().items():
        size = (2 / like[0].numel()) ** 0.5 if like.ndim == 4 else 0.1
        state[f"features.{name}"] = size * torch.randn(like.shape, generator=generator)
    torch.save(state, path)
    return path
