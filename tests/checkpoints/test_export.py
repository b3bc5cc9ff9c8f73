"""`linf export`: the file computes what the model does, at any size, without this project's code."""

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

import linf
from helpers.commands import Linf, assert_in_words
from linf.checkpoints import export
from linf.checkpoints.graph import Graph
from linf.checkpoints.published import to_published
from linf.coordinates import grid
from linf.errors import UsageError
from linf.models.conditioner import FourierConditioner
from linf.models.encoders import EDSR, RDN, RRDBNet, SwinIR
from linf.models.flow import ConditionalFlow
from linf.models.linf import LINF

SIZES = [
    (1, 9, 7, 9, 7),
    (1, 10, 13, 33, 43),
    (1, 7, 6, 42, 36),
    (2, 5, 11, 17, 20),
    (1, 1, 1, 5, 4),
    (3, 1, 8, 1, 31),
]
"""Batch, LR and output size: ×1, ×3.3, ×6, and sides of one pixel; most no multiples of 3, none that of the example."""

ENCODERS: dict[str, Callable[[], nn.Module]] = {
    "edsr": partial(EDSR, blocks=2, channels=4, residual_scale=0.1),
    "rdn": partial(RDN, blocks=2, layers=2, growth=4, channels=4),
    "rrdb": partial(RRDBNet, blocks=1, channels=4, growth=4),
    "swinir": partial(SwinIR, channels=12, depths=[2], heads=[2], window=4, out_channels=4),
}
MODELS = [
    ("edsr", "local", 1),
    ("edsr", "feature", 1),
    ("edsr", "local", 3),
    ("rdn", "feature", 3),
    ("rdn", "local", 1),
    ("rrdb", "feature", 1),
    ("rrdb", "local", 3),
    ("swinir", "feature", 3),
    ("swinir", "local", 1),
]
FREE = """
import sys, torch
sys.modules["linf"] = None
program = torch.export.load(sys.argv[1]).module()
cases = torch.load(sys.argv[2], weights_only=True)
torch.save([program(*given) for given in cases], sys.argv[3])
assert not [name for name, module in sys.modules.items() if name.startswith("linf") and module]
"""


def small(encoder: str, ensemble: str, patch_size: int) -> LINF:
    """An untrained model, whose texture is about as strong as a real one's."""
    torch.manual_seed(0)
    conditioner = partial(FourierConditioner, width=8, depth=2, ensemble=ensemble)
    model = LINF(ENCODERS[encoder](), conditioner, ConditionalFlow(patch_size, steps=3)).eval()
    model.flow.whiten(0.1 * torch.randn(3 * patch_size**2, 500))
    return model


def inputs(model: LINF, case: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, h, w, height, width = case
    generator = torch.Generator().manual_seed(sum(case))
    lr = 0.3 + 0.4 * torch.rand(batch, 3, h, w, generator=generator)
    z = model.sample_latents((height, width), sum(case), batch=batch)
    return lr, torch.tensor([height, width]), torch.rand((), generator=generator), z


def furthest(model: LINF, graph: Callable[..., Tensor]) -> float:
    """The largest difference of a graph from the model over `SIZES`."""
    worst = 0.0
    for case in SIZES:
        lr, size, temperature, z = inputs(model, case)
        expected = model.sample(lr, case[3:], temperature=float(temperature), z=z)  # type: ignore[arg-type]
        with torch.no_grad():
            image = graph(lr, size, temperature, z)
        assert image.shape == expected.shape
        assert expected.std() > 0.01
        worst = max(worst, float((image - expected).abs().max()))
    return worst


def without_linf(model: LINF, file: Path, folder: Path) -> Callable[..., Tensor]:
    """A .pt2 file, run over `SIZES` by a Python that has no linf."""
    torch.save([inputs(model, case) for case in SIZES], folder / "given.pt")
    script = [sys.executable, "-I", "-c", FREE, file, folder / "given.pt", folder / "images.pt"]
    subprocess.run(script, check=True, cwd=folder, capture_output=True)
    images = iter(torch.load(folder / "images.pt", weights_only=True))
    return lambda *given: next(images)


@pytest.mark.parametrize(("encoder", "ensemble", "patch_size"), MODELS)
def test_graph_computes_the_models_sample(encoder: str, ensemble: str, patch_size: int) -> None:
    model = small(encoder, ensemble, patch_size)
    assert furthest(model, Graph(model)) < 2e-6


@pytest.mark.slow
def test_onnx_computes_the_models_sample_and_describes_itself(run: Linf, checkpoint: Path) -> None:
    done = run("export", checkpoint, "new/model.onnx")
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("new/model.onnx, ")
    assert float(done.out.split()[-4]) <= 1e-5
    model = linf.load(checkpoint)
    assert isinstance(model, LINF)
    assert furthest(model, export.onnx_runner(Path("new/model.onnx"))) < 1e-5
    written = onnx.load("new/model.onnx")
    onnx.checker.check_model(written, full_check=True)
    assert [(entry.domain, entry.version) for entry in written.opset_import] == [("", 18)]
    assert [entry.name for entry in written.graph.input] == ["lr", "size", "temperature", "z"]
    assert [entry.name for entry in written.graph.output] == ["image"]
    assert "ceil(H/3), ceil(W/3), 27" in written.doc_string
    facts = json.loads({entry.key: entry.value for entry in written.metadata_props}["linf"])
    assert (facts["patch_size"], facts["dim"], facts["config"]) == (3, 27, model.config)
    assert [path.name for path in Path("new").iterdir()] == ["model.onnx"]
    assert str(Path(linf.__file__).parent).encode() not in Path("new/model.onnx").read_bytes()


@pytest.mark.thorough
def test_torch_export_runs_without_this_package(run: Linf, tmp_path: Path, checkpoint: Path) -> None:
    done = run("export", checkpoint, "model.pt2")
    assert (done.status, done.err) == (0, "")
    model = linf.load(checkpoint)
    assert isinstance(model, LINF)
    assert furthest(model, without_linf(model, tmp_path / "model.pt2", tmp_path)) < 1e-5
    told = {"linf.txt": ""}
    torch.export.load("model.pt2", extra_files=told)
    assert "ceil(H/3), ceil(W/3), 27" in str(told["linf.txt"])
    assert str(Path(linf.__file__).parent).encode() not in Path("model.pt2").read_bytes()


def test_exploding_patch_is_replaced_by_its_mean() -> None:
    model = small("edsr", "feature", 1)
    model.flow.weight.data[0] *= 1e-2
    lr, size, temperature, z = inputs(model, SIZES[1])
    mean = model.sample(lr, (33, 43), temperature=0)
    expected = model.sample(lr, (33, 43), temperature=[float(temperature)], z=z)[0]
    assert 0.01 < float((expected == mean).float().mean()) < 0.99
    torch.testing.assert_close(Graph(model)(lr, size, temperature, z), expected, rtol=0, atol=1e-5)


def test_traceable_ensemble_equals_the_ensemble() -> None:
    conditioner = small("edsr", "feature", 1).conditioner
    features, coord = torch.randn(2, 4, 5, 6), grid(9, 8)[None].expand(2, -1, -1, -1)
    cell = torch.tensor([[2 / 9, 2 / 8]]).expand(2, -1)
    with pytest.MonkeyPatch.context() as patch:
        expected = conditioner(features, coord, cell)
        patch.setattr(torch.compiler, "is_exporting", lambda: True)
        torch.testing.assert_close(conditioner(features, coord, cell), expected, rtol=0, atol=1e-6)


@pytest.fixture
def quick_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of the model's graph, whose tracing takes seconds, that of the identity."""
    identity = torch.export.export(nn.Identity(), (torch.zeros(1),))
    monkeypatch.setattr(export, "_program", lambda model: identity)


@pytest.mark.usefixtures("quick_program")
def test_graph_that_differs_from_the_model_is_not_written(
    run: Linf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, checkpoint: Path
) -> None:
    monkeypatch.setattr(export, "difference", lambda model, run: float("inf"))
    (tmp_path / "model.pt2").write_text("before")
    done = run("export", checkpoint, "model.pt2", "--force")
    assert_in_words(done.status, done.out, done.err, "model.pt2", "inf", "0.0001")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]


@pytest.mark.usefixtures("quick_program")
def test_a_full_disk_is_one_line_and_leaves_the_old_file(run: Linf, tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "model.pt2").write_text("before")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        done = run("export", checkpoint, "model.pt2", "--force")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_in_words(done.status, done.out, done.err, "cannot write model.pt2")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]


@pytest.mark.thorough
def test_another_opset_without_onnxruntime(
    run: Linf, monkeypatch: pytest.MonkeyPatch, checkpoint: Path
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    done = run("export", checkpoint, "model.onnx", "--opset", "20")
    assert done.status == 0
    assert "not checked" in done.out
    assert onnx.load("model.onnx").opset_import[0].version == 20


@pytest.mark.parametrize("missing", ["onnx", "onnxscript"])
def test_missing_packages_are_named(
    run: Linf, monkeypatch: pytest.MonkeyPatch, checkpoint: Path, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    done = run("export", checkpoint, "model.onnx")
    assert_in_words(done.status, done.out, done.err, "pip install 'linf[export]'")


@pytest.mark.usefixtures("quick_program")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("model.onnx", "--opset", "17"), ("opset 17", "18")),
        (("model.onnx", "--opset", "99"), ("opset 99", "18")),
        (("model.pt2", "--opset", "18"), ("--opset", ".onnx")),
        (("model.pt",), ("model.pt", ".pt2", ".onnx")),
        (("there.onnx",), ("there.onnx exists", "--force")),
        (("there.onnx/model.pt2", "--force"), ("there.onnx/model.pt2",)),
    ],
)
def test_export_mistakes_are_one_line(
    run: Linf, tmp_path: Path, checkpoint: Path, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    (tmp_path / "there.onnx").touch()
    done = run("export", checkpoint, *arguments)
    assert_in_words(done.status, done.out, done.err, *words)
    assert [path.name for path in tmp_path.iterdir()] == ["there.onnx"]
    assert (tmp_path / "there.onnx").read_bytes() == b""


def test_a_model_without_a_flow_is_refused(tmp_path: Path) -> None:
    from linf.models.baselines import Bicubic

    with pytest.raises(UsageError, match="Bicubic has no flow"):
        export.export(Bicubic(), tmp_path / "model.onnx")


# Every make of model


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("encoder", "ensemble", "patch_size", "suffix"),
    [
        ("edsr", "feature", 1, ".onnx"),
        ("edsr", "feature", 1, ".pt2"),
        ("rdn", "feature", 3, ".onnx"),
        ("rdn", "feature", 3, ".pt2"),
        ("rrdb", "local", 3, ".onnx"),
        ("rrdb", "local", 3, ".pt2"),
        ("swinir", "local", 1, ".onnx"),
        ("swinir", "local", 1, ".pt2"),
    ],
)
def test_every_encoder_is_exported(
    tmp_path: Path, encoder: str, ensemble: str, patch_size: int, suffix: str
) -> None:
    model, out = small(encoder, ensemble, patch_size), tmp_path / f"model{suffix}"
    export.export(model, out)
    graph = export.onnx_runner(out) if suffix == ".onnx" else without_linf(model, out, tmp_path)
    assert furthest(model, graph) < 1e-5


@pytest.mark.thorough
def test_published_file_is_exported(run: Linf, tmp_path: Path) -> None:
    model = linf.load("default")
    assert isinstance(model, LINF)
    torch.save(to_published(model), tmp_path / "published.pth")
    assert run("export", "published.pth", "model.pt2").status == 0
    assert furthest(model, without_linf(model, tmp_path / "model.pt2", tmp_path)) < 1e-4
