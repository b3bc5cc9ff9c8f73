"""First weights: an encoder takes those of another model, tensor for tensor, or an error says why not."""

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from torch import nn

import linf
from helpers.commands import Command, Compose, assert_in_words
from helpers.runs import TINY
from linf.checkpoints.pretrained import KNOWN
from linf.checkpoints.published import to_published
from linf.checkpoints.start import start_encoder_from, start_from
from linf.errors import UsageError
from linf.models.baselines import LIIF, LIIFConditioner
from linf.models.conditioner import FourierConditioner
from linf.models.encoders import EDSR, RDN, Encoder, RRDBNet, SwinIR
from linf.models.flow import ConditionalFlow
from linf.models.linf import LINF


def same(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.fixture(params=["safetensors", "published", "lightning"])
def file(request: pytest.FixtureRequest, tmp_path: Path, checkpoint: Path) -> Path:
    """A model with an EDSR of one block and four channels, in each format."""
    model = linf.load(checkpoint)
    if request.param == "safetensors":
        return checkpoint
    if request.param == "published":
        torch.save(to_published(model), tmp_path / "model.pth")
        return tmp_path / "model.pth"
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    torch.save({"linf": model.config, "state_dict": state}, tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


def test_encoder_starts_from_another_models_encoder(file: Path, checkpoint: Path) -> None:
    model = linf.load(checkpoint)
    encoder = EDSR(1, 4)
    assert not same(encoder, model.encoder)
    start_encoder_from(file, encoder)
    assert same(encoder, model.encoder)
    assert all(p.requires_grad and p.is_leaf for p in encoder.parameters())


@pytest.mark.parametrize(("blocks", "channels"), [(2, 4), (1, 5)])
def test_another_encoder_is_refused(file: Path, blocks: int, channels: int) -> None:
    with pytest.raises(UsageError, match=r"another encoder than EDSR .*: (body|head)\..* there and .* here"):
        start_encoder_from(str(file), EDSR(blocks, channels))


@pytest.mark.parametrize(
    "make",
    [partial(RDN, 16, 8, 64, 4), partial(RRDBNet, 1, 4, 2), partial(SwinIR, 12, (2,), (2,))],
    ids=["rdn", "rrdb", "swinir"],
)
def test_every_encoder_starts_from_a_published_file(tmp_path: Path, make: Callable[..., Encoder]) -> None:
    flow = ConditionalFlow(1, 2)
    model = LINF(make(), partial(FourierConditioner, width=8, depth=1), flow)
    torch.save(to_published(model), tmp_path / "published.pth")
    encoder = make()
    start_encoder_from(tmp_path / "published.pth", encoder)
    assert same(encoder, model.encoder)


def test_mean_shifts_are_dropped_and_nothing_else(tmp_path: Path, checkpoint: Path) -> None:
    content = to_published(linf.load(checkpoint))
    state = content["model"]["sd"]
    assert "encoder.sub_mean.weight" in state
    torch.save(content, tmp_path / "whole.pth")
    start_encoder_from(tmp_path / "whole.pth", EDSR(1, 4))
    state["encoder.extra.weight"] = torch.zeros(3)
    torch.save(content, tmp_path / "more.pth")
    with pytest.raises(UsageError, match=r"1 unknown .encoder.extra.weight"):
        start_encoder_from(tmp_path / "more.pth", EDSR(1, 4))
    del state["encoder.extra.weight"], state["encoder.head.0.bias"]
    torch.save(content, tmp_path / "less.pth")
    with pytest.raises(UsageError, match=r"1 missing .encoder.head.0.bias"):
        start_encoder_from(tmp_path / "less.pth", EDSR(1, 4))


@pytest.mark.parametrize("name", ["text.pth", "text.safetensors", "tensor.pth", "none.pth", "list.ckpt"])
def test_file_of_another_kind_is_refused(tmp_path: Path, name: str) -> None:
    contents: dict[str, object] = {
        "tensor.pth": torch.zeros(3),
        "none.pth": {"state_dict": {"a": torch.zeros(3)}},
        "list.ckpt": [3],
    }
    path = tmp_path / name
    path.write_text("text") if "text" in name else torch.save(contents[name], path)
    with pytest.raises(UsageError, match=name):
        start_encoder_from(path, EDSR(1, 4))


def test_weights_not_fetched_are_named_with_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LINF_CACHE", str(tmp_path))
    for name in ("alexnet", "edsr_baseline_liif"):
        with pytest.raises(UsageError, match=f"linf weights fetch {name}"):
            start_encoder_from(name, EDSR())


def test_the_published_liif_starts_an_encoder(
    composed: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = LIIF(EDSR(), LIIFConditioner)
    monkeypatch.setenv("LINF_CACHE", str(tmp_path))
    (tmp_path / "weights").mkdir()
    file = tmp_path / "weights" / "edsr_baseline_liif.pth"
    torch.save(to_published(model), file)
    known = KNOWN["edsr_baseline_liif"]._replace(digest=hashlib.sha256(file.read_bytes()).hexdigest())
    monkeypatch.setitem(KNOWN, "edsr_baseline_liif", known)
    encoder = instantiate(composed("train").encoder)
    start_encoder_from("edsr_baseline_liif", encoder)
    assert same(encoder, model.encoder)


@pytest.mark.slow
def test_training_starts_its_encoder_from_a_checkpoint(
    command: Command, checkpoint: Path, tmp_path: Path
) -> None:
    """With a learning rate of 0, the trained encoder is the one that it started from."""
    still = ("task.optimizer.lr=0", "task.scheduler=null", "encoder.blocks=1", "encoder.channels=4")
    done = command("train", *TINY, *still, f"encoder_from={checkpoint}", f"hydra.run.dir={tmp_path / 'run'}")
    assert done.status == 0, done.err
    first = tmp_path / "run" / "model.safetensors"
    trained, other = linf.load(first), linf.load(checkpoint)
    assert same(trained.encoder, other.encoder)
    # With init_from, too, all but the encoder is from there.
    torch.nn.init.normal_(other.encoder.head[0].weight)
    linf.save(other, tmp_path / "other.safetensors")
    both = (f"init_from={first}", f"encoder_from={tmp_path / 'other.safetensors'}")
    done = command("train", *TINY, *still, *both, f"hydra.run.dir={tmp_path / 'second'}")
    assert done.status == 0, done.err
    assert f"from the weights of {first}, with the encoder of" in done.out
    second = linf.load(tmp_path / "second" / "model.safetensors")
    assert same(second.encoder, other.encoder)
    assert same(second.conditioner, trained.conditioner)


def test_missing_encoder_file_is_one_line(command: Command) -> None:
    done = command("train", "experiment=smoke", "encoder_from=gone.pth")
    assert_in_words(
        done.status, done.out, done.err, "encoder_from=gone.pth", "edsr_baseline_liif, photo, default"
    )
    assert "niqe" not in done.err, "it holds no encoder"


def test_a_model_of_another_class_is_called_so(tmp_path: Path) -> None:
    """Not by settings of which the other has none."""
    linf.save(LIIF(EDSR(1, 4), partial(LIIFConditioner, width=8, depth=1)), tmp_path / "liif.safetensors")
    model = LINF(EDSR(1, 4), partial(FourierConditioner, width=8, depth=1), ConditionalFlow(1, 2))
    with pytest.raises(UsageError, match="it is a model of LIIF there and of LINF here; give") as raised:
        start_from(tmp_path / "liif.safetensors", model)
    assert "None" not in str(raised.value)
