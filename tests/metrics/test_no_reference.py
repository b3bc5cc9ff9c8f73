"""Networks without reference: pyiqa's own figures, and one line where pyiqa or its weights are missing."""

import builtins
import importlib.util
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from skimage.data import astronaut
from torch import Tensor

from linf.metrics.no_reference import NoReference

with_pyiqa = pytest.mark.skipif(importlib.util.find_spec("pyiqa") is None, reason="pyiqa is not installed")


def image() -> Tensor:
    """A detail (1,3,H,W) in [0, 1]."""
    return torch.from_numpy(astronaut()[:96, 150:290].copy()).permute(2, 0, 1)[None] / 255


def test_without_pyiqa_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    found = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name == "pyiqa":
            raise ImportError("No module named 'pyiqa'")
        return found(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=r"musiq is measured by pyiqa, .*: pip install 'linf\[iqa\]'$"):
        NoReference("musiq", "musiq")


@with_pyiqa
def test_a_figure_is_pyiqas(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import pyiqa

    torch.manual_seed(0)
    theirs = pyiqa.create_metric("musiq", device=torch.device("cpu"), pretrained=False)
    for each in theirs.net.parameters():
        each.data += 0.02 * torch.randn_like(each)
    torch.save(theirs.net.state_dict(), tmp_path / "musiq.pth")
    capsys.readouterr()
    metric = NoReference("musiq", "musiq", tmp_path / "musiq.pth")
    assert capsys.readouterr().out == ""
    both = torch.cat([image(), image().flip(-1)])
    found = metric.of_samples(both, both, both, 4)
    expected = torch.stack([theirs(each).reshape(()) for each in both.split(1)])
    torch.testing.assert_close(found, expected)
    assert found[0] != found[1]
    both[1, 0, 0, 0] = torch.nan
    assert metric.of_samples(both, both, both, 4).isnan().tolist() == [False, True]
    assert metric.figure == "musiq"
    assert metric.convention.startswith(f"musiq of pyiqa {pyiqa.__version__}")


@with_pyiqa
@pytest.mark.parametrize("model", ["musiq", "maniqa-pipal", "clipiqa"])
def test_missing_weights_are_told_and_not_downloaded(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *given, **_: asked.append(given))
    lookup = socket.getaddrinfo
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(ValueError, match=rf"pyiqa cannot open {model} \(.+create_metric\('{model}'\)"):
        NoReference("it", model)
    assert asked == []
    assert socket.getaddrinfo is lookup


@with_pyiqa
def test_an_unknown_metric_is_told() -> None:
    with pytest.raises(ValueError, match="pyiqa cannot open nonesuch"):
        NoReference("it", "nonesuch")
