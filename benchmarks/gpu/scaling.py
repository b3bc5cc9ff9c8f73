"""What bounds 1, 8 and 64 GPUs, on paper: ``python -m benchmarks.gpu.scaling`` prints the tables of ``docs/gpu.md``.

Counts are from runs on tensors without a GPU; times follow from them by the assumptions below, and none was measured.
"""

from typing import NamedTuple


class Counts(NamedTuple):
    """What a step of a row does, counted."""

    batch: int
    patch_size: int
    tflop: float
    launches: int
    """Kernels of forward and backward, eager."""
    gigabytes: float
    """That the kernels read and write, eager and in fp32."""
    parameters: int


ROWS = {
    "EDSR-baseline P=1": Counts(16, 1, 0.425, 587, 15.4, 1_925_632),
    "EDSR-baseline P=3": Counts(16, 3, 0.454, 589, 17.2, 2_057_176),
    "RDN P=1": Counts(16, 1, 5.01, 1311, 73, 22_679_168),
    "RRDB P=3": Counts(16, 3, 3.85, 2531, 77, 17_422_232),
    "SwinIR P=1": Counts(32, 1, 5.76, 3151, 381, 12_308_260),
}
LOADED = {1: 2057, 3: 1208}
"""Samples per second and core of a loading process, measured on a CPU."""

# Assumed, of an H100 and its host.
LAUNCH = 12e-6
"""Seconds of the host for a kernel, eager, with what Python and autograd do around it."""
ARITHMETIC = 600e12
"""FLOP per second in bf16."""
MEMORY = 3e12
"""Bytes per second of the GPU's memory; in bf16 half the bytes of fp32 move."""
NVLINK, PCIE, NETWORK = 450e9, 25e9, 25e9
"""Bytes per second and direction: between 8 GPUs of a node, the same without NVLink, and from node to node."""


def bounds(row: Counts) -> dict[str, float]:
    """Milliseconds of a step in bf16 by each thing that may bound it."""
    return {
        "launches": 1e3 * row.launches * LAUNCH,
        "memory": 1e3 * row.gigabytes * 1e9 / 2 / MEMORY,
        "arithmetic": 1e3 * row.tflop * 1e12 / ARITHMETIC,
    }


def all_reduce(row: Counts, members: int, speed: float) -> float:
    """Milliseconds of a ring over so many members: each sends 2 (n - 1) / n of the gradients, which are in fp32."""
    return 1e3 * 2 * (members - 1) / members * 4 * row.parameters / speed


def counted() -> str:
    """What is counted, as a table in Markdown."""
    lines = [
        "| row | samples | kernels | GB, eager in fp32 | TFLOP | MB of gradients |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in ROWS.items():
        numbers = f"{row.launches:,} | {row.gigabytes:g} | {row.tflop:g} | {4 * row.parameters / 1e6:.1f}"
        lines.append(f"| {name} | {row.batch} | {numbers} |")
    return "\n".join(lines)


def estimated() -> str:
    """What follows, as a table in Markdown; times in milliseconds."""
    lines = [
        "| row | launches | memory | arithmetic | 1 GPU is bound by | all-reduce, 8 GPUs: NVLink / PCIe "
        "| 64 GPUs, between 8 nodes | samples/s a GPU | loader cores a GPU |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in ROWS.items():
        times = bounds(row)
        bound = max(times, key=lambda what: times[what])
        rate = 1e3 * row.batch / times[bound]
        cells = [f"{times[what]:.1f}" for what in ("launches", "memory", "arithmetic")]
        cells += [bound, f"{all_reduce(row, 8, NVLINK):.2f} / {all_reduce(row, 8, PCIE):.1f}"]
        cells += [
            f"{all_reduce(row, 8, NETWORK):.1f}",
            f"{rate:,.0f}",
            f"{rate / LOADED[row.patch_size]:.1f}",
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(counted(), estimated(), sep="\n\n")
