"""What this project does on a GPU, against bars: ``python -m benchmarks.gpu [section …] [--json FILE] [--tiny]``.

Each section runs in a process of its own with its own limit, and its figures are printed at once. Status 1 if a bar is
missed or a section fails, 2 where there is no GPU and so nothing is run. ``--tiny`` rehearses every section on a CPU,
with tiny sizes and without judging the bars. Nothing beyond what ``train.py`` and ``eval.py`` import is needed.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.gpu.bars import SECTIONS, TOTAL_SECONDS

HEADER = "| section | figure | measured | bar | | |\n|---|---|---|---|---|---|"


def show(section: str, figure: Any, tiny: bool) -> dict[str, Any]:
    """Print a figure as a line of the table; return it with its bar and verdict."""
    bar = SECTIONS[section].bars.get(figure.what)
    unit = bar.unit if bar else figure.unit
    met = None if bar is None or tiny else bar.met(figure.value)
    verdict = "rehearsed" if bar and tiny else {None: "", True: "met", False: "**missed**"}[met]
    value = f"{figure.value:.3g} {unit}".rstrip()
    print(f"| {section} | {figure.what} | {value} | {bar or ''} | {verdict} | {figure.detail} |", flush=True)
    row = {"what": figure.what, "value": figure.value, "unit": unit, "detail": figure.detail}
    return row | {"bar": str(bar) if bar else None, "met": met}


def measure(section: str, tiny: bool, seconds: float) -> tuple[list[dict[str, Any]], str | None]:
    """Run a section in a process of its own for at most so many seconds; its figures, and what went wrong if it did."""
    from benchmarks.gpu.alone import alone

    context = multiprocessing.get_context("forkserver")
    receiver, sender = context.Pipe(duplex=False)
    folder = Path(tempfile.mkdtemp(prefix=f"linf-gpu-{section}-"))
    process = context.Process(target=alone, args=(section, tiny, folder, sender))
    process.start()
    sender.close()
    rows: list[dict[str, Any]] = []
    until = time.monotonic() + seconds
    failure: str | None = f"it was ended after {seconds:.0f} s"
    try:
        while receiver.poll(max(0.0, until - time.monotonic())):
            told = receiver.recv()
            if told is None or isinstance(told, str):
                failure = told
                break
            rows.append(show(section, told, tiny))
    except EOFError:
        failure = "its process died"
    finally:
        process.join(5 if failure is None else 0)
        with suppress(ProcessLookupError):  # Itself, and what it has started and left.
            os.killpg(process.pid or 0, signal.SIGKILL)
        process.join()
    if failure is not None and (log := folder / "log").exists():
        print(log.read_text(errors="replace")[-4000:], file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    return rows, failure


def machine_name(tiny: bool) -> str:
    """The card, or that there is none."""
    import torch

    return "a CPU, rehearsed" if tiny else torch.cuda.get_device_name()


def main(arguments: Sequence[str]) -> int:
    """Print the table; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.split("\n")[0])
    parser.add_argument("sections", nargs="*", metavar="section", help=", ".join(SECTIONS))
    parser.add_argument("--tiny", action="store_true", help="rehearse on a CPU")
    parser.add_argument("--json", type=Path, metavar="FILE", help="append a line for each section")
    parser.add_argument(
        "--seconds",
        type=float,
        default=TOTAL_SECONDS,
        help="for all sections together (default: %(default)g)",
    )
    given = parser.parse_args(arguments)
    if unknown := [name for name in given.sections if name not in SECTIONS]:
        parser.error(f"there is no section {unknown[0]!r}; choose from {', '.join(SECTIONS)}")
    import torch

    if not given.tiny and not torch.cuda.is_available():
        print("no GPU here, so nothing is run; --tiny rehearses on the CPU", file=sys.stderr)
        return 2
    from benchmarks.gpu.alone import HEAVY

    multiprocessing.set_forkserver_preload(HEAVY)
    name = machine_name(given.tiny)
    print(HEADER, flush=True)
    began, met, bars, failed = time.monotonic(), 0, 0, False
    for section in given.sections or SECTIONS:
        start = time.monotonic()
        left = given.seconds - (start - began)
        # A rehearsal may have to share its cores.
        limit = 600.0 if given.tiny else min(SECTIONS[section].seconds, left)
        rows, failure = measure(section, given.tiny, limit) if limit > 5 else ([], "no time is left for it")
        seconds = time.monotonic() - start
        missing = [bar for bar in SECTIONS[section].bars if bar not in {row["what"] for row in rows}]
        if failure is None and missing:
            failure = f"not measured: {', '.join(missing)}"
        if failure is not None:
            words = " ".join(failure.split())[-300:]  # The end, where a traceback has its reason.
            print(f"| {section} | failed | | | **missed** | {words} |", flush=True)
            failed = True
        met, bars = met + sum(row["met"] is True for row in rows), bars + len(SECTIONS[section].bars)
        if given.json is not None:
            about = {"section": section, "seconds": round(seconds, 1), "failure": failure, "figures": rows}
            about |= {"machine": name, "torch": torch.__version__, "date": time.strftime("%Y-%m-%d %H:%M")}
            with given.json.open("a") as file:
                file.write(json.dumps(about, ensure_ascii=False) + "\n")
    if given.tiny:
        seconds = time.monotonic() - began
        print(f"rehearsed on a CPU in {seconds:.0f} s, {bars} bars not judged, torch {torch.__version__}")
        return int(failed)
    print(f"{met} of {bars} bars met on {name}, torch {torch.__version__}")
    return int(failed or met < bars)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # So that the section is ended, too.
    sys.exit(main(sys.argv[1:]))
