"""Checkpoints as people have them: numpy's numbers beside the tensors, and the names that wrappers give to weights."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import linf
from helpers.commands import Linf
from helpers.pickles import Malicious
from linf.checkpoints.pickled import plain_state, read_pickle
from linf.checkpoints.published import to_published
from linf.errors import UsageError

PLAIN: dict[str, tuple[Any, Any]] = {
    "double": (np.float64(30.25), 30.25),
    "single": (np.float32(0.5), 0.5),
    "half": (np.float16(0.5), 0.5),
    "whole": (np.int64(-3), -3),
    "byte": (np.uint8(255), 255),
    "truth": (np.bool_(True), True),
    "text": (np.str_("τ"), "τ"),
    "other order": (np.array(3.5, ">f8")[()], 3.5),
    "settings": (argparse.Namespace(lr=np.float64(1e-4)), argparse.Namespace(lr=1e-4)),
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", PLAIN)
def test_numbers_of_numpys_come_as_pythons(tmp_path: Path, name: str, zipped: bool) -> None:
    given, expected = PLAIN[name]
    path = tmp_path / "a.pth"
    torch.save({"x": given, "t": torch.ones(2)}, path, _use_new_zipfile_serialization=zipped)
    found = read_pickle(path)["x"]
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    "array", [np.arange(6).reshape(2, 3), np.asfortranarray(np.eye(2, 3)), np.ones(2, ">f4")]
)
def test_arrays_of_numpys_become_tensors(tmp_path: Path, array: np.ndarray) -> None:
    torch.save({"module.x": array}, tmp_path / "a.pth")
    state = plain_state(read_pickle(tmp_path / "a.pth"))
    assert torch.equal(state["x"], torch.from_numpy(array.astype(array.dtype.newbyteorder("="))))


def test_nothing_is_run(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    for malice in (Malicious(marker), np.array([Malicious(marker)], dtype=object)):
        torch.save({"model": {}, "x": malice}, tmp_path / "evil.pth")
        with pytest.raises(UsageError, match="not a checkpoint that can be loaded"):
            linf.load(tmp_path / "evil.pth")
    assert not marker.exists()


def test_numbers_are_not_admitted_elsewhere(tmp_path: Path) -> None:
    torch.save({"x": np.float64(1)}, tmp_path / "a.pth")
    before = set(torch.serialization.get_safe_globals())
    read_pickle(tmp_path / "a.pth")
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_a_published_model_as_people_have_it(
    tmp_path: Path, checkpoint: Path, run: Linf, prefix: str
) -> None:
    model = linf.load(checkpoint)
    content = to_published(model)
    state = content["model"]["sd"]
    content["model"]["sd"] = {f"{prefix}{key}": value for key, value in state.items()}
    content["model"]["args"]["flow_layers"] = np.int64(content["model"]["args"]["flow_layers"])
    content |= {"max_val_v": np.float64(31.5), "epoch": np.int64(1000), "rng": np.arange(4)}
    torch.save(content, tmp_path / "published.pth")
    found = linf.load(tmp_path / "published.pth")
    assert found.config == model.config
    json.dumps(found.config)
    assert all(torch.equal(value, found.state_dict()[key]) for key, value in model.state_dict().items())
    told = run("info", "published.pth")
    assert told.status == 0, told.err
    assert "1000" in told.out


def test_a_run_of_ours_in_a_wrapper(tmp_path: Path, checkpoint: Path) -> None:
    model = linf.load(checkpoint)
    state = {f"model._orig_mod.{key}": value for key, value in model.state_dict().items()}
    torch.save({"linf": model.config, "state_dict": state, "best": np.float32(1)}, tmp_path / "last.ckpt")
    found = linf.load(tmp_path / "last.ckpt").state_dict()
    assert all(torch.equal(value, found[key]) for key, value in model.state_dict().items())
