"""Sections `resume`, `ranks` and `shortage`: the commands, killed, dealt to ranks and starved."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import pytorch_lightning as pl
import torch
from PIL import Image

import linf
from benchmarks.gpu.commands import Command, wait_until
from benchmarks.gpu.fitting import InMemory, Watch, fit
from benchmarks.gpu.work import ROOT, Run, batch

DETERMINISTIC = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
QUIET = ("experiment=smoke", "callbacks.progress.refresh_rate=0", "callbacks.panels.every_n_validations=1000")


def resume(run: Run) -> None:
    """Runs that are killed twice and then stopped by SIGTERM, against runs that are left alone, all at once."""
    deterministic = ("+trainer.deterministic=true",)
    kinds: dict[str, tuple[str, ...]] = {
        "EDSR": ("encoder=edsr_tiny", *deterministic),
        "SwinIR": ("encoder=swinir_tiny", *deterministic),
    }
    kinds["EDSR, not deterministic"] = ("encoder=edsr_tiny",)
    if run.tiny:
        kinds = {"EDSR": kinds["EDSR"]}
    length = [f"data.batches_per_epoch={10 if run.tiny else 40}", "trainer.max_epochs=20"]
    length += ["trainer.check_val_every_n_epoch=10", "data.val_limit=1", "callbacks.last.minutes=0.004"]
    folder = {name: run.folder / f"{number}" for number, name in enumerate(kinds)}
    env = DETERMINISTIC | {"LINF_CACHE": str(run.folder / "cache")}

    def start(name: str, place: str) -> Command:
        given = [*QUIET, *length, *run.plain, *kinds[name], f"hydra.run.dir={folder[name]}-{place}"]
        return Command("train", *given, folder=run.folder, env=env)

    whole = {name: start(name, "whole") for name in kinds}
    ends, intact = [], True
    # SIGTERM last, so that what it saves is what the run ends from.
    for signum in (
        (signal.SIGKILL, signal.SIGTERM) if run.tiny else (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM)
    ):
        cut = {name: start(name, "cut") for name in kinds}
        for name, command in cut.items():
            last = Path(f"{folder[name]}-cut") / "checkpoints" / "last.ckpt"
            before = last.stat().st_mtime_ns if last.exists() else 0
            wait_until(partial(_newer, last, before), command)
            command.kill(signum)
            began = time.monotonic()
            command.wait(-signum if signum == signal.SIGKILL else 128 + signum)
            if signum == signal.SIGTERM:
                ends.append(time.monotonic() - began)
                intact &= torch.load(last, weights_only=True)["global_step"] > 0
    cut = {name: start(name, "cut") for name in kinds}
    for command in (*whole.values(), *cut.values()):
        command.wait()
    for name in kinds:
        places = [Path(f"{folder[name]}-{place}") for place in ("whole", "cut")]
        if "not" in name:
            one, other = (_losses(place)[-1] for place in places)
            run.tell(
                f"loss off that of the whole run, {name}",
                abs(other / one - 1),
                detail=f"{other:.5f} / {one:.5f}",
            )
        else:
            run.tell(f"weights off those of the whole run, {name}", _weights_off(*places))
    if run.tiny:
        for name in (
            "weights off those of the whole run, SwinIR",
            "loss off that of the whole run, EDSR, not deterministic",
        ):
            run.tell(name, 0, detail="left out of a rehearsal")
    run.tell("from SIGTERM to the end", max(ends))
    run.tell("checkpoints that are whole after it", int(intact))


def _newer(path: Path, before: int) -> bool:
    return path.exists() and path.stat().st_mtime_ns > before


def _weights_off(*folders: Path) -> float:
    one, other = (linf.load(folder / "model.safetensors").state_dict() for folder in folders)
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


def _losses(folder: Path) -> list[float]:
    rows = [pd.read_csv(file) for file in sorted(folder.glob("csv/version_*/metrics.csv"))]
    return pd.concat(rows)["train/loss"].dropna().tolist()


def ranks(run: Run) -> None:
    """One rank under DDP against none; two ranks on one GPU against one of twice the batch; and a rank killed."""
    steps = ("trainer.max_steps=20", "trainer.max_epochs=-1", "data.batches_per_epoch=20", "data.val_limit=1")
    bare = (*QUIET, *steps, "+trainer.limit_val_batches=0")
    two_nodes = (*run.ddp, "trainer.num_nodes=2", _gloo())

    def start(place: str, *given: str, env: dict[str, str] | None = None) -> Command:
        arguments = [*given, f"hydra.run.dir={run.folder / place}"]
        return Command("train", *arguments, folder=run.folder, env=DETERMINISTIC | (env or {}))

    def pair(place: str, *given: str) -> list[Command]:
        port = _free_port()
        return [start(place, *given, *two_nodes, env=_as_node(rank, port)) for rank in range(2)]

    exact = (*QUIET, *steps, "+trainer.deterministic=true")
    commands = [
        start("none", *exact, *run.plain),
        start("one", *exact, *run.ddp),
    ]
    commands += pair("two", *bare, "data.batch_size=2")
    commands += [start("twice", *bare, *run.plain, "data.batch_size=4")]
    for command in commands:
        command.wait()
    run.tell(
        "weights of one rank off those without DDP", _weights_off(run.folder / "none", run.folder / "one")
    )
    two, twice = (_losses(run.folder / name) for name in ("two", "twice"))
    assert len(two) == len(twice) == 20
    off = max(abs(a - b) for a, b in zip(two, twice, strict=True))
    run.tell("loss of two ranks off one of twice the batch", off, detail="20 steps")
    survivor, victim = pair("killed", *bare, "data.batch_size=2", "trainer.max_steps=100000")
    logged = run.folder / "killed" / "csv" / "version_0" / "metrics.csv"
    wait_until(logged.exists, survivor)
    victim.kill()
    began = time.monotonic()
    words = survivor.wait(None, 100)
    assert survivor.status, "the other rank went on to the end"
    last = words.strip().splitlines()[-1][:120] if words.strip() else ""
    run.tell(
        "from the kill of a rank to the end of the other",
        time.monotonic() - began,
        detail=last.replace("|", "/"),
    )
    run.tell("collectives a step beyond the gradients'", *_collectives(run))


def _gloo() -> str:
    """Two ranks on one GPU: NCCL refuses them."""
    return "trainer.strategy={_target_:pytorch_lightning.strategies.DDPStrategy,process_group_backend:gloo}"


def _as_node(rank: int, port: int) -> dict[str, str]:
    """What an agent of torchrun tells the one process of its node."""
    return {
        "TORCHELASTIC_RUN_ID": "benchmark",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": "0",
        "GROUP_RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "1",
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Collectives(pl.Callback):
    """Counts the calls to torch.distributed in steps 5 to 14 of a fit."""

    NAMES = (
        "all_reduce",
        "barrier",
        "broadcast",
        "reduce",
        "all_gather",
        "all_gather_object",
        "broadcast_object_list",
    )

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.counting = False

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, data: Any, batch_idx: int) -> None:
        self.counting = 5 <= batch_idx < 15

    def counted(self, name: str) -> Callable[..., Any]:
        """The function of this name, counted."""
        function = getattr(torch.distributed, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls[name] += self.counting
            return function(*args, **kwargs)

        return call


def _collectives(run: Run) -> tuple[float, str, str]:
    """Calls a step, in a fit under DDP with the callbacks of conf, on steps that do not log."""
    environment = _as_node(0, _free_port()) | {"WORLD_SIZE": "1"}
    count, watch = Collectives(), Watch(0, 16, 0, run.folder)
    patches = [mock.patch(f"torch.distributed.{name}", count.counted(name)) for name in Collectives.NAMES]
    data = batch(run.device, 1, 2, 12, 8)
    given = ["encoder=edsr_tiny", *run.ddp]
    with mock.patch.dict(os.environ, environment):
        for patch in patches:
            patch.start()
        fit(run, *given, data=InMemory(data, watch.steps), watch=watch, more=(count,))
        for patch in patches:
            patch.stop()
    found = ", ".join(name for name, n in count.calls.items() if n)
    return sum(count.calls.values()) / 10, "", found or "one rank, steps that do not log"


def shortage(run: Run) -> None:
    """What is said where memory is too small; and two jobs of a sweep at a time on one card."""
    device = "trainer=cpu" if run.tiny else "trainer=gpu"  # Not named: each job takes a free one, or waits.
    sweep = ["-m", *QUIET, device, "speed=none", "seed=0,1", "launcher=joblib", "hydra.launcher.n_jobs=2"]
    sweep += ["trainer.max_epochs=1", f"hydra.sweep.dir={run.folder / 'sweep'}"]
    # Not as a fork: joblib's workers end with an interpreter of their own.
    started = [sys.executable, str(ROOT / "train.py"), *sweep]
    jobs = subprocess.Popen(
        started, cwd=run.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    large = ["model=linf_patch", "task.whitening_batches=0", "callbacks.progress.refresh_rate=0"]
    size = ["encoder=rrdb", "data.num_workers=4", "data.batch_size=512"]
    if run.tiny:
        size = [
            "encoder=rrdb_tiny",
            "data.num_workers=0",
            "data.batch_size=2",
            "data.crop=12",
            "data.queries=64",
        ]
    given = [*large, *size, *run.plain, f"hydra.run.dir={run.folder / 'large'}"]
    training = Command("train", *given, folder=run.folder, before=_no_memory if run.tiny else None)
    _tell_lines(run, "lines about a batch too large", training, 2)
    photo = run.folder / "photo.png"
    Image.new("RGB", (1000, 1000)).save(photo)
    upscale = Command("linf", "upscale", str(photo), "--scale", "900", "--format", "tiff", folder=run.folder)
    _tell_lines(run, "lines about an image too large", upscale, 1)
    words, _ = jobs.communicate(timeout=120)
    finished = sum('"finished"' in path.read_text() for path in (run.folder / "sweep").glob("*/job.json"))
    last = words.strip().splitlines()[-1] if words.strip() else ""
    run.tell(
        "jobs of a sweep that finish, two at a time", finished, detail="" if finished == 2 else last[:100]
    )


def _tell_lines(run: Run, what: str, command: Command, status: int) -> None:
    """How many lines a command ends with, where one is right: a traceback has many, and so has another status."""
    words = command.wait(None)
    lines = words.strip().splitlines() or [""]
    begin = next((i for i, line in enumerate(lines) if line.startswith("Traceback")), len(lines) - 1)
    count = len(lines) - begin if command.status == status else float("inf")
    run.tell(what, count, detail=f"status {command.status}: {lines[-1][:160]}".replace("|", "/"))


def _no_memory() -> None:
    """What a rehearsal has in place of a GPU that is too small."""

    def refuse(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    mock.patch("torch.nn.Conv2d._conv_forward", refuse).start()
