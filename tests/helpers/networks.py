"""Networks with random weights, in files of the layout of those who published them."""

from pathlib import Path
from unittest import mock

import torch
import torchvision
from safetensors.torch import save_file
from torch import nn
from torch_fidelity import feature_extractor_inceptionv3


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


def write_inception(path: Path) -> Path:
    """Write random weights of FID's Inception, in torch-fidelity's layout, and return the path."""
    network = feature_extractor_inceptionv3.FeatureExtractorInceptionV3
    with (
        torch.device("meta"),
        mock.patch.object(network, "load_state_dict"),
        mock.patch.object(feature_extractor_inceptionv3.torch, "load"),
    ):
        names = network("made", ["2048"], "nowhere").state_dict()
    generator, state = torch.Generator().manual_seed(0), {}
    for name, like in names.items():
        if like.ndim == 4:
            state[name] = (2 / like[0].numel()) ** 0.5 * torch.randn(like.shape, generator=generator)
        else:
            state[name] = (
                torch.ones(like.shape) if name.endswith(("bn.weight", "var")) else torch.zeros(like.shape)
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
    return path
