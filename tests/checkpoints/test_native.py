"""Checkpoints: a saved model is loaded as it was, another file is refused in one line, and no code in it is run."""

import pickle
import re
import resource
import struct
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

import linf
from helpers.commands import Linf
from helpers.paths import REFERENCE
from helpers.pickles import Malicious
from linf.checkpoints.start import average_with, check_same, prepare_resume, start_from
from linf.errors import UsageError
from linf.models.conditioner import FourierConditioner
from linf.models.correlation import LatentCorrelation
from linf.models.encoders import EDSR
from linf.models.flow import ConditionalFlow
from linf.models.linf import LINF
from linf.models.tails import Tails

Content = dict[str, Any]


def tiny(patch_size: int = 1) -> LINF:
    torch.manual_seed(patch_size)
    flow = ConditionalFlow(patch_size, steps=2)
    conditioner = partial(FourierConditioner, width=6, depth=2)
    model = LINF(EDSR(blocks=2, channels=5, residual_scale=0.5), conditioner, flow).eval()
    flow.initialised.fill_(True)
    torch.nn.init.normal_(flow.bias)
    return model


def published(model: LINF) -> Content:
    """METHOD §10's format: 1×1 convolutions, one tensor per linear map, and the mean shifts nobody uses."""
    state: Content = {}
    for name, value in model.state_dict().items():
        if name.startswith("encoder."):
            state[name] = value
        elif match := re.fullmatch(r"conditioner\.mlp\.(\d+)\.(weight|bias)", name):
            state[f"layers.{match[1]}.{match[2]}"] = value[..., None, None] if match[2] == "weight" else value
        elif name.startswith("conditioner."):
            state[name.removeprefix("conditioner.")] = value
    steps = model.flow.steps
    for k in range(steps + 1):
        part = f"linears.{k}" if k < steps else "last"
        state[f"imnet.{part}._weight"], state[f"imnet.{part}.bias"] = model.flow.weight[k], model.flow.bias[k]
    for shift in ("sub_mean", "add_mean"):
        state[f"encoder.{shift}.weight"] = torch.eye(3)[..., None, None]
        state[f"encoder.{shift}.bias"] = torch.ones(3)
    encoder = {"n_resblocks": 2, "n_feats": 5, "res_scale": 0.5, "no_upsampling": True}
    args: Content = {
        "encoder_spec": {"name": "edsr-baseline", "args": encoder},
        "imnet_spec": {"name": "flow", "args": {"name": "flow"}},
        "flow_layers": steps,
        "num_layer": 2,
        "hidden_dim": 6,
    }
    if model.patch_size > 1:
        args["patch_size"] = model.patch_size
    name = "linf-patch" if model.patch_size > 1 else "linf"
    state = {key: value.detach().clone() for key, value in state.items()}
    return {"model": {"name": name, "args": args, "sd": state}, "optimizer": {}, "epoch": 7}


def lightning(model: LINF) -> Content:
    """What a run leaves, so far as a model is in it."""
    state = {f"model.{name}": value.clone() for name, value in model.state_dict().items()}
    return {
        "linf": model.config,
        "state_dict": {**state, "val_psnr.x2.mean_value": torch.zeros(())},
        "epoch": 3,
    }


def refused(path: Path, match: str | None = None) -> None:
    """The one line with which a file is refused; it names the path."""
    with pytest.raises(UsageError, match=match) as error:
        linf.load(path)
    text = str(error.value)
    assert "\n" not in text
    assert str(path) in text


def same(a: LINF, b: LINF) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


# What is written comes back


def test_a_full_disk_is_an_error_of_the_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.symlink_to("/dev/full")  # A library that replaces the file then replaces the link.
    monkeypatch.setattr("linf.checkpoints.native.atomic_write", lambda path: nullcontext(full))
    with pytest.raises(OSError, match="No space left"):
        linf.save(tiny(1), "model.safetensors")


@pytest.mark.parametrize("patch_size", [1, 3, 5])
def test_saved_model_comes_back_bit_by_bit(tmp_path: Path, patch_size: int) -> None:
    model = tiny(patch_size)
    path = tmp_path / "a folder" / "model.safetensors"
    linf.save(model, path)
    back = linf.load(str(path))
    assert back.config == model.config
    assert same(back, model)
    assert not back.training
    assert [file.name for file in path.parent.iterdir()] == ["model.safetensors"]


def test_half_precision_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    model = tiny(3)
    model.flow.bias.data[0, 0] = 1e5
    with pytest.raises(UsageError, match=r"flow\.bias is beyond 65504, where half precision ends"):
        linf.save(model, tmp_path / "half.safetensors", half=True)
    assert not list(tmp_path.iterdir())


def test_a_compiled_model_is_saved_as_itself(tmp_path: Path) -> None:
    model: Any = torch.compile(tiny(3))
    linf.save(model, tmp_path / "whole.safetensors")
    assert linf.load(tmp_path / "whole.safetensors").state_dict().keys() == tiny(3).state_dict().keys()
    model.encoder = torch.compile(model.encoder)
    with pytest.raises(UsageError, match=r"a part of the model is compiled.*: use part\.compile\(\) instead"):
        linf.save(model, tmp_path / "part.safetensors")
    with pytest.raises(UsageError, match="a DataParallel cannot be saved: give the LINF, LIIF or LTE in it"):
        linf.save(torch.nn.DataParallel(model), tmp_path / "part.safetensors")
    assert not (tmp_path / "part.safetensors").exists()


def test_correlation_and_tails_of_latents_are_kept_beside_the_weights(tmp_path: Path) -> None:
    model = tiny(3)
    model.correlation = LatentCorrelation(27, [2, 3.5], reach=1)
    model.correlation.taps += 0.1 * torch.randn(model.correlation.taps.shape)
    model.tails = {2.0: Tails(3.5, 0.7), 4.0: Tails(8.0, 0.9)}
    linf.save(model, tmp_path / "whole.safetensors")
    back = linf.load(tmp_path / "whole.safetensors")
    assert back.tails == model.tails
    assert back.config == model.config
    assert same(back, model)
    linf.save(model, tmp_path / "half.safetensors", half=True)
    (filters,) = linf.load(tmp_path / "half.safetensors").correlation.filters(torch.tensor([2.7]))
    taps = filters.flatten(0, 1)
    assert torch.allclose((taps @ taps.mT).sum(0), torch.eye(27), atol=1e-5)
    without = tiny(3)
    check_same(tmp_path / "whole.safetensors", back, without)  # Of the same settings all the same.
    before = without.flow.weight.clone()
    for one, other in ((without, "whole.safetensors"), (back, "without.safetensors")):
        linf.save(tiny(3), tmp_path / "without.safetensors")
        average_with([tmp_path / other], one)
    assert torch.equal(back.correlation.taps, model.correlation.taps)
    assert torch.allclose(without.flow.weight, (before + model.flow.weight) / 2)
    start_from(tmp_path / "half.safetensors", without)
    assert without.tails == model.tails
    assert without.correlation is not None


@pytest.mark.parametrize(("scales", "reach"), [([2, 4], 1), ([2, 3.5], 2), ([2], 1)])
def test_filters_of_other_scales_are_not_averaged(tmp_path: Path, scales: list[float], reach: int) -> None:
    model, other = tiny(3), tiny(3)
    model.correlation = LatentCorrelation(27, [2, 3.5], reach=1)
    other.correlation = LatentCorrelation(27, scales, reach)
    other.correlation.taps += 1
    linf.save(other, tmp_path / "other.safetensors")
    before = model.correlation.taps.clone()
    average_with([tmp_path / "other.safetensors"], model)
    assert torch.equal(model.correlation.taps, before)


def test_a_model_that_knows_black_and_white_is_resumed_and_started_from_and_averaged(
    run: Linf, tmp_path: Path
) -> None:
    model = tiny()
    model.value_range = (-1024.0, 3071.0)
    linf.save(model, tmp_path / "ct.safetensors")
    weights = {f"model.{name}": value for name, value in model.state_dict().items()}
    torch.save({"linf": model.config, "state_dict": weights}, tmp_path / "last.ckpt")
    prepare_resume(tmp_path / "last.ckpt", tiny())  # A run learns the values only when it opens its images.
    new = tiny()
    torch.nn.init.normal_(new.flow.bias)
    start_from(tmp_path / "ct.safetensors", new)
    assert same(new, model)
    done = run("convert", "ct.safetensors", "mean.safetensors", "--mean", "last.ckpt")
    assert done.status == 0, done.err
    assert linf.load(tmp_path / "mean.safetensors").config == model.config


@pytest.mark.parametrize("patch_size", [1, 3])
def test_lightning_checkpoint_gives_its_model(tmp_path: Path, patch_size: int) -> None:
    model = tiny(patch_size)
    torch.save(lightning(model), tmp_path / "last.ckpt")
    back = linf.load(tmp_path / "last.ckpt")
    assert back.config == model.config
    assert same(back, model)
    assert not back.training
    prepare_resume(tmp_path / "last.ckpt", back)


@pytest.mark.parametrize("patch_size", [1, 3])
def test_published_checkpoint_gives_its_model(tmp_path: Path, patch_size: int) -> None:
    model = tiny(patch_size)
    torch.save(published(model), tmp_path / "published.pth")
    back = linf.load(tmp_path / "published.pth")
    assert back.config == model.config
    assert same(back, model)


@pytest.mark.parametrize("name", ["edsr_pixel", "edsr_patch3"])
def test_published_reference_goes_through_our_own_format(tmp_path: Path, name: str) -> None:
    model = linf.load(REFERENCE / f"{name}.pth")
    assert model.flow.initialised
    linf.save(model, tmp_path / "model.safetensors")
    back = linf.load(tmp_path / "model.safetensors")
    assert back.config == model.config
    assert same(back, model)


def test_only_a_run_can_be_resumed(tmp_path: Path) -> None:
    linf.save(tiny(), tmp_path / "model.safetensors")
    torch.save(published(tiny()), tmp_path / "published.pth")
    for name in ("model.safetensors", "published.pth"):
        with pytest.raises(UsageError, match=f"{name} holds weights but no training state"):
            prepare_resume(tmp_path / name, tiny())
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    with pytest.raises(UsageError, match=r"is the folder of a run: give .*last\.ckpt, or .* hydra.run.dir="):
        prepare_resume(tmp_path, tiny())


def test_saving_replaces_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    linf.save(tiny(1), path)
    linf.save(tiny(3), path)
    assert same(linf.load(path), tiny(3))


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    linf.save(tiny(1), path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises((OSError, safetensors.SafetensorError)):
            linf.save(tiny(3), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert same(linf.load(path), tiny(1))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


# Tensors that do not fit


def without(key: str) -> Callable[[Content], None]:
    return lambda state: state.pop(key)


def with_tensor(key: str, *shape: int) -> Callable[[Content], None]:
    return lambda state: state.update({key: torch.zeros(shape)})


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (without("model.conditioner.coef.bias"), "1 missing .conditioner.coef.bias."),
        (with_tensor("model.flow.extra", 2), "1 unknown .flow.extra."),
        (with_tensor("model.flow.bias", 3, 4), "1 of another shape .flow.bias."),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    tmp_path: Path, spoil: Callable[[Content], None], match: str | None
) -> None:
    content = lightning(tiny())
    spoil(content["state_dict"])
    torch.save(content, tmp_path / "last.ckpt")
    refused(tmp_path / "last.ckpt", match)
    weights = {
        k.removeprefix("model."): v for k, v in content["state_dict"].items() if k.startswith("model.")
    }
    linf.save(tiny(), tmp_path / "model.safetensors")
    with safetensors.safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        metadata = file.metadata()
    safetensors.torch.save_file(weights, tmp_path / "model.safetensors", metadata=metadata)
    refused(tmp_path / "model.safetensors", match)


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (without("coef.bias"), "coef.bias"),
        (without("encoder.body.1.body.2.weight"), "encoder.body.1.body.2.weight"),
        (without("imnet.linears.1.bias"), "3 linear maps"),
        (without("imnet.last._weight"), "3 linear maps"),
        (with_tensor("imnet.linears.2._weight", 3, 3), "linears.2._weight|3 linear maps"),
        (with_tensor("coeff.bias", 6), "unknown tensor 'coeff.bias'"),
        (with_tensor("encoder.tail.0.weight", 6), "1 unknown .encoder.tail.0.weight."),
        (
            with_tensor("encoder.sub_mean.running_mean", 3),
            "1 unknown .encoder.sub_mean.running_mean.",
        ),
        (with_tensor("encoder.head.1.weight", 6), "1 unknown .encoder.head.1.weight."),
        (
            with_tensor("coef.weight", 6, 4, 3, 3),
            "1 of another shape .conditioner.coef.weight.",
        ),
        (with_tensor("layers.0.weight", 6, 24, 3, 3), "of another shape .*conditioner.mlp.0.weight"),
    ],
)
def test_published_tensors_that_do_not_fit_are_named(
    tmp_path: Path, spoil: Callable[[Content], None], match: str | None
) -> None:
    content = published(tiny())
    spoil(content["model"]["sd"])
    torch.save(content, tmp_path / "published.pth")
    refused(tmp_path / "published.pth", match)


# What is not a model


def test_missing_file_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "nothing.ckpt", "no checkpoint at")
    refused(tmp_path, "no checkpoint at")
    (tmp_path / "checkpoints").mkdir()
    # From what a killed run leaves to what a finished one is best taken from.
    for name in ("checkpoints/last.ckpt", "checkpoints/best.ckpt", "model.safetensors"):
        (tmp_path / name).touch()
        refused(tmp_path, f"no checkpoint at {tmp_path}: give {tmp_path / name}")


KINDS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda whole: b"",
    "zeros": lambda whole: bytes(5000),
    "text": lambda whole: b"a photograph, said in words\nand more of them\n",
    "other text": lambda whole: b"Lorem ipsum\n",
    "text that is pickle": lambda whole: b"hi\n",
    "png": lambda whole: b"\x89PNG\r\n\x1a\n" + bytes(range(256)),
    "pickle": lambda whole: pickle.dumps([1, 2, 3]),
    "number": lambda whole: b"G\x00",
    "vast header": lambda whole: struct.pack("<Q", 2**62) + b"{}",
    "cut at 90": lambda whole: whole[:90],
    "cut in the middle": lambda whole: whole[: len(whole) // 2],
    "cut at the end": lambda whole: whole[:-10],
    "grown": lambda whole: whole[:5000] + bytes(7) + whole[5000:],
}


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
@pytest.mark.parametrize("kind", KINDS)
def test_file_of_another_kind_is_refused(tmp_path: Path, kind: str, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    linf.save(tiny(), path) if suffix == ".safetensors" else torch.save(lightning(tiny()), path)
    path.write_bytes(KINDS[kind](path.read_bytes()))
    refused(path, "(damaged or of another kind|neither a checkpoint|no file's code)")


def described(**changes: object) -> Content:
    return {"linf": {**tiny().config, **changes}, "state_dict": {}}


NO_MODELS = {
    "none": None,
    "number": 3,
    "list": [torch.zeros(2)],
    "tensor": torch.zeros(2),
    "nothing": {},
    "weights alone": {"state_dict": lightning(tiny())["state_dict"]},
    "published none": {"model": None},
    "published nothing": {"model": {}},
    "published arguments": {"model": {"name": "linf", "args": {}, "sd": {}}},
    "config none": {"linf": None, "state_dict": {}},
    "no weights": {"linf": tiny().config},
    "weights none": {"linf": tiny().config, "state_dict": None},
    "weights empty": described(),
    "weights numbered": {"linf": tiny().config, "state_dict": {3: torch.zeros(2)}},
    "weights that are numbers": {
        "linf": tiny().config,
        "state_dict": {f"model.{name}": 0 for name in tiny().state_dict()},
    },
    "encoder of other arguments": described(encoder={"name": "EDSR", "depth": 3}),
    "flow none": described(flow=None),
    "steps in words": described(flow={"name": "ConditionalFlow", "steps": "two"}),
    "even patch": described(flow={"name": "ConditionalFlow", "patch_size": 2}),
    "odd width": described(conditioner={"name": "FourierConditioner", "width": 3}),
}


@pytest.mark.parametrize("content", NO_MODELS.values(), ids=NO_MODELS.keys())
def test_tensors_that_are_no_model_are_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "last.ckpt")
    refused(tmp_path / "last.ckpt")


def change(*keys: str, to: object) -> Callable[[Content], None]:
    def changed(content: Content) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = to

    return changed


OTHER_MAKES = {
    "vdsr": change("name", to="vdsr"),
    "swinir": change("args", "encoder_spec", "name", to="swinir"),
    "no encoder arguments": change("args", "encoder_spec", "args", to=None),
    "many features": change("args", "encoder_spec", "args", "n_feats", to="many"),
    "no steps": change("args", "flow_layers", to=None),
    "negative steps": change("args", "flow_layers", to=-1),
    "no weights": change("sd", to=None),
    "no bias": change("sd", "coef.bias", to=None),
    "a number for a matrix": change("sd", "layers.0.weight", to=3),
    "other dimension": change("sd", "imnet.last.bias", to=torch.zeros(4)),
    "no last bias": change("sd", "imnet.last.bias", to=None),
}


@pytest.mark.parametrize("make", OTHER_MAKES)
def test_other_published_models_are_refused(tmp_path: Path, make: str) -> None:
    content = published(tiny())
    OTHER_MAKES[make](content["model"])
    torch.save(content, tmp_path / "published.pth")
    refused(tmp_path / "published.pth", make if make in ("vdsr", "swinir") else None)


def test_unknown_encoder_is_named(tmp_path: Path) -> None:
    content = lightning(tiny())
    content["linf"]["encoder"]["name"] = "VGG"
    torch.save(content, tmp_path / "last.ckpt")
    refused(tmp_path / "last.ckpt", "VGG' is not one of .*name the module that has it, LINF_MODULES=")


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda config: config.update(gain={"name": "Gain"}), "its config has gain, which this version"),
        (lambda config: config.update(model={"name": "LTE"}), "its config has flow, which this version"),
        (lambda config: config["encoder"].update(gain=2), "does not fit this version of linf .*'gain'"),
        (lambda config: config["flow"].update(steps="2"), "does not fit this version of linf "),
    ],
)
def test_a_config_of_another_version_is_refused(
    tmp_path: Path, spoil: Callable[[Content], None], match: str
) -> None:
    content = lightning(tiny())
    spoil(content["linf"])
    torch.save(content, tmp_path / "last.ckpt")
    refused(tmp_path / "last.ckpt", match)


def test_a_path_may_begin_with_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    linf.save(tiny(), "~/model.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]
    assert same(linf.load("~/model.safetensors"), tiny())


def test_an_encoder_is_found_in_the_modules_that_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = lightning(tiny())
    content["linf"]["encoder"]["name"] = "NamedEDSR"
    torch.save(content, tmp_path / "last.ckpt")
    (tmp_path / "named_edsr.py").write_text(
        "from linf.models.encoders import EDSR\n\nclass NamedEDSR(EDSR):\n    pass\n"
    )
    (tmp_path / "half_written.py").write_text("class NamedEDSR(EDSR):\n    pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", sys.path[:])
    for names, reason in (("half_written", "NameError: .*EDSR"), ("missing_one", "No module named")):
        monkeypatch.setenv("LINF_MODULES", names)
        refused(tmp_path / "last.ckpt", f"LINF_MODULES names {names}, which cannot be imported .*{reason}")
    monkeypatch.setenv("LINF_MODULES", "json, named_edsr")
    assert type(linf.load(tmp_path / "last.ckpt").encoder).__name__ == "NamedEDSR"


@pytest.mark.parametrize(
    ("metadata", "match"),
    [
        (None, "no LINF config"),
        ({"format": "pt"}, "no LINF config"),
        ({"linf": "{'encoder': 3}"}, None),
        ({"linf": "[]"}, None),
        ({"linf": "3"}, None),
        ({"linf": "{}"}, "encoder"),
        ({"linf": '{"encoder": {"name": "VGG"}, "conditioner": {}, "flow": {}}'}, "VGG"),
    ],
)
def test_foreign_safetensors_are_refused(tmp_path: Path, metadata: dict | None, match: str | None) -> None:
    safetensors.torch.save_file({"a": torch.zeros(2)}, tmp_path / "model.safetensors", metadata=metadata)
    refused(tmp_path / "model.safetensors", match)


@pytest.mark.parametrize("kind", ["lightning", "published", "legacy", "safetensors"])
def test_damaged_file_is_a_model_or_refused(tmp_path: Path, kind: str) -> None:
    """Bytes changed and ends cut off, at random: whatever comes of it, it is not a traceback."""
    path = tmp_path / ("model.safetensors" if kind == "safetensors" else "model.pth")
    if kind == "safetensors":
        linf.save(tiny(), path)
    else:
        content = lightning(tiny()) if kind == "lightning" else published(tiny())
        torch.save(content, path, _use_new_zipfile_serialization=kind != "legacy")
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = []
    for i in range(100):
        damaged = np.frombuffer(whole, np.uint8).copy()
        # Where damage can tell: in headers and pickles, not among the numbers.
        damaged[rng.integers(0, 5000, 3)] = rng.integers(0, 256, 3)
        path.write_bytes(damaged[: rng.integers(len(whole)) if i % 5 == 0 else None].tobytes())
        try:
            linf.load(path)
        except UsageError as error:
            refused.append(str(error))
    assert len(refused) > 20
    assert all(str(path) in text and "\n" not in text for text in refused)


# No file's code is ever run


@pytest.mark.parametrize("suffix", [".ckpt", ".pth", ".safetensors"])
@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_not_run(tmp_path: Path, suffix: str, zipped: bool) -> None:
    marker, path = tmp_path / "marker", tmp_path / f"model{suffix}"
    for content in (Malicious(marker), {**lightning(tiny()), "callbacks": Malicious(marker)}):
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        refused(path)
        assert not marker.exists()
    torch.load(path.replace(tmp_path / "run"), weights_only=False)
    assert marker.exists()


def test_code_in_a_bare_pickle_is_not_run(tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / "model.ckpt"
    path.write_bytes(pickle.dumps(Malicious(marker)))
    refused(path)
    assert not marker.exists()
    pickle.loads(path.read_bytes())
    assert marker.exists()
