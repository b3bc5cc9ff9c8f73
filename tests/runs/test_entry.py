"""What a user gets wrong comes back from train.py and eval.py as one line of words, and with a status that says so."""

import pickle
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.errors import InstantiationException
from PIL import Image

from helpers.commands import Command, assert_in_words
from helpers.paths import ROOT
from helpers.pickles import Malicious
from helpers.runs import TINY
from linf.errors import UsageError
from linf.evaluation.measure import Unit, measure
from linf.models.decoding import free_memory
from linf.runs.record import read_record


@pytest.fixture
def here(tmp_path: Path, checkpoint: Path, photos: Path) -> Path:
    """A user's folder: a model, photographs, and what is wrong."""
    (tmp_path / "model.safetensors").symlink_to(checkpoint)
    (tmp_path / "photos").symlink_to(photos)
    (tmp_path / "empty").mkdir()
    for name in ("truncated", "dot", "large"):
        (tmp_path / name).mkdir()
    Image.effect_noise((64, 64), 50).convert("RGB").save(tmp_path / "truncated" / "whole.jpg")
    content = (tmp_path / "truncated" / "whole.jpg").read_bytes()
    (tmp_path / "truncated" / "whole.jpg").unlink()
    (tmp_path / "truncated" / "half.jpg").write_bytes(content[: len(content) // 2])
    Image.new("RGB", (1, 1)).save(tmp_path / "dot" / "dot.png")
    (tmp_path / "text.ckpt").write_text("These are not the weights you are looking for.\n")
    (tmp_path / "text.safetensors").write_text("Nor are these.\n")
    torch.save({"weights": torch.zeros(3)}, tmp_path / "foreign.pth")
    (tmp_path / "half.ckpt").write_bytes((tmp_path / "foreign.pth").read_bytes()[:-200])
    (tmp_path / "half.safetensors").write_bytes(checkpoint.read_bytes()[:-200])
    return tmp_path


EVAL = ("ckpt_path=model.safetensors", "data=folder", "data.root=photos")

MISTAKES: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "misspelt setting": (
        "train",
        ("task.optimzer.lr=1",),
        ("'task.optimzer.lr'", "did you mean 'task.optimizer.lr'?"),
    ),
    "unlike any setting": ("train", ("zzzz=1",), ("there is no setting 'zzzz'", "train.yaml")),
    "misspelt choice": ("train", ("encoder=edsrr",), ("encoder/edsrr", "edsr_baseline")),
    "misspelt group": ("train", ("encodr=edsr",), ("encodr",)),
    "unbalanced bracket": ("train", ("data.val_scales=[2,3",), ("data.val_scales=[2,3",)),
    "no value": ("train", ("seed",), ("seed",)),
    "misspelt setting of eval": ("eval", (*EVAL, "temperature=[0]"), ("did you mean 'temperatures'?",)),
    "setting of eval by another name": ("eval", (*EVAL, "scale=4"), ("did you mean 'data.test_scales'?",)),
    "no checkpoint given": ("eval", (), ("not given: ckpt_path",)),
    "no data.root given": ("eval", (EVAL[0], "data=folder"), ("not given: data.root",)),
    "no such checkpoint": ("eval", ("ckpt_path=gone.ckpt",), ("no checkpoint at gone.ckpt",)),
    "checkpoint is a folder": ("eval", ("ckpt_path=photos",), ("no checkpoint at photos",)),
    "checkpoint is text": ("eval", ("ckpt_path=text.ckpt",), ("text.ckpt is not a checkpoint",)),
    "safetensors is text": (
        "eval",
        ("ckpt_path=text.safetensors",),
        ("text.safetensors is not a checkpoint",),
    ),
    "somebody else's checkpoint": (
        "eval",
        ("ckpt_path=foreign.pth",),
        ("foreign.pth", "neither a checkpoint of this project nor a published one"),
    ),
    "no such folder": ("eval", (*EVAL, "data.root=gone"), ("no folder gone", "data.root")),
    "empty folder": ("eval", (*EVAL, "data.root=empty"), ("no image in empty", ".png")),
    "truncated image": (
        "eval",
        (*EVAL, "data.root=truncated"),
        ("half.jpg", "cannot be read", "truncated"),
    ),
    "image too small": ("eval", (*EVAL, "data.root=dot", "data.test_scales=[2]"), ("dot.png", "scale 2")),
    "no benchmark there": (
        "eval",
        (EVAL[0], "data=benchmark", "data.root=photos"),
        ("benchmark Set5", "no images"),
    ),
    "no DIV2K there": ("train", ("data=div2k", "data.root=photos"), ("DIV2K_train_HR",)),
    **{
        f"scale {scale}": ("eval", (*EVAL, f"data.test_scales=[{scale}]"), ("scale",))
        for scale in ("0", "-1", "nan", "inf", "1e9", "two", "0.5")
    },
    "no scale": ("eval", (*EVAL, "data.test_scales=[]"), ("scales are []",)),
    "negative temperature": ("eval", (*EVAL, "temperatures=[-1]"), ("temperature", "-1")),
    "no temperature": ("eval", (*EVAL, "temperatures=[]"), ("temperature",)),
    "temperature in words": ("eval", (*EVAL, "temperatures=[hot]"), ("temperature", "hot")),
    "resume from weights": ("train", ("ckpt_path=model.safetensors",), ("no training state", ".ckpt")),
    "resume from nothing": ("train", ("ckpt_path=gone.ckpt",), ("no checkpoint at gone.ckpt",)),
    "scales without brackets": ("eval", (*EVAL, "data.test_scales=2"), ("'data.test_scales=[2]'",)),
    "temperatures without brackets": ("eval", (*EVAL, "temperatures=0.8"), ("'temperatures=[0.8]'",)),
    "benchmark without brackets": (
        "eval",
        (EVAL[0], "data=benchmark", "data.root=photos", "data.test.names=Set5"),
        ("'data.test.names=[Set5]'",),
    ),
    "truncated checkpoint": ("eval", ("ckpt_path=half.ckpt",), ("half.ckpt is not a checkpoint",)),
    "truncated safetensors": (
        "eval",
        ("ckpt_path=half.safetensors",),
        ("half.safetensors is not a checkpoint",),
    ),
    "negative seed": ("train", ("experiment=smoke", "seed=-1"), ("seed", "-1")),
    "decay beyond 1": ("train", ("experiment=smoke", "callbacks.ema.decay=1.5"), ("decay", "1.5")),
    "no such device": ("train", ("trainer.accelerator=abacus",), ("abacus",)),
    "even patches": ("train", ("model.flow.patch_size=2",), ("patch size 2", "odd")),
    **{
        f"patches of another size than {model}'s": (
            "train",
            ("experiment=smoke", f"model={model}", f"task={task}", f"data.patch_size={size}"),
            (f"data.patch_size is {size}, and the model is for patches of {side}",),
        )
        for model, task, size, side in (("linf_patch", "nll", 1, "3×3"), ("liif", "regression", 3, "1×1"))
    },
    "odd width": ("train", ("model.conditioner.width=7",), ("width 7",)),
    "no batch": ("train", ("data.batch_size=0",), ("batch_size is 0",)),
    "training scale below 1": ("train", ("experiment=smoke", "data.scale=[0.5,4]"), ("scale",)),
    "no loss": ("train", ("task.loss.nll=0",), ("loss weights",)),
    "training images too small": (
        "train",
        ("experiment=smoke", "data=folder", "data.root=dot"),
        ("none of 1 images", "24"),
    ),
    "no likelihood": (
        "train",
        ("model=liif", "data.batch_size=1", "data.crop=12", "data.queries=16", "data.num_workers=0"),
        ("LIIF has no likelihood", "task=regression"),
    ),
    "no training images": ("train", ("experiment=smoke", "data.train=null"), ("data.train",)),
    "words for a number": ("train", ("trainer.max_epochs=abc",), ("max_epochs", "abc")),
    "words for a rate": ("train", ("experiment=smoke", "task.optimizer.lr=fast"), ("lr", "fast")),
    "no such class": ("train", ("task.optimizer._target_=torch.optim.Adan",), ("torch.optim.Adan",)),
    "an argument too many": ("train", ("+model.flow.depth=3",), ("depth", "ConditionalFlow")),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(here: Path, command: Command, mistake: str) -> None:
    script, arguments, words = MISTAKES[mistake]
    done = command(script, *arguments)
    assert_in_words(done.status, done.out, done.err, *words)


@pytest.mark.parametrize(
    ("arguments", "left"),
    [
        ((), ()),
        (("hydra.run.dir=new/run",), ()),
        (("hydra.run.dir=empty/run",), ()),
        (("hydra.run.dir=empty",), ("empty/eval.log",)),
        (("-m", "seed=0,1", "hydra.sweep.dir=new", "hydra.sweep.subdir=one"), ()),
    ],
)
def test_a_command_that_is_refused_leaves_no_folder_of_its_own(
    here: Path, command: Command, arguments: tuple[str, ...], left: tuple[str, ...]
) -> None:
    before = set(here.rglob("*"))
    done = command("eval", *arguments)
    assert done.status == 2
    assert set(here.rglob("*")) == before | {here / path for path in left}


def test_an_output_that_memory_cannot_hold(here: Path, command: Command) -> None:
    Image.new("RGB", (1500, 1500)).save(here / "large" / "large.png")
    samples = int(2 * free_memory(torch.device("cpu")) / (24 * 1500**2))  # Memory may be freed meanwhile.
    done = command("eval", *EVAL, "data.root=large", "data.test_scales=[2]", f"samples={samples}")
    assert_in_words(done.status, done.out, done.err, "output size 1500×1500 needs", "GB", "fewer samples")


@pytest.mark.parametrize("script", [pytest.param("train", marks=pytest.mark.thorough), "eval"])
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_malicious_checkpoint_is_refused(here: Path, command: Command, script: str, legacy: bool) -> None:
    marker = here / "marker"
    content = {"state_dict": {}, "linf": Malicious(marker)}
    torch.save(content, here / "evil.ckpt", _use_new_zipfile_serialization=not legacy)
    (here / "evil.pkl").write_bytes(pickle.dumps(Malicious(marker)))
    pickle.loads((here / "evil.pkl").read_bytes())
    assert marker.exists(), "the malice is real"
    marker.rmdir()
    for name in ("evil.ckpt", "evil.pkl"):
        done = command(script, f"ckpt_path={name}")
        assert_in_words(done.status, done.out, done.err, f"{name} is not a checkpoint")
        assert not marker.exists()


def test_a_defect_of_ours_keeps_its_traceback(
    here: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def defect(*_: object, **__: object) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("linf.evaluation.evaluation.measure", defect)
    with pytest.raises(ZeroDivisionError, match="ours"):
        command("eval", *EVAL, "data.test_scales=[2]")


@pytest.mark.parametrize(("module", "mistake"), [("linf.models.flow", True), ("torch.nn", False)])
def test_a_value_error_of_the_torch_core_is_one_line(
    here: Path, command: Command, monkeypatch: pytest.MonkeyPatch, module: str, mistake: bool
) -> None:
    names: dict[str, object] = {"__name__": module}
    exec("def refuse(*_, **__): raise ValueError('the size is 0: give 1 or more')", names)
    monkeypatch.setattr("linf.evaluation.evaluation.measure", names["refuse"])
    if mistake:
        done = command("eval", *EVAL, "data.test_scales=[2]")
        assert_in_words(done.status, done.out, done.err, "the size is 0: give 1 or more")
    else:
        with pytest.raises(ValueError, match="the size is 0"):
            command("eval", *EVAL, "data.test_scales=[2]")


@pytest.mark.parametrize(
    ("arguments", "setting"),
    [
        (("hydra.run.dir=my run",), "hydra.run.dir=my run"),
        (("-m", "hydra.sweep.dir=my sweep", "seed=0,1"), "hydra.sweep.dir=my sweep"),
    ],
)
def test_an_interrupt_before_the_first_step_is_one_line(
    here: Path, command: Command, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], setting: str
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("linf.machine.keep_freed_memory", interrupted)
    done = command("train", *arguments)
    assert done.status == 130
    line = done.err.splitlines()[-1]
    assert line.startswith("stopped by SIGINT; the same command with ")
    assert line.endswith(" goes on from there")
    key, _, folder = setting.partition("=")
    assert {setting, f"{key}={here / folder}"} & set(shlex.split(line)), "as a shell reads it"


def test_full_errors_on_request(here: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(InstantiationException, match="no checkpoint"):
        command("eval", "ckpt_path=gone.ckpt")


def test_nothing_else_is_said(here: Path, command: Command) -> None:
    assert "Error executing job" not in command("eval", "ckpt_path=gone.ckpt").err


def described(folder: Path) -> dict[str, bytes]:
    """All files of a run but its log and its lock."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name[-4:] not in (".log", "lock")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


QUICK_EVAL = (*EVAL, "data.num_workers=0", "data.test_scales=[2]", "hydra.run.dir=run")


@pytest.mark.parametrize(
    ("script", "settings", "refused", "word"),
    [
        ("eval", QUICK_EVAL, ("temperatures=[0.3]",), "other settings"),
        pytest.param(
            *("train", (*TINY, "hydra.run.dir=run"), ("model=liif", "task=regression"), "another model"),
            marks=pytest.mark.thorough,
        ),
    ],
)
def test_a_refused_command_leaves_a_finished_folder_as_it_was(
    here: Path, command: Command, script: str, settings: tuple[str, ...], refused: tuple[str, ...], word: str
) -> None:
    assert command(script, *settings).status == 0
    before = described(here / "run")
    done = command(script, *settings, *refused)
    assert_in_words(done.status, done.out, done.err, word)
    assert described(here / "run") == before


def test_a_refused_job_of_a_sweep_has_failed_with_the_former_settings_kept(
    here: Path, command: Command
) -> None:
    folder = here / "my sweep" / "run"
    assert command("eval", *QUICK_EVAL, "hydra.run.dir=my sweep/run").status == 0
    before = described(folder)
    sweep = ("hydra.sweep.dir=my sweep", "hydra.sweep.subdir=run", "temperatures=[0.3]")
    done = command("eval", "-m", *QUICK_EVAL, *sweep)
    assert done.status == 1
    assert done.err.rstrip().endswith(f"'hydra.sweep.dir={here / 'my sweep'}' runs only those")
    assert read_record(folder).state == "failed"
    after = described(folder)
    assert {name for name in before if after[name] != before[name]} == {"job.json"}


def test_a_mistake_found_after_the_first_result_is_on_record(
    here: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command("eval", *QUICK_EVAL).status == 0
    images = iter(range(1, 9))

    def second_fails(*given: Any, **more: Any) -> Unit:
        if next(images) == 2:
            raise UsageError("the second image is too much")
        return measure(*given, **more)

    monkeypatch.setattr("linf.evaluation.evaluation.measure", second_fails)
    assert command("eval", *QUICK_EVAL, "data.test_scales=[2,3]").status == 2
    record = read_record(here / "run")
    assert (record.state, record.error) == ("failed", "the second image is too much")
    assert record.settings["data"]["test_scales"] == [2, 3]


# The same from a shell


@pytest.mark.parametrize(
    ("script", "arguments", "words"),
    [
        ("train", ("task.optimzer.lr=1",), ("did you mean 'task.optimizer.lr'?",)),
        pytest.param(
            *("eval", ("ckpt_path=text.ckpt",), ("text.ckpt is not a checkpoint",)),
            marks=pytest.mark.thorough,
        ),
    ],
)
def test_a_mistake_is_one_line_in_a_shell(
    here: Path, script: str, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / f"{script}.py"), *arguments],
        cwd=here,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert_in_words(done.returncode, done.stdout, done.stderr, *words)
