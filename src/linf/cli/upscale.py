"""The command ``linf upscale``: its options, their ranges, and the model that they choose."""

from __future__ import annotations

import re
import sys
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from linf.cli.options import add_command, chosen_device
from linf.errors import UsageError
from linf.models import DEFAULT_TEMPERATURE

if TYPE_CHECKING:
    import torch

    from linf.upscale.enlarge import Ask


def add_upscale(commands: Any) -> None:
    parser = add_command(commands, "upscale", _upscale, "enlarge images")
    parser.add_argument(
        "input",
        nargs="+",
        metavar="IN",
        help="file, folder (with its subfolders), quoted glob, or - for stdin",
    )
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument(
        "-s",
        "--scale",
        metavar="S",
        help="scale, 1 or more, for instance 3.7 or 4x; 2x3 makes an image twice as high and three times as wide",
    )
    size.add_argument(
        "--size",
        metavar="WxH",
        help="size of the result in pixels, width first: 4096x (the width), x2160 (the height) or 4096x2160",
    )
    parser.add_argument(
        "--model",
        default="photo",
        metavar="FILE",
        help="photo, default (see `linf models`), bicubic, or a .ckpt, .safetensors or published .pth (default: photo)",
    )
    parser.add_argument(
        "-o",
        "--out",
        metavar="FILE|DIR",
        help="file for a single image, folder, or - for stdout (default: NAME_x3.7 beside NAME; - for stdin)",
    )
    parser.add_argument(
        "--format",
        metavar="FORMAT",
        help="png, jpg, webp or tiff (default: from the name of OUT, or else of IN; png for stdout)",
    )
    parser.add_argument(
        "--quality", type=int, default=95, metavar="N", help="quality of jpg and webp (default: 95)"
    )
    parser.add_argument(
        "-t",
        "--temperature",
        type=float,
        metavar="T",
        help=f"temperature: 0 gives the mean, more gives more texture; usually 0 to 1 (default: {DEFAULT_TEMPERATURE})",
    )
    parser.add_argument(
        "--keep-temperature",
        action="store_true",
        help="do not lower the temperature for a noisy or strongly compressed image",
    )
    parser.add_argument(
        "--consistent",
        action="store_true",
        help="make a result that gives the original image again when downscaled; for clean images only",
    )
    parser.add_argument(
        "--samples",
        type=int,
        default=1,
        metavar="N",
        help="number of samples of each image, with seeds from --seed up (default: 1)",
    )
    parser.add_argument(
        "--latents",
        choices=("independent", "correlated"),
        default="independent",
        help="correlated: make neighbouring patches agree; for default, or a model that `linf latents` wrote "
        "(default: independent)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of the first sample (default: 0)"
    )
    parser.add_argument(
        "--uncertainty",
        action="store_true",
        help="also write a map of the predicted deviation, NAME_uncertainty.png",
    )
    parser.add_argument(
        "--tile",
        default="auto",
        metavar="N",
        help="side of the tiles that are encoded at once, in pixels (default: auto)",
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, … (default: auto)")
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "float16", "bfloat16"),
        default="auto",
        help="precision (default: auto, which is float16 on a GPU and float32 elsewhere)",
    )
    parser.add_argument(
        "--range",
        nargs=2,
        type=float,
        metavar=("BLACK", "WHITE"),
        help="values of black and white in the file, for TIFF of floats or signed integers (default: those of the "
        "model's training, or else 0, and 255 or 65535)",
    )
    parser.add_argument("--force", action="store_true", help="overwrite existing files")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="write nothing; print for each image its size, and estimates of the memory, time and disk space it needs",
    )


def _upscale(given: Namespace) -> None:
    """Enlarge images.

    Grey images stay grey; 16 bits, transparency, EXIF and colour profiles are kept where the output format can hold
    them. A model for images with other channels takes TIFF with the same number of channels. If an image fails, a line
    on stderr says why, and the status is 1.
    """
    from linf.checkpoints.native import load
    from linf.images.pixels import checked_range
    from linf.images.write import FORMAT_BY_SUFFIX, FORMATS
    from linf.models.baselines import Bicubic
    from linf.models.correlation import chosen_correlation
    from linf.models.super_resolver import SuperResolver
    from linf.upscale.dry_run import dry_run
    from linf.upscale.inputs import PIPE, parse_size, planned
    from linf.upscale.outputs import Outputs
    from linf.upscale.run import Upscaler

    if given.format not in (None, *FORMATS):
        raise UsageError(f"--format {given.format} is not one of {', '.join(FORMATS)}")
    size = parse_size(given.scale, given.size)
    if not 1 <= given.quality <= 100:
        raise UsageError(f"--quality {given.quality} is not a whole number from 1 to 100")
    device = chosen_device(given.device)
    ask = _ask(given, device)
    images, out = planned(given.input, given.out, size)
    named = FORMAT_BY_SUFFIX[out.suffix.lower()] if out not in (None, PIPE) else None
    if named is not None and given.format not in (None, named):
        raise UsageError(f"--out {out} and --format {given.format} contradict each other: give one of them")
    if out == PIPE and (ask.samples > 1 or ask.uncertainty):
        raise UsageError("stdout takes one image: give --out FOLDER with --samples and --uncertainty")
    if out == PIPE and sys.__stdout__ is None:
        raise UsageError("stdout is closed: redirect it to a file or a pipe, or give --out FILE")
    if out == PIPE and sys.stdout.isatty():
        raise UsageError("stdout is a terminal, which shows no image: redirect it, or give --out FILE")
    limits = None if given.range is None else checked_range("--range", given.range)
    model: SuperResolver = Bicubic() if given.model == "bicubic" else load(given.model)
    if not model.dim:
        if (given.temperature or 0) > 0 or ask.samples > 1 or ask.uncertainty or ask.latents != "independent":
            raise UsageError(
                f"{type(model).__name__} has nothing random in it: leave out --temperature, --samples, --latents and "
                "--uncertainty"
            )
        ask = ask._replace(temperature=0.0)
    chosen_correlation(model.correlation, ask.latents)
    model = model.to(device)
    unread = {image.path.resolve() for image in images}
    outputs = Outputs(out, given.format, given.quality, given.force, unread)
    upscaler = Upscaler(model, size, ask, outputs, limits, given.keep_temperature)
    failed = dry_run(upscaler, images) if given.dry_run else upscaler.run(images)
    if failed:
        if len(images) > 1:
            print(f"{failed} of {len(images)} images failed", file=sys.stderr)
        sys.stdout.flush()
        raise SystemExit(1)


def _ask(given: Namespace, device: torch.device) -> Ask:
    """Return the options that concern the model; raise UsageError if one is out of its range."""
    import torch

    from linf.models.temperature import check_temperatures
    from linf.upscale.enlarge import Ask

    if given.samples < 1:
        raise UsageError(f"--samples {given.samples} is not a whole number from 1 up")
    if not 0 <= given.seed < 2**63 - given.samples:
        raise UsageError(f"--seed {given.seed} is not a whole number from 0 to {2**63 - 1 - given.samples}")
    tau = DEFAULT_TEMPERATURE if given.temperature is None else given.temperature
    check_temperatures(tau)
    if given.samples > 1 and tau == 0:
        raise UsageError("at --temperature 0 all samples are the same: ask for one, or give more than 0")
    tile = None
    if given.tile != "auto":
        if not re.fullmatch(r"\d{1,9}", given.tile) or int(given.tile) < 16:
            raise UsageError(f"--tile {given.tile} is neither auto nor a whole number from 16 up")
        tile = int(given.tile)
    types = {"float32": None, "float16": torch.float16, "bfloat16": torch.bfloat16}
    dtype = types.get(given.dtype, torch.float16 if device.type == "cuda" else None)
    if given.consistent and given.uncertainty:
        raise UsageError(
            "--uncertainty maps the deviation of samples as the model makes them, which --consistent changes: give one "
            "of them"
        )
    rounds = 3 if given.consistent else 0
    return Ask(tau, given.samples, given.seed, given.uncertainty, tile, device, dtype, given.latents, rounds)
