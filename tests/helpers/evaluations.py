"""Folders as evaluations leave them: of systems whose distribution is known, or killed."""

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from helpers.commands import start
from linf.data.sources import bundled

SHA = "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8"


def evaluation(
    folder: Path,
    label: str = "LINF",
    model: str = "LINF",
    *,
    datasets: Sequence[str] = ("Set5",),
    scales: Sequence[float] = (2, 4),
    temperatures: Sequence[float] = (0, 0.4, 0.8),
    names: Sequence[str] = ("one", "two"),
    lpips: bool = True,
    prior: bool = False,
    shown: bool = False,
    shift: float = 0,
    **about: Any,
) -> Path:
    """An evaluation's folder in its format, of a system whose distribution is known: no network is run."""
    systems: list[tuple[str, float | None]] = [("bicubic", None)]
    if model == "LINF":
        systems += [(f"τ={t:g}", t) for t in temperatures] + [("prior", None)] * prior
    elif model != "Bicubic":
        systems.append((model, None))
    lines, law, intervals = [], [], []
    for dataset in datasets:
        for scale in scales:
            for n, name in enumerate(names):
                unit = {"dataset": dataset, "image": name, "scale": scale}
                error, variance = 1e-4 * scale * (1 + n), 3e-4 * scale
                for system, t in systems:
                    total = error + (t or 0) ** 2 * variance if system != "bicubic" else 3 * error
                    psnr = -10 * math.log10(total) + shift * (system != "bicubic")
                    line = unit | {"system": system, "temperature": t, "psnr_y": psnr, "psnr_rgb": psnr - 1.5}
                    line |= {"ssim": 1 - 20 * total}
                    if lpips:
                        line["lpips_alex"] = 0.05 * scale * (1 + ((t or 0) - 0.5) ** 2) + 0.1 * (
                            system == "bicubic"
                        )
                    line |= {"detail": 4 if system == "bicubic" else 30 + 70 * (t or 0) ** 2}
                    line |= {"lr_psnr": psnr + 9, "diversity": None if t is None else 12 * t, "nonfinite": 0}
                    lines.append(line)
                figures = {
                    "bits_per_dim": 3.1,
                    "whitened_mean": 0,
                    "whitened_var": 1.05,
                    "whitened_kurtosis": 3.4,
                }
                parts = {
                    "error_y": error,
                    "variance_y": variance,
                    "error_rgb": 2 * error,
                    "variance_rgb": 2 * variance,
                }
                law.append(unit | figures | parts)
                for kind in ("pixel", "latent"):
                    intervals += [
                        unit | {"kind": kind, "nominal": p, "covered": p**0.8} for p in (0.1, 0.5, 0.9)
                    ]
                if shown and scale == max(scales):
                    draw(folder / "images" / dataset / f"x{scale:g}" / name, int(scale), systems, lpips)
    folder.mkdir(parents=True, exist_ok=True)
    images = pd.DataFrame(lines)
    groups = images.groupby(["dataset", "scale", "system", "temperature"], sort=False, dropna=False)
    means = groups.mean(numeric_only=True)
    means.insert(0, "images", groups.size())
    tables = {"images": images, "metrics": means.reset_index()}
    if model == "LINF":
        tables |= {"distribution": pd.DataFrame(law), "calibration": pd.DataFrame(intervals)}
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False)
    run = {
        "label": label,
        "model": {"name": model, "config": {"encoder": {"name": "EDSR"}}, "parameters": 2_057_176},
        "checkpoint": {"path": "model.safetensors", "sha256": SHA},
        "protocol": {"name": "benchmark", "headline": "psnr_y", "border": "ceil(s)"},
        "metrics": list(images.columns[5:]),
        "skipped": {} if lpips else {"lpips_alex": "the weights alexnet are not here"},
        "temperatures": list(temperatures) if model == "LINF" else [],
        "samples": 2,
        "seed": 0,
        "scales": list(scales),
        "datasets": list(datasets),
        "git": {"commit": "abc123", "dirty": False},
        "versions": {"linf": "0.1.0"},
        "device": "cpu",
        "max_trained_scale": 4,
    }
    (folder / "run.json").write_text(json.dumps(run | about, ensure_ascii=False))
    return folder


def evaluation_settings(model: Path, images: Path, *overrides: str) -> list[str]:
    """The settings of an evaluation over a folder of images."""
    return [f"ckpt_path={model}", "data=folder", f"data.root={images}", "data.num_workers=0", *overrides]


def draw(folder: Path, scale: int, systems: Sequence[tuple[str, float | None]], lpips: bool) -> None:
    """A detail of a photograph, made worse by noise in one corner, more of it at higher temperatures."""
    folder.mkdir(parents=True)
    hr = np.asarray(Image.open(bundled("heldout").hr[0]).convert("RGB"))[80:200, 160:320]
    noise = np.random.default_rng(0).normal(0, 40, (32, 32, 3))
    Image.fromarray(hr).save(folder / "HR.png")
    Image.fromarray(hr[::scale, ::scale]).save(folder / "LR.png")
    for system, t in systems:
        made = hr.astype(float)
        made[24:56, 96:128] += (1 if t is None else t) * noise
        Image.fromarray(made.clip(0, 255).astype(np.uint8)).save(folder / f"{system}.png")
    if any(t is not None for _, t in systems):
        np.save(folder / "deviation.npy", np.full(hr.shape[:2], 0.1, np.float16))
        if lpips:
            np.save(folder / "best_temperature.npy", np.full(hr.shape[:2], 0.4, np.float16))


def kill_between_images(folder: Path, *command: str, cwd: Path) -> None:
    """Run ``eval.py`` and kill it, however far it comes: one image is finished, and the next half written."""
    units = folder / "units" / "rank_0.jsonl"
    run = start(*command, cwd=cwd, script="eval")
    while run.poll() is None and not (units.exists() and units.stat().st_size):
        time.sleep(0.001)
    run.kill()
    run.wait()
    first = next(line for line in units.read_text().splitlines() if line)
    units.write_text(f"{first}\n{first[:40]}")
    (folder / "metrics.csv").unlink(missing_ok=True)
