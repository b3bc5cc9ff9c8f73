"""Sections `waits`, `step`, `loader` and `fp16`: what a training step costs, and what it computes."""

import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torchvision
from hydra.utils import instantiate
from torch._dynamo.utils import counters

from benchmarks.gpu.fitting import BF16, FAST, ROWS, USUAL, InMemory, Watch, compiler, fit, made, sized
from benchmarks.gpu.work import Run, batch, composed, milliseconds, peak_bytes
from linf.data.crops import SRBatch
from linf.errors import UsageError
from linf.training.callbacks.throughput import Throughput


def waits(run: Run) -> None:
    """How often CUDA itself says that the host waited for it, in each training; and how many kernels a step has."""
    vgg = random_vgg(run.folder / "vgg16.pth")
    features = ("task.loss.features.backbone=vgg16", f"task.loss.features.weights={vgg}")
    small = ("model.prior.width=8", "model.prior.depth=1") if run.tiny else ()
    tasks = {
        "nll": (),
        "mixture": ("task=mixture",),
        "finetune": ("task=finetune", "task.loss.perceptual=2.5e-2", *features),
        "prior": ("task=prior", *features, *small),
    }
    for name, overrides in tasks.items():
        watch = Watch(10, 10, 5 if name == "nll" else 0, run.folder)
        given = [*sized(run, "edsr_baseline"), "model=linf", *overrides, *USUAL]
        task, side = None, 16 if run.tiny else 48
        if name == "prior":
            side = min(side, 32)  # As published for P = 1.
            task = instantiate(composed("train", run.folder, *given).task)
            task.model.initialise([batch(torch.device("cpu"), 1, 2, 16, 16)])
        data = batch(run.device, 1, 2 if run.tiny else 16, side, side, name in ("finetune", "prior"))
        listen = Listen(watch.warm, watch.warm + watch.timed)
        fit(run, *given, data=InMemory(data, watch.steps), watch=watch, more=(listen,), task=task)
        places = ", ".join(sorted(listen.places)[:2])
        run.tell(
            f"waits a step, {name}",
            listen.heard / watch.timed,
            detail=places or f"{watch.milliseconds:.1f} ms",
        )
        if name == "nll":
            run.tell("kernels a step, EDSR-baseline P=1, eager", watch.kernels)


class Listen(pl.Callback):
    """Counts CUDA's warnings that an operation synchronises, from one step to another."""

    def __init__(self, first: int, last: int) -> None:
        self.first, self.last, self.heard = first, last, 0
        self.places: set[str] = set()
        self.stack = ExitStack()

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, data: Any, batch_idx: int) -> None:
        if batch_idx == self.first and torch.cuda.is_initialized():
            self.caught = self.stack.enter_context(warnings.catch_warnings(record=True))
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: Any, outputs: Any, data: Any, batch_idx: int
    ) -> None:
        if batch_idx == self.last - 1 and torch.cuda.is_initialized():
            torch.cuda.set_sync_debug_mode("default")
            found = [w for w in self.caught if "synchroniz" in str(w.message)]
            self.heard = len(found)
            self.places = {f"{Path(w.filename).name}:{w.lineno}" for w in found}
            self.stack.close()


def random_vgg(path: Path) -> Path:
    """VGG16's convolutions with random weights: waiting does not depend on them."""
    with torch.device("meta"):
        like = torchvision.models.vgg16().features.state_dict()
    state = {
        f"features.{name}": torch.randn(t.shape) * ((2 / t[0].numel()) ** 0.5 if t.ndim == 4 else 0.1)
        for name, t in like.items()
    }
    torch.save(state, path)
    return path


def step(run: Run) -> None:
    """The training step of each row: fp32, bf16, and as fast as it gets."""
    peak = _peak(run)
    eager: dict[str, float] = {}
    for name, row in ROWS.items():
        overrides, data = made(run, row)
        heavy = row.encoder not in ("edsr_baseline", "rrdb")
        for precision, settings in (("fp32", ()), ("bf16", BF16)):
            watch = Watch(*((2, 2, 2) if run.tiny else (10, 20, 3) if heavy else (20, 60, 5)), run.folder)
            tflops = _fit_row(run, [*overrides, *settings], data, watch)
            rate, gib = 1e3 * tflops / watch.milliseconds, peak_bytes() / 2**30
            detail = f"{1e3 * len(data.lr) / watch.milliseconds:.0f} samples/s, {rate:.0f} TFLOP/s"
            detail += f", {rate / peak:.0%} of bf16's peak, {gib:.1f} GiB"
            run.tell(f"{precision} step, {name}", watch.milliseconds, "ms", detail)
            if precision == "fp32" and row.counted is not None:
                ratio = gib / row.counted
                run.tell(
                    f"memory against what is counted, {name}", ratio, detail=f"{row.counted} GiB counted"
                )
        eager[name] = watch.milliseconds
        share = watch.busy / watch.milliseconds
        run.tell(f"GPU busy, {name}", share, "of the step", f"bf16, {watch.kernels:.0f} kernels")
    name = "EDSR-baseline P=1"
    overrides, data = made(run, ROWS[name])
    with_and_without = []
    for callbacks in (True, False):
        watch = Watch(*((2, 2, 0) if run.tiny else (20, 60, 0)), run.folder)
        _fit_row(run, [*overrides, *USUAL], data, watch, callbacks)
        with_and_without.append(watch.milliseconds)
    detail = "{:.1f} / {:.1f} ms, fused Adam".format(*with_and_without)
    run.tell(f"callbacks / none, {name}", with_and_without[0] / with_and_without[1], detail=detail)
    for name in ("EDSR-baseline P=1", "RRDB P=3"):  # What takes longest to compile comes last.
        overrides, data = made(run, ROWS[name])
        watch = Watch(*((2, 2, 2) if run.tiny else (20, 40, 5)), run.folder)
        counters.clear()
        with compiler(run):
            _fit_row(run, [*overrides, *FAST], data, watch)
        # A step that the compiler passes over is eager, and says nothing.
        assert counters["stats"]["unique_graphs"] == 1, dict(counters["stats"])
        detail = f"{watch.first_seconds:.0f} s to compile, {watch.kernels:.0f} kernels, {peak_bytes() / 2**30:.1f} GiB"
        run.tell(f"compiled step, {name}", watch.milliseconds, "ms", detail)
        run.tell(f"eager / compiled, {name}", eager[name] / watch.milliseconds, "×")
        if name == "EDSR-baseline P=1":
            _replayed(run, name, watch.milliseconds)


def _replayed(run: Run, name: str, compiled: float) -> None:
    """The same with ``callbacks.acceleration.mode=reduce-overhead``, which replays CUDA graphs."""
    overrides, data = made(run, ROWS[name])
    watch = Watch(*((2, 2, 2) if run.tiny else (20, 40, 5)), run.folder)
    mode = "default" if run.tiny else "reduce-overhead"
    with compiler(run):
        _fit_row(run, [*overrides, *FAST, f"callbacks.acceleration.mode={mode}"], data, watch)
    detail = f"{compiled / watch.milliseconds:.2f} times as fast as compiled, {peak_bytes() / 2**30:.1f} GiB"
    run.tell(f"replayed step, {name}", watch.milliseconds, "ms", detail)


def _fit_row(run: Run, overrides: list[str], data: SRBatch, watch: Watch, callbacks: bool = True) -> float:
    """Train for some steps; TFLOP of a step, if the callbacks count them."""
    _, trainer = fit(run, *overrides, data=InMemory(data, watch.steps), watch=watch, callbacks=callbacks)
    counted = (c.flops or 0 for c in trainer.callbacks if isinstance(c, Throughput))  # type: ignore[attr-defined]
    return next(iter(counted), 0) / 1e12


def _peak(run: Run) -> float:
    """TFLOP/s of a large product in bf16."""
    side = 256 if run.tiny else 8192
    a, b = (torch.randn(side, side, device=run.device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * side**3 / milliseconds(lambda: a @ b) / 1e9


def loader(run: Run) -> None:
    """Training from the bundled photographs by 1, 2 and 4 loading processes, against batches in memory."""
    for patch_size, name in ((1, "EDSR-baseline P=1"), (3, "EDSR-baseline P=3")):
        overrides, data = made(run, ROWS[name])
        tiny = ("data.batch_size=2", "data.crop=12", "data.queries=64") if run.tiny else ()
        plan = (2, 4, 0) if run.tiny else (60, 200, 0)
        watch = Watch(*plan, run.folder)
        with compiler(run):
            task, _ = fit(run, *overrides, *FAST, data=InMemory(data, watch.steps), watch=watch)
        memory = watch.milliseconds
        for workers in (1,) if run.tiny else (1, 2, 4):
            watch = Watch(*plan, run.folder)
            given = [*overrides, *FAST, f"data.num_workers={workers}", *tiny]
            # The model stays compiled.
            fit(run, *given, "callbacks.acceleration.compile=false", watch=watch, task=task)
            detail = f"{watch.milliseconds:.2f} / {memory:.2f} ms"
            label = 4 if run.tiny else workers
            plural = "s" if label > 1 else ""
            what = f"{label} worker{plural} / batches in memory, P={patch_size}"
            run.tell(what, memory / watch.milliseconds, "of the speed", detail)


class Scale(pl.Callback):
    """Counts the steps that fp16's scaler skipped."""

    def __init__(self) -> None:
        self.scales: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        self.scales.append(scaler.get_scale() if scaler is not None else 1.0)

    @property
    def skipped(self) -> int:
        return sum(
            after < before for before, after in zip([2.0**16, *self.scales], self.scales, strict=False)
        )


def fp16(run: Run) -> None:
    """``trainer.precision=16-mixed`` against bf16 on the bundled photographs; and a batch that holds a NaN."""
    steps = 4 if run.tiny else 80
    workers = "data.num_workers=0" if run.tiny else "data.num_workers=4"
    tiny = ("data.batch_size=2", "data.crop=12") if run.tiny else ()
    for name, overrides in (("nll", ()), ("finetune", ("task=finetune", "task.whitening_batches=4"))):
        losses = {}
        for precision in ("bf16-mixed", "16-mixed"):
            scale, watch = Scale(), Watch(0, steps, 0, run.folder)
            given = [
                *sized(run, "edsr_baseline"),
                *overrides,
                f"trainer.precision={precision}",
                workers,
                *tiny,
            ]
            fit(run, *given, watch=watch, more=(scale,))
            losses[precision] = float(torch.stack(watch.losses[-20:]).float().mean())
        scale_now = f"scale at the end {scale.scales[-1]:g}"
        run.tell(f"skipped steps of 80, {name}", scale.skipped - (scale.scales[0] == 1.0), detail=scale_now)
        off = abs(losses["16-mixed"] / losses["bf16-mixed"] - 1)
        run.tell(
            f"loss off bf16's, {name}", off, detail=" / ".join(f"{loss:.4f}" for loss in losses.values())
        )
    run.tell("runs that a batch with NaN stops, and that keep it", _stops_at_nan(run))


def _stops_at_nan(run: Run) -> int:
    _, data = made(run, ROWS["EDSR-baseline P=1"])
    bad = data._replace(hr=torch.full_like(data.hr, torch.nan))
    watch = Watch(0, 8, 0, run.folder)
    before = {*run.folder.rglob("nonfinite_batch.pt")}
    given = [*sized(run, "edsr_baseline"), "model=linf", *FAST, "callbacks.acceleration.compile=false"]
    try:
        fit(run, *given, data=InMemory(data, watch.steps, {4: bad}), watch=watch)
    except UsageError as error:
        print(error)
        (kept,) = {*run.folder.rglob("nonfinite_batch.pt")} - before
        return int(torch.load(kept, weights_only=True)["step"] == 4)
    return 0
