"""What of the options of `linf upscale` concerns the model, and the model itself."""

import re
from argparse import Namespace

import torch

from linf.baselines import Bicubic, Regression
from linf.checkpoints import load
from linf.errors import UsageError
from linf.model import LINF, check_temperatures
from linf.upscale.enlarging import Ask


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


def chosen_model(word: str, ask: Ask) -> LINF | Regression | Bicubic:
    """``--model``; UsageError where it cannot be loaded, or cannot do what is asked."""
    if word == "bicubic":
        model: LINF | Regression | Bicubic = Bicubic()
    else:
        model = load(word)
    if not isinstance(model, LINF) and (ask.temperature > 0 or ask.samples > 1 or ask.uncertainty):
        raise UsageError(
            f"{type(model).__name__} has nothing random in it: leave out --temperature, --samples and --uncertainty"
        )
    return model
