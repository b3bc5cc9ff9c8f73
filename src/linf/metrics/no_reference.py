"""Metric box of the figure: networks that judge an image alone, as pyiqa has them (``pip install 'linf[iqa]'``).

Pyiqa downloads weights when it is asked for a metric. Here it may not: it finds those that it downloaded before, or it
is given a file, and what is missing is told.
"""

import contextlib
import importlib.metadata
import os
import socket
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from linf.metrics.metric import ImageMetric


class NoReference(ImageMetric):
    """A metric of pyiqa without reference, of which higher is better: MUSIQ, MANIQA, CLIP-IQA.

    Args:
        figure: its name here.
        model: its name in pyiqa, which says what it was trained on: ``musiq``, ``maniqa-pipal``, ``clipiqa``.
        weights: a file for pyiqa's ``pretrained_model_path``; None takes what pyiqa downloaded before.

    Raises:
        ValueError: pyiqa is not installed, or knows no such metric, or its weights are missing or others.
    """

    higher_is_better = True
    rgb_only = True

    def __init__(self, figure: str, model: str, weights: str | os.PathLike[str] | None = None) -> None:
        super().__init__(figure)
        try:
            import pyiqa

            with _without_network():
                given = {} if weights is None else {"pretrained_model_path": os.fspath(weights)}
                self.network: Any = pyiqa.create_metric(model, device=torch.device("cpu"), **given)
        except ImportError as error:
            raise ValueError(
                f"{figure} is measured by pyiqa, which is not installed here ({error}): pip install 'linf[iqa]'"
            ) from error
        except Exception as error:  # Pyiqa answers a missing or a broken file with any exception.
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise ValueError(
                f"pyiqa cannot open {model} ({reason}): call pyiqa.create_metric('{model}') where there is a network, "
                "and copy the cache folders of torch and of Hugging Face if that is another machine"
            ) from error
        self.network.eval().requires_grad_(False)
        version = importlib.metadata.version("pyiqa")
        self.convention = f"{model} of pyiqa {version}, on whole images of RGB, without a reference"

    @torch.no_grad()
    def of_samples(self, sr: Tensor, hr: Tensor, lr: Tensor, border: int) -> Tensor:
        """Score of each sample, clamped to [0, 1]; NaN for one with NaN in it."""
        scores = []
        with torch.autocast(sr.device.type, enabled=False):
            for image in sr.float().clamp(0, 1).split(1):
                known = bool(image.isfinite().all())
                scores.append(self.network(image).reshape(()) if known else image.new_full((), torch.nan))
        return torch.stack(scores)


@contextlib.contextmanager
def _without_network() -> Iterator[None]:
    """Refuse to look up any host in the block, and keep what libraries print out of tables."""
    from huggingface_hub import constants  # Comes with pyiqa; it would try a host for a minute.

    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError("its weights are not here, and nothing is downloaded")

    lookup, offline = socket.getaddrinfo, constants.HF_HUB_OFFLINE
    socket.getaddrinfo, constants.HF_HUB_OFFLINE = refuse, True
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            yield
    finally:
        socket.getaddrinfo, constants.HF_HUB_OFFLINE = lookup, offline
