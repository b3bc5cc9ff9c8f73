"""What the tests of the metrics share."""

from pathlib import Path

import pytest

from helpers.networks import write_network


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """AlexNet and VGG16 with made-up weights, by torchvision's names of them."""
    folder = tmp_path_factory.mktemp("networks")
    return {network: write_network(folder / f"{network}.pth", network) for network in ("alexnet", "vgg16")}
