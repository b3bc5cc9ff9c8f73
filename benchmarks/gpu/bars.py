"""The sections, how long each may take, and the bars of their figures: what a run on one H100 has to show."""

from typing import NamedTuple


class Bar(NamedTuple):
    """What a figure must reach."""

    value: float
    unit: str = ""
    at_least: bool = False  # A floor, not a ceiling.

    def met(self, value: float) -> bool:
        """Whether a figure keeps to it; NaN does not."""
        return value >= self.value if self.at_least else value <= self.value

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.value:g} {self.unit}".rstrip()


class Section(NamedTuple):
    """A part of the acceptance, in a process of its own."""

    seconds: float
    """After which it is ended."""
    bars: dict[str, Bar]
    """By figure; a figure that the section shows beside these has no bar."""


TOTAL_SECONDS = 600.0
"""Of all sections; what has not begun by then is not run, and counts as missed."""


MODES = {
    "IEEE": Bar(1e-4),
    "TF32 convolutions": Bar(5e-4),
    "high": Bar(1e-3),
    "fp16": Bar(2e-3),
    "bf16": Bar(1e-2),
}
"""Precisions, and how far an image in [-1, 1] and a log-density in nats may be off the published code's in each."""

SECTIONS = {
    "machine": Section(
        40,
        {"product in bf16": Bar(600, "TFLOP/s", True), "copy on the GPU": Bar(2.5, "TB/s", True)},
    ),
    "parity": Section(
        90,
        {
            "features, IEEE": Bar(1e-5),
            **{f"images, {mode}": bar for mode, bar in MODES.items()},
            **{f"log p, {mode}": bar for mode, bar in MODES.items()},
            "flow there and back, worst precision": Bar(1e-5),
            "latents of the learned prior, IEEE": Bar(1e-4),
            "gradients of a step against the CPU's, IEEE": Bar(1e-4),
            "LPIPS of ex_p0, off 0.722": Bar(1e-3),
            "LPIPS of ex_p1, off 0.138": Bar(1e-3),
        },
    ),
    "waits": Section(
        90,
        {
            **{f"waits a step, {task}": Bar(1) for task in ("nll", "mixture", "finetune", "prior")},
            "kernels a step, EDSR-baseline P=1, eager": Bar(700),
        },
    ),
    "step": Section(
        360,
        {
            **{
                f"bf16 step, {name}": Bar(value, "ms")
                for name, value in {
                    "EDSR-baseline P=1": 10,
                    "EDSR P=1": 32,
                    "RDN P=1": 30,
                    "RRDB P=3": 45,
                    "SwinIR P=1": 95,
                }.items()
            },
            **{
                f"memory against what is counted, {name}": Bar(1.2, "×")
                for name in ("EDSR-baseline P=1", "EDSR P=1", "RDN P=1", "RRDB P=3", "SwinIR P=1")
            },
            **{
                f"GPU busy, {name}": Bar(0.85, "of the step", True)
                for name in ("EDSR P=1", "RDN P=1", "SwinIR P=1")
            },
            "callbacks / none, EDSR-baseline P=1": Bar(1.1, "×"),
            "compiled step, EDSR-baseline P=1": Bar(5, "ms"),
            "compiled step, RRDB P=3": Bar(20, "ms"),
            "eager / compiled, EDSR-baseline P=1": Bar(1.5, "×", True),
            "eager / compiled, RRDB P=3": Bar(1.5, "×", True),
        },
    ),
    "loader": Section(
        150,
        {f"4 workers / batches in memory, P={p}": Bar(0.95, "of the speed", True) for p in (1, 3)},
    ),
    "images": Section(
        120,
        {
            "128²→512², EDSR-baseline P=1": Bar(15, "ms"),
            "128²→512², EDSR-baseline P=3": Bar(15, "ms"),
            **{
                f"510×339→2040×1356, {name}": Bar(value, "ms")
                for name, value in {
                    "EDSR-baseline P=1": 120,
                    "EDSR-baseline P=3": 60,
                    "RRDB P=3": 400,
                    "SwinIR P=1": 600,
                }.items()
            },
            **{
                f"memory of 2040×1356, {name}": Bar(value, "GB")
                for name, value in {
                    "EDSR-baseline P=1": 4,
                    "EDSR-baseline P=3": 4,
                    "RRDB P=3": 4,
                    "SwinIR P=1": 12,
                }.items()
            },
            "21 temperatures / 1, EDSR-baseline P=3, 128²→512²": Bar(1.5, "×"),
            "fp16 off fp32, default model ×4": Bar(0.5, "grey levels"),
        },
    ),
    "evaluation": Section(
        150,
        {
            "PSNR at τ=0, GPU off CPU": Bar(0.002, "dB"),
            "PSNR at τ=0.4, GPU off CPU": Bar(0.01, "dB"),
            "SSIM, GPU off CPU": Bar(1e-4),
            "LPIPS, GPU off CPU": Bar(1e-3),
            "bits per dimension, GPU off CPU": Bar(1e-3),
        },
    ),
    "fp16": Section(
        120,
        {
            **{f"skipped steps of 80, {task}": Bar(5) for task in ("nll", "finetune")},
            **{f"loss off bf16's, {task}": Bar(0.02, "of it") for task in ("nll", "finetune")},
            "runs that a batch with NaN stops, and that keep it": Bar(1, "", True),
        },
    ),
    "resume": Section(
        180,
        {
            "weights off those of the whole run, EDSR": Bar(0),
            "weights off those of the whole run, SwinIR": Bar(0),
            "loss off that of the whole run, EDSR, not deterministic": Bar(1e-3, "of it"),
            "from SIGTERM to the end": Bar(5, "s"),
            "checkpoints that are whole after it": Bar(1, "", True),
        },
    ),
    "ranks": Section(
        150,
        {
            "weights of one rank off those without DDP": Bar(0),
            "loss of two ranks off one of twice the batch": Bar(1e-4),
            "collectives a step beyond the gradients'": Bar(0),
            "from the kill of a rank to the end of the other": Bar(40, "s"),
        },
    ),
    "shortage": Section(
        120,
        {
            "lines about a batch too large": Bar(1),
            "lines about an image too large": Bar(1),
            "jobs of a sweep that finish, two at a time": Bar(2, "", True),
        },
    ),
}
