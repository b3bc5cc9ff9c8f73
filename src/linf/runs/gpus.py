"""Which GPUs of this machine a job uses: free ones, a lock held on each before CUDA starts.

Without it every job of one device, of a sweep or of several commands, would use the first GPU.
"""

import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from linf.locks import try_lock
from linf.runs import ranks

log = logging.getLogger(__name__)

VISIBLE = "CUDA_VISIBLE_DEVICES"
_held: dict[str, IO[str]] = {}
"""Of this process: GPUs that CUDA has started on stay its own until its end, for it cannot change them."""


@contextmanager
def free_gpus(accelerator: Any, devices: Any) -> Iterator[list[str]]:
    """Let this process, and those that it starts, see as many free GPUs as it needs, during the block.

    It waits until there are enough. Slurm and torchrun choose GPUs by themselves, and who names devices or asks for all
    has chosen, too. Locks end with the process.

    Args:
        accelerator: Of the trainer; none but a GPU needs any.
        devices: Of the trainer; their number.

    Yields:
        The GPUs, as `visible_gpus` names them; none where nothing was chosen here.
    """
    if os.environ.get("SUBMITIT_EXECUTOR") == "local" and not os.environ.get(VISIBLE):
        os.environ.pop(VISIBLE, None)  # Submitit hides all GPUs unless it was told of some.
    count = int(devices) if str(devices).isdigit() else 0
    by_others = ranks.is_slurm_task() or ranks.started_by_torchrun() or ranks.launched()
    known = [] if accelerator not in ("gpu", "cuda", "auto") or by_others or not count else visible_gpus()
    if not 0 < count <= len(known):  # Lightning says what there is.
        yield []
        return
    chosen, before = _take(known, count), os.environ.get(VISIBLE)
    os.environ[VISIBLE] = ",".join(chosen)
    log.info("on GPU %s", ", ".join(chosen))
    try:
        yield chosen
    finally:
        if not _cuda_started():
            for gpu in chosen:
                _held.pop(gpu).close()
            os.environ.pop(VISIBLE) if before is None else os.environ.update({VISIBLE: before})


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, by UUID if the driver tells; asking does not start CUDA.

    The driver lists them by their place in the machine, but CUDA counts from the fastest on, unless CUDA_DEVICE_ORDER
    is PCI_BUS_ID. GPUs of different models go by CUDA's numbers then.
    """
    listed: list[str] = []
    if shutil.which("nvidia-smi"):
        with suppress(OSError, subprocess.TimeoutExpired):
            listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60).stdout
            found = re.findall(r"^GPU \d+:(.*)\(UUID: ([\w-]+)\)", listing, re.MULTILINE)
            listed = [uuid for _, uuid in found]
            if len({model for model, _ in found}) > 1 and os.environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
                listed = [str(number) for number in range(len(found))]
    given = os.environ.get(VISIBLE)
    if given is None or _held:
        return listed
    return list(_named(given, listed))


def _named(given: str, listed: list[str]) -> Iterator[str]:
    """Yield the GPUs of ``CUDA_VISIBLE_DEVICES`` as CUDA reads it, by the names that other commands lock them by."""
    for name in (part.strip() for part in given.split(",")):
        if name in ("", "-1") or (listed and name.isdigit() and int(name) >= len(listed)):
            return  # Of the others CUDA sees none.
        if name.isdigit() and listed:
            yield listed[int(name)]
        else:  # A UUID may be given by its beginning.
            whole = [uuid for uuid in listed if uuid.startswith(name)]
            yield whole[0] if len(whole) == 1 else name


def _take(known: list[str], count: int) -> list[str]:
    """Lock ``count`` of these GPUs, all or none at a time, as soon as they are free."""
    if _held:  # CUDA has started on them.
        return list(_held)[:count]
    folder, waiting = Path(tempfile.gettempdir()) / "linf-gpus", False
    folder.mkdir(exist_ok=True)
    with suppress(PermissionError):  # Another user has made it.
        folder.chmod(0o1777)
    while True:
        locked: dict[str, IO[str]] = {}
        for gpu in known:
            if len(locked) < count and (file := try_lock(folder / gpu.replace("/", "_"))) is not None:
                locked[gpu] = file
        if len(locked) == count:
            _held.update(locked)
            return list(locked)
        for file in locked.values():
            file.close()
        if not waiting:
            waiting = True
            log.warning("waiting for %d of %d GPUs: the others are in use by other runs", count, len(known))
        time.sleep(1)


def _cuda_started() -> bool:
    return "torch" in sys.modules and sys.modules["torch"].cuda.is_initialized()
