"""Sections `images` and `evaluation`: whole images from a model, and the figures of an evaluation, GPU against CPU."""

import os
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

import linf
from benchmarks.gpu.commands import Command
from benchmarks.gpu.work import Run, milliseconds, peak_bytes, published, release
from linf.data.sources import bundled
from linf.images.resize import matlab_bicubic

MODELS = {
    "EDSR-baseline P=1": ("EDSR-baseline", 1),
    "EDSR-baseline P=3": ("EDSR-baseline", 3),
    "RRDB P=3": ("RRDB", 3),
    "SwinIR P=1": ("SwinIR", 1),
}


def images(run: Run) -> None:
    """`sample` of two sizes in fp16, one and 21 temperatures, the digits of each precision, and ``linf upscale``."""
    small, large = (
        (((16, 16), (64, 64)), ((20, 24), (80, 96)))
        if run.tiny
        else (
            ((128, 128), (512, 512)),
            ((339, 510), (1356, 2040)),
        )
    )
    runs = 1 if run.tiny else 10
    for name, (encoder, patch_size) in MODELS.items():
        model = published(run, encoder, patch_size)
        for label, (low, high) in (("128²→512²", small), ("510×339→2040×1356", large)):
            lr = torch.rand(1, 3, *low, device=run.device)
            sample = partial(model.sample, lr, high, temperature=0.5, seed=0)
            release()
            with torch.autocast(run.device.type, torch.float16):
                took = milliseconds(sample, runs)
            detail = f"fp16, {peak_bytes() / 1e6:.0f} MB"
            if label[0] == "1":
                detail += f"; fp32 {milliseconds(sample, runs):.1f} ms"
            else:
                run.tell(f"memory of 2040×1356, {name}", peak_bytes() / 1e9)
            run.tell(f"{label}, {name}", took, "ms", detail)
            if (label[0], name) == ("1", "EDSR-baseline P=3"):
                taus = [i / 20 for i in range(21)]
                with torch.autocast(run.device.type, torch.float16):
                    many = milliseconds(partial(model.sample, lr, high, temperature=taus, seed=0), runs)
                run.tell(
                    "21 temperatures / 1, EDSR-baseline P=3, 128²→512²",
                    many / took,
                    detail=f"{many:.1f} / {took:.1f} ms",
                )
        del model
    _levels(run)
    _upscale(run)


def _levels(run: Run) -> None:
    """How far half precision is off single, in levels of 8 bits, before they are rounded."""
    model = linf.load("default").to(run.device).eval()
    pixels = np.asarray(Image.open(bundled("heldout").hr[0]).convert("RGB"))[: 64 if run.tiny else 256]
    lr = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].to(run.device) / 255
    lr = lr[..., : 64 if run.tiny else 256]
    size = (4 * lr.shape[-2], 4 * lr.shape[-1])
    exact = 255 * model.sample(lr, size, temperature=0.5, seed=0)
    for name, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16)):
        with torch.autocast(run.device.type, dtype):
            image = 255 * model.sample(lr, size, temperature=0.5, seed=0)
        changed = float((image.round() != exact.round()).float().mean())
        off = float((image.float() - exact).abs().max())
        run.tell(
            f"{name} off fp32, default model ×4", off, "grey levels", f"{changed:.1%} of 8-bit values change"
        )


def _upscale(run: Run) -> None:
    """``linf upscale`` as a user starts it."""
    photo = run.folder / "photo.png"
    Image.open(bundled("heldout").hr[0]).convert("RGB").crop(
        (0, 0, *((48, 48) if run.tiny else (510, 339)))
    ).save(photo)
    device = ("--device", str(run.device))
    done = Command(
        "linf", "upscale", str(photo), "--scale", "4", "--temperature", "0.5", *device, folder=run.folder
    )
    began = os.times().elapsed
    words = done.wait()
    run.tell(
        "linf upscale of 510×339 ×4, whole", os.times().elapsed - began, "s", words.strip().rpartition("/")[2]
    )


def evaluation(run: Run) -> None:
    """``eval.py`` with the default model on the held-out photographs, on the GPU and on the CPU at once."""
    folder = run.folder / "crops"
    folder.mkdir()
    side = 64 if run.tiny else 256
    for path in bundled("heldout").hr[: 1 if run.tiny else None]:
        photo = matlab_bicubic(_image(path)[..., :400, :400], (side, side))
        content = photo.clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(content).save(folder / f"{path.stem}.png")
    scales = "[2]" if run.tiny else "[2,3.3,4]"
    given = ["ckpt_path=default", "data=folder", f"data.root={folder}", f"data.test_scales={scales}"]
    given += ["temperatures=[0,0.4]", "~callbacks.publish", "data.num_workers=0"]
    places = {"gpu": run.trainer, "cpu": ("trainer=cpu",)}
    commands = {
        name: Command("eval", *given, *trainer, f"hydra.run.dir={run.folder / name}", folder=run.folder)
        for name, trainer in places.items()
    }
    began = os.times().elapsed
    commands["gpu"].wait()
    took = os.times().elapsed - began
    commands["cpu"].wait()
    found = {
        table: [
            pd.read_csv(run.folder / name / f"{table}.csv").set_index(["image", "scale", *more])
            for name in places
        ]
        for table, more in (("images", ["system", "temperature"]), ("distribution", []))
    }
    gpu, cpu = found["images"]
    off = (gpu.select_dtypes("number") - cpu.select_dtypes("number")).abs()
    of_model = off.reset_index().set_index("temperature")
    for tau in (0, 0.4):
        psnr = of_model.loc[[tau], [c for c in off if c.startswith("psnr")]]
        run.tell(f"PSNR at τ={tau:g}, GPU off CPU", psnr.max().max())
    for label, column in (("SSIM", "ssim"), ("LPIPS", "lpips_alex")):
        run.tell(f"{label}, GPU off CPU", off[column].max() if column in off else float("nan"))
    gpu, cpu = found["distribution"]
    run.tell("bits per dimension, GPU off CPU", (gpu["bits_per_dim"] - cpu["bits_per_dim"]).abs().max())
    run.tell("images of an evaluation, from the start", len(gpu) / took, "images/s")


def _image(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.asarray(Image.open(path).convert("RGB")).copy()).permute(2, 0, 1) / 255
