"""Speed and memory as ratios within one run: ``python benchmarks/run.py [name …]``, all figures by default.

Absolute times tell of the machine, so each figure is held against work of known size, timed turn by turn in
the same process. Each name runs in a fresh one, whose peak memory is its own. Status 1 if a bar is missed.
"""

import csv
import itertools
import json
import math
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from linf.data.crops import SRBatch
from linf.data.datamodule import SRDataModule
from linf.data.decode import write_pixels
from linf.data.pairs import ImagePair
from linf.data.sources import bundled
from linf.evaluation.measure import measure
from linf.images.resize import matlab_bicubic
from linf.losses.flow import LikelihoodL1
from linf.machine import keep_freed_memory
from linf.metrics.metric import LRPSNR, PSNR, SSIM, NonFinite
from linf.models.conditioner import FourierConditioner
from linf.models.correlation import LatentCorrelation
from linf.models.encoders import EDSR, RRDBNet, SwinIR
from linf.models.flow import ConditionalFlow
from linf.models.latent_statistics import REACH
from linf.models.linf import LINF

BATCH, CROP, QUERIES = 16, 48, 48**2
ROOT = Path(__file__).parents[1]


class Figure(NamedTuple):
    """One line of the table."""

    what: str
    value: float
    bar: float | None
    unit: str = "×"
    at_least: bool = False  # The bar is a floor, not a ceiling.
    detail: str = ""

    @property
    def met(self) -> bool:
        """Whether it keeps to its bar, if it has one."""
        if self.bar is None:
            return True
        return self.value >= self.bar if self.at_least else self.value <= self.bar


def edsr_baseline(patch_size: int) -> LINF:
    """LINF at its published size; speed does not depend on its weights."""
    return published(EDSR, patch_size)


def published(encoder: Callable[[], nn.Module], patch_size: int) -> LINF:
    """LINF at its published size with this encoder."""
    torch.manual_seed(0)
    return LINF(encoder(), FourierConditioner, ConditionalFlow(patch_size)).eval()


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def side_by_side(a: Callable[[], object], b: Callable[[], object], runs: int) -> tuple[float, float, float]:
    """Median of a's time over b's and of each, taking turns after one call unmeasured."""
    a(), b()
    times = [(seconds(a), seconds(b)) for _ in range(runs)]
    ratio = statistics.median(x / y for x, y in times)
    return ratio, statistics.median(x for x, _ in times), statistics.median(y for _, y in times)


def peak_megabytes(work: Callable[[], object]) -> float:
    """What the process took, at its peak so far, beyond what it holds before the work."""
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    work()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / 1e6


def temperatures() -> list[Figure]:
    """A sweep of 21 temperatures, which shares one encoding and one condition."""
    model, lr = edsr_baseline(3), torch.rand(1, 3, 128, 128)
    taus = [i / 20 for i in range(21)]
    enlarge = partial(model.sample, lr, (512, 512))
    ratio, many, one = side_by_side(partial(enlarge, temperature=taus), partial(enlarge, temperature=0.8), 5)
    return [Figure("21 temperatures / 1, P=3, 128²→512²", ratio, 1.5, detail=f"{many:.2f} / {one:.2f} s")]


def latents() -> list[Figure]:
    """A sample whose latents are correlated, against one whose latents are drawn for each patch alone."""
    figures = []
    for patch_size in (1, 3):
        model, lr = edsr_baseline(patch_size), torch.rand(1, 3, 128, 128)
        model.correlation = LatentCorrelation(model.dim, [2, 3, 4], reach=math.ceil(REACH / patch_size))
        enlarge = partial(model.sample, lr, (512, 512), temperature=0.8)
        ratio, one, other = side_by_side(partial(enlarge, latents="correlated"), enlarge, 5)
        what = f"correlated latents / independent, P={patch_size}, 128²→512²"
        figures.append(Figure(what, ratio, 1.15, detail=f"{one:.2f} / {other:.2f} s"))
    return figures


def grid() -> list[Figure]:
    """An image of an evaluation, all metrics but LPIPS, at 21 temperatures against one."""
    metrics = {"psnr_y": PSNR(luma=True), "psnr_rgb": PSNR(), "ssim": SSIM(), "lr_psnr": LRPSNR()}
    metrics["nonfinite"] = NonFinite()
    hr = F.interpolate(torch.rand(1, 3, 64, 64), (512, 512), mode="bicubic").clamp(0, 1)
    image = ImagePair(matlab_bicubic(hr, (128, 128)), hr, 4.0, "made", "made")
    figures = []
    for patch_size in (1, 3):
        study = partial(
            measure,
            edsr_baseline(patch_size),
            image,
            metrics,
            samples=1,
            border=4,
            seed=0,
        )
        taus = [i / 20 for i in range(21)]
        ratio, many, one = side_by_side(
            partial(study, temperatures=taus), partial(study, temperatures=[0.8]), 5
        )
        detail = f"{many:.2f} / {one:.2f} s"
        figures.append(
            Figure(f"grid of 21 temperatures / 1, P={patch_size}, 128²→512²", ratio, 1.5, detail=detail)
        )
    return figures


def ensemble() -> list[Figure]:
    """The local ensemble, whose MLP runs four times for a query, against the feature ensemble."""
    lr, figures = torch.rand(1, 3, 64, 64), []
    local = partial(FourierConditioner, depth=2, ensemble="local")
    for patch_size in (1, 3):
        feature = edsr_baseline(patch_size)
        other = LINF(EDSR(), local, ConditionalFlow(patch_size)).eval()
        ratio, slow, fast = side_by_side(
            *(partial(model.sample, lr, (256, 256), temperature=0.8) for model in (other, feature)), 7
        )
        detail = f"{slow:.2f} / {fast:.2f} s"
        figures.append(
            Figure(
                f"local / feature ensemble, sample, P={patch_size}, 64²→256²", ratio, 1.2, "×", True, detail
            )
        )
    return figures


def bare_arithmetic(model: LINF, lr: torch.Tensor, queries: int) -> Callable[[], None]:
    """The convolutions of a model's encoder and the matrix products of its MLP, and nothing else."""
    weights = [layer.weight.detach().T for layer in model.conditioner.mlp if isinstance(layer, nn.Linear)]
    chunk, image = 4096, lr.contiguous(memory_format=torch.channels_last)
    buffers = [torch.rand(chunk, weights[0].shape[0])] + [torch.empty(chunk, w.shape[1]) for w in weights]

    @torch.no_grad()
    def arithmetic() -> None:
        model.encoder(image)
        for start in range(0, queries, chunk):
            n = min(chunk, queries - start)
            for rows, weight, out in zip(buffers, weights, buffers[1:], strict=False):
                torch.mm(rows[:n], weight, out=out[:n])

    return arithmetic


def sample() -> list[Figure]:
    """A whole sample against the published code's arithmetic done bare, with as many threads."""
    lr, figures = torch.rand(1, 3, 128, 128), []
    for patch_size in (1, 3):
        model = edsr_baseline(patch_size)
        upscale = partial(model.sample, lr, (512, 512), temperature=0.8, seed=0)
        if patch_size == 1:
            peak = peak_megabytes(upscale)
            figures.append(Figure("sample, peak above the model, P=1, 128²→512²", peak, 600, "MB"))
        bare = bare_arithmetic(model, lr, (-(-512 // patch_size)) ** 2)
        ratio, whole, least = side_by_side(upscale, bare, 7)
        what = f"sample / its convolutions and GEMMs, P={patch_size}, 128²→512²"
        figures.append(Figure(what, ratio, 1.8, detail=f"{whole:.2f} / {least:.2f} s"))
    return figures


def consistency() -> list[Figure]:
    """A sample whose LR is made the given one, alone and with correlated latents, against the plain sample."""
    lr, figures = torch.rand(1, 3, 128, 128), []
    for patch_size in (1, 3):
        model = edsr_baseline(patch_size)
        model.correlation = LatentCorrelation(model.dim, [2, 3, 4], reach=math.ceil(REACH / patch_size))
        plain = partial(model.sample, lr, (512, 512), temperature=0.8, seed=0)
        alone = partial(plain, consistency=3)
        both = partial(alone, latents="correlated")
        for name, work, bar in (("consistent", alone, 1.15), ("consistent and correlated", both, 1.25)):
            ratio, made, without = side_by_side(work, plain, 5)
            what = f"{name} sample / plain one, P={patch_size}, 128²→512²"
            figures.append(Figure(what, ratio, bar, detail=f"{made:.2f} / {without:.2f} s"))
    return figures


def spin() -> None:
    """Keep a core busy, as another user's job does: the scheduler shares the machine out between sessions."""
    os.setsid()
    while True:
        pass


def busy() -> list[Figure]:
    """A whole sample beside one busy process for every two cores, against the same on a quiet machine."""
    lr, figures = torch.rand(1, 3, 128, 128), []
    for patch_size in (1, 3):
        upscale = partial(edsr_baseline(patch_size).sample, lr, (512, 512), temperature=0.8, seed=0)
        upscale()
        quiet = statistics.median(seconds(upscale) for _ in range(5))
        neighbours = [
            multiprocessing.Process(target=spin, daemon=True) for _ in range((os.cpu_count() or 2) // 2)
        ]
        for neighbour in neighbours:
            neighbour.start()
        loaded = statistics.median(seconds(upscale) for _ in range(5))
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.join()
        what = f"sample beside busy processes / quiet, P={patch_size}, 128²→512²"
        figures.append(Figure(what, loaded / quiet, 4.0, detail=f"{loaded:.2f} / {quiet:.2f} s"))
    return figures


def encoders() -> list[Figure]:
    """The heavy encoders: a whole sample against its convolutions and matrix products at their own full speed."""
    lr, (rows, width) = torch.rand(1, 3, 64, 64), (16384, 256)
    conv = nn.Conv2d(width, width, 3, padding=1).to(memory_format=torch.channels_last).requires_grad_(False)
    image = torch.rand(1, width, 64, 64).to(memory_format=torch.channels_last)
    a, b, out = torch.rand(rows, width), torch.rand(width, width), torch.empty(rows, width)

    def bare() -> tuple[float, float]:
        """FLOP per second of a convolution and of a matrix product."""
        products = seconds(lambda: [torch.mm(a, b, out=out) for _ in range(20)]) / 20
        return 2 * 9 * width**2 * 64**2 / seconds(lambda: conv(image)), 2 * rows * width**2 / products

    figures = []
    for name, encoder in (("RRDB", RRDBNet), ("SwinIR", SwinIR)):
        enlarge = partial(published(encoder, 3).sample, lr, (256, 256), temperature=0.8)
        with FlopCounterMode(display=False) as counter:
            enlarge()
        counts = {str(op): n for op, n in counter.get_flop_counts()["Global"].items()}
        convolved = sum(n for op, n in counts.items() if "convolution" in op)
        turns = []
        for _ in range(5):
            conv_speed, product_speed = bare()
            took = seconds(enlarge)
            turns.append(
                (took, (convolved / conv_speed + (sum(counts.values()) - convolved) / product_speed) / took)
            )
        took, share = (statistics.median(column) for column in zip(*turns, strict=True))
        detail = f"{took:.2f} s / {sum(counts.values()) / 1e9:.0f} GFLOP"
        figures.append(
            Figure(
                f"sample at convolution and GEMM speed, {name} P=3, 64²→256²",
                share,
                None,
                "of it",
                detail=detail,
            )
        )
    return figures


def x32() -> list[Figure]:
    """Memory at a scale far beyond training's."""
    model, lr = edsr_baseline(3), torch.rand(1, 3, 64, 64)
    peak = peak_megabytes(lambda: model.sample(lr, (2048, 2048), temperature=0.8))
    return [Figure("sample, peak above the model, P=3, 64²→2048²", peak, 1000, "MB")]


def training(
    batch: SRBatch, *, compile: bool = False, channels_last: bool = False
) -> tuple[LINF, Callable[[], None]]:
    """A model and its training step of stage 1 on one batch, as `train.py` sets it up."""
    keep_freed_memory()
    model = edsr_baseline(1).train()
    model.initialise([batch])
    if channels_last:
        model.encoder.to(memory_format=torch.channels_last)
    loss, optimizer = LikelihoodL1(nll=1.0), torch.optim.Adam(model.parameters(), lr=1e-4)
    compute = torch.compile(loss.__call__) if compile else loss

    def one_step() -> None:
        optimizer.zero_grad()
        compute(model, batch)["loss"].backward()
        optimizer.step()

    return model, one_step


def upscale() -> list[Figure]:
    """Memory of `linf upscale` on a photograph of 12 megapixels, the whole process."""
    with tempfile.TemporaryDirectory() as folder:
        photo = Image.open(bundled("heldout").hr[0]).convert("RGB")
        photo.resize((4000, 3000)).save(f"{folder}/photo.jpg", quality=95)
        command = [sys.executable, "-m", "linf", "upscale", f"{folder}/photo.jpg", "--scale", "2"]
        took = seconds(
            lambda: subprocess.run([*command, "--temperature", "0.8"], check=True, capture_output=True)
        )
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e6
    detail = f"{took:.0f} s"
    return [Figure("linf upscale, whole process, 12 MP ×2, P=3, τ=0.8", peak, 3000, "MB", detail=detail)]


def slider() -> list[Figure]:
    """From a move of the temperature to the new image on the page of `linf demo`."""
    from slider import measured  # With what only this figure needs.

    seen, mixing = measured()
    detail = f"90 %: {statistics.quantiles(seen, n=10)[-1]:.0f} ms; mixing and encoding {statistics.median(mixing):.0f}"
    what = "temperature moved until seen in Chromium, 256²→1024²"
    return [Figure(what, statistics.median(seen), 300, "ms", detail=detail)]


def another() -> list[Figure]:
    """Another sample on the page of `linf demo`: by the flow alone, until its file is there."""
    from slider import samples

    whole, detail = samples()
    what = "another sample on the page, 800×500 ×3.7"
    return [
        Figure(f"{what}, all of it", statistics.median(whole), 4, "s"),
        Figure(f"{what}, close-up", statistics.median(detail), 2, "s"),
    ]


def loader() -> list[Figure]:
    """Samples per second of two loading processes against those the model can train on."""
    warm, timed = 8, 64
    with tempfile.TemporaryDirectory() as cache:
        data = SRDataModule(
            bundled("train"), crop=CROP, queries=QUERIES, num_workers=2, repeat=400, cache_dir=cache
        )
        data.setup("fit")
        loaded = iter(data.train_dataloader())
        batch = [*itertools.islice(loaded, warm)][-1]  # Until the workers' head start is used up.
        load = seconds(partial(list, itertools.islice(loaded, timed))) / timed
        del loaded  # Ends the workers.
        _, one_step = training(SRBatch(*batch))
        one_step()
        step_time = statistics.median(seconds(one_step) for _ in range(5))
    rates = f"{BATCH / load:.0f} / {BATCH / step_time:.1f} samples/s"
    return [Figure("loader / training step, 2 workers", step_time / load, 2.0, "×", True, rates)]


def count(steps: int) -> None:
    """Work of known size for one core."""
    for _ in range(steps):
        pass


def counting(processes: int) -> None:
    """The same work for so many processes together, which need nothing of each other."""
    context = multiprocessing.get_context("fork")
    counters = [context.Process(target=count, args=(40_000_000 // processes,)) for _ in range(processes)]
    for counter in counters:
        counter.start()
    for counter in counters:
        counter.join()


def decoding() -> list[Figure]:
    """Images decoded into the cache by a process per core against this process alone, and against what such a number of
    processes gains where each only counts, which is less than their number on a machine with other work.
    """
    cores = len(os.sched_getaffinity(0))
    photo = Image.open(bundled("heldout").hr[0]).convert("RGB")
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{i}.png" for i in range(64)]
        for i, file in enumerate(files):
            photo.rotate(i).resize((1020, 678)).save(file, compress_level=1)

        def decode(processes: int) -> tuple[float, float]:
            """CPU seconds of this process, and of its children."""
            before = os.times()
            write_pixels(files, Path(folder) / "pixels", processes=processes)
            after = os.times()
            here = after.user + after.system - before.user - before.system
            return (
                here,
                after.children_user + after.children_system - before.children_user - before.children_system,
            )

        alone, (parent, children) = decode(0)[0], decode(cores)
        ratio, many, one = side_by_side(partial(decode, cores), partial(decode, 0), 5)
        ideal = side_by_side(partial(counting, cores), partial(counting, 1), 5)[0]
    detail = f"{many:.2f} / {one:.2f} s = {ratio:.2f}, counting {ideal:.2f}"
    # What other work on the machine does not change: all cores share the work, but for the parent's part.
    four = max((parent + children) / 4, parent) / alone
    return [
        Figure(
            f"cache by {cores} processes / by one, over the same of counting",
            ratio / ideal,
            1.25,
            detail=detail,
        ),
        Figure(
            "the same on 4 idle cores, from CPU seconds", four, 0.3, detail=f"{parent:.2f} s of the parent"
        ),
    ]


def shards() -> list[Figure]:
    """Samples from 21 GB of shards against those from the cache, in one process, and the memory that it takes."""
    from shards import measured_shards  # With what only this figure needs.

    figures = []
    for kind, (stored, cached, memory, sizes) in measured_shards().items():
        ratio = statistics.median(a / b for a, b in zip(stored, cached, strict=True))
        rates = " / ".join(f"{1 / statistics.median(times):.0f}" for times in (stored, cached))
        figures.append(
            Figure(f"time of a sample, shards {kind} / cache", ratio, None, detail=f"{rates} samples/s")
        )
        figures.append(
            Figure(f"memory of a process on shards, {kind}", memory / 1e6, 100, "MB", detail=sizes)
        )
    return figures


def step() -> list[Figure]:
    """A training step against its encoder's and MLP's arithmetic at the speed of one large matrix product."""
    (lr, hr), coord = torch.rand(2, BATCH, 3, CROP, CROP), torch.rand(BATCH, CROP, CROP, 2) * 2 - 1
    model, one_step = training(SRBatch(lr, hr, coord, torch.full((BATCH, 2), 2 / 96)))
    convolutions = [m.weight for m in model.encoder.modules() if isinstance(m, nn.Conv2d)]
    linears = [m.weight for m in model.conditioner.mlp if isinstance(m, nn.Linear)]
    rows = BATCH * QUERIES  # As many LR pixels as queries.
    flops = 3 * 2 * rows * sum(w.numel() for w in convolutions + linears)
    a, b, out = torch.rand(rows, 1024), torch.rand(1024, 256), torch.empty(rows, 256)

    products = 8  # As long as a good part of a step, so that a disturbance meets both.

    def product() -> None:
        for _ in range(products):
            torch.mm(a, b, out=out)

    ratio, whole, gemms = side_by_side(one_step, product, 7)
    share = products * 2 * rows * 1024 * 256 / flops
    detail = f"{whole:.2f} s / {flops / 1e9:.0f} GFLOP at {share * flops / gemms / 1e9:.0f} GFLOP/s"
    return [Figure("training step / its FLOPs at GEMM speed", ratio * share, 1.5, detail=detail)]


def degradation() -> list[Figure]:
    """What degrading the LR crops of a batch adds to a training step, in time here and in kernels on a GPU."""
    figures = []
    for name in ("mild", "photo", "second_order"):
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            degrade = instantiate(compose("train", [f"data/degradation={name}"]).data.degradation)
        with tempfile.TemporaryDirectory() as cache:
            data = SRDataModule(
                bundled("train"), crop=CROP, queries=QUERIES, repeat=8, degradation=degrade, cache_dir=cache
            )
            data.setup("fit")
            batch = next(iter(data.train_dataloader()))
        _, one_step = training(data.on_after_batch_transfer(batch, 0))
        with Operations() as counted:
            data.on_after_batch_transfer(batch, 0)
        ratio, added, whole = side_by_side(partial(data.on_after_batch_transfer, batch, 0), one_step, 5)
        detail = f"{added:.2f} / {whole:.2f} s; {counted.number} kernels"
        figures.append(Figure(f"degradation={name} / training step", ratio, 0.15, detail=detail))
    return figures


class Operations(TorchDispatchMode):
    """Counts the operations that are a kernel on a GPU."""

    number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += not func.is_view
        return func(*args, **(kwargs or {}))


def bf16() -> list[Figure]:
    """A training step in fp32 against the same step with `trainer.precision=bf16-mixed`."""
    (lr, hr), coord = torch.rand(2, BATCH, 3, CROP, CROP), torch.rand(BATCH, CROP, CROP, 2) * 2 - 1
    _, one_step = training(SRBatch(lr, hr, coord, torch.full((BATCH, 2), 2 / 96)))

    def mixed() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            one_step()

    native = (
        torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )
    ratio, single, half = side_by_side(one_step, mixed, 5)
    bar = 1.3 if native else None
    return [Figure("fp32 / bf16-mixed training step", ratio, bar, "×", True, f"{single:.2f} / {half:.2f} s")]


def compiled() -> list[Figure]:
    """A training step as it is against one with `callbacks.acceleration.compile=true`, and with `channels_last`."""
    (lr, hr), coord = torch.rand(2, BATCH, 3, CROP, CROP), torch.rand(BATCH, CROP, CROP, 2) * 2 - 1
    batch = SRBatch(lr, hr, coord, torch.full((BATCH, 2), 2 / 96))
    _, eager = training(batch)
    figures = []
    for name in ("compile", "channels_last"):
        _, one_step = training(batch, **{name: True})
        ratio, before, after = side_by_side(eager, one_step, 5)
        detail = f"{before:.2f} / {after:.2f} s"
        figures.append(Figure(f"training step as it is / {name}", ratio, None, detail=detail))
    return figures


def ddp() -> list[Figure]:
    """`train.py` on two ranks of a thread against one process of two, with the same global batch."""

    def seconds_per_step(threads: int, *arguments: str) -> float:
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            command = [
                sys.executable,
                str(ROOT / "train.py"),
                "model=linf_patch",
                "task=mixture",
                "data.crop=24",
            ]
            command += [
                "data.queries=576",
                "data.num_workers=0",
                "data.batches_per_epoch=40",
                "trainer.max_steps=40",
            ]
            command += [
                "data.val_limit=1",
                "trainer.log_every_n_steps=10",
                "callbacks.progress.refresh_rate=0",
            ]
            environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
            command += [f"hydra.run.dir={run}", *arguments]
            subprocess.run(command, env=environment, check=True, capture_output=True)
            with (run / "csv" / "version_0" / "metrics.csv").open() as file:
                speeds = [row["speed/samples_per_s"] for row in csv.DictReader(file)]
            return 8 / statistics.median(float(speed) for speed in speeds if speed)

    ranks = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "data.batch_size=4")
    times = [(seconds_per_step(1, *ranks), seconds_per_step(2, "data.batch_size=8")) for _ in range(3)]
    ratio = statistics.median(two / one for two, one in times)
    two, one = (statistics.median(each) for each in zip(*times, strict=True))
    detail = f"{two:.3f} / {one:.3f} s a step"
    return [Figure("2 ranks × 1 thread / 1 process × 2 threads", ratio, 1.15, detail=detail)]


FIGURES = {
    f.__name__: f
    for f in (
        temperatures,
        latents,
        grid,
        ensemble,
        sample,
        consistency,
        busy,
        encoders,
        x32,
        upscale,
        slider,
        another,
        decoding,
        loader,
        shards,
        step,
        bf16,
        degradation,
        compiled,
        ddp,
    )
}


def main(names: list[str]) -> int:
    """Print the table; the exit status."""
    if unknown := [name for name in names if name not in FIGURES]:
        print(f"error: there is no figure {unknown[0]!r}; choose from {', '.join(FIGURES)}", file=sys.stderr)
        return 2
    print("| name | figure | measured | bar | | |\n|---|---|---|---|---|---|", flush=True)
    status = 0
    for name in names or FIGURES:
        child = subprocess.run([sys.executable, __file__, "--alone", name], stdout=subprocess.PIPE, text=True)
        if child.returncode:
            print(f"| {name} | failed | | | **missed** | |", flush=True)
            status = 1
            continue
        for f in (Figure(*fields) for fields in json.loads(child.stdout.splitlines()[-1])):
            bar = "" if f.bar is None else f"{'≥' if f.at_least else '≤'} {f.bar:g} {f.unit}"
            value, verdict = f"{f.value:.3g} {f.unit}", ("met" if bar else "") if f.met else "**missed**"
            print(f"| {name} | {f.what} | {value} | {bar} | {verdict} | {f.detail} |", flush=True)
            status |= not f.met
    return status


if __name__ == "__main__":
    if sys.argv[1:2] == ["--alone"]:
        print(json.dumps(FIGURES[sys.argv[2]]()))
    else:
        sys.exit(main(sys.argv[1:]))
