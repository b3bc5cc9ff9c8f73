"""The options of `linf upscale`, what of them concerns the model, and the model itself."""

import re
from argparse import ArgumentParser, Namespace

import torch

from linf.checkpoints.native import load
from linf.errors import UsageError
from linf.images.write import FORMATS
from linf.models.baselines import Bicubic
from linf.models.super_resolver import SuperResolver, check_temperatures
from linf.upscale.enlarge import Ask


def options(parser: ArgumentParser) -> None:
    """Add the options of ``linf upscale``."""
    parser.add_argument(
        "input", nargs="+", metavar="IN", help="file, folder (however deep), glob in quotes, or - for stdin"
    )
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument("--scale", type=float, metavar="S", help="from 1 up, such as 3.7")
    size.add_argument("--size", metavar="WxH", help="4096x (the width), x2160 (the height) or 4096x2160")
    parser.add_argument(
        "--model",
        default="default",
        metavar="FILE",
        help="a .ckpt, .safetensors or published .pth, or bicubic (default: the one that comes with linf)",
    )
    parser.add_argument(
        "--out",
        metavar="FILE|DIR",
        help="or - for stdout (default: NAME_x3.7 beside NAME; - for stdin)",
    )
    parser.add_argument(
        "--format", choices=FORMATS, help="default: by the name of OUT or else IN; png to stdout"
    )
    parser.add_argument("--quality", type=int, default=95, metavar="N", help="of jpg and webp (default: 95)")
    parser.add_argument(
        "--temperature",
        type=float,
        metavar="T",
        help="0 is the mean, more is more texture; 0 to 1 is usual (default: 0, with --samples 0.8)",
    )
    parser.add_argument(
        "--samples", type=int, default=1, metavar="N", help="images to draw, with seeds from --seed up"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    parser.add_argument(
        "--uncertainty", action="store_true", help="also write NAME_uncertainty.png, a map of the deviation"
    )
    parser.add_argument(
        "--tile", default="auto", metavar="N", help="pixels a side encoded at once (default: auto, by memory)"
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, … (default: auto)")
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="default: auto, bfloat16 on a GPU that has it",
    )
    parser.add_argument("--force", action="store_true", help="overwrite files that are there")


def asked(given: Namespace, device: torch.device) -> Ask:
    """The options that concern the model; UsageError where one is out of its range."""
    if given.samples < 1:
        raise UsageError(f"--samples {given.samples} is not a whole number from 1 up")
    if not 0 <= given.seed < 2**63 - given.samples:
        raise UsageError(f"--seed {given.seed} is not a whole number from 0 to {2**63 - 1 - given.samples}")
    tau = given.temperature if given.temperature is not None else 0.8 if given.samples > 1 else 0.0
    check_temperatures(tau)
    if given.samples > 1 and tau == 0:
        raise UsageError("at --temperature 0 all samples are the same: ask for one, or for more than 0")
    tile = None
    if given.tile != "auto":
        if not re.fullmatch(r"\d{1,9}", given.tile) or int(given.tile) < 16:
            raise UsageError(f"--tile {given.tile} is neither auto nor a whole number from 16 up")
        tile = int(given.tile)
    half = given.dtype == "bfloat16"
    if given.dtype == "auto" and device.type == "cuda":
        half = torch.cuda.is_bf16_supported(including_emulation=False)
    dtype = torch.bfloat16 if half else None
    return Ask(tau, given.samples, given.seed, given.uncertainty, tile, device, dtype)


def chosen_device(word: str) -> torch.device:
    """``--device``; UsageError where there is none."""
    if word == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(word)
        torch.empty(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        found = ["cpu", *(f"cuda:{n}" for n in range(torch.cuda.device_count()))]
        raise UsageError(f"--device {word} is not here: give auto or one of {', '.join(found)}") from error
    return device


def chosen_model(word: str, ask: Ask) -> SuperResolver:
    """``--model``; UsageError where it cannot be loaded, or cannot do what is asked."""
    if word == "bicubic":
        model: SuperResolver = Bicubic()
    else:
        model = load(word)
    if not model.dim and (ask.temperature > 0 or ask.samples > 1 or ask.uncertainty):
        raise UsageError(
            f"{type(model).__name__} has nothing random in it: leave out --temperature, --samples and --uncertainty"
        )
    return model
