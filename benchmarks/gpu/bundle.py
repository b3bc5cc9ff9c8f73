"""All for the acceptance on a machine without a network: ``python -m benchmarks.gpu.bundle [FOLDER] [--python 3.12]``.

The folder holds this project and the packages that an image with PyTorch seldom has, as wheels; the code of the
benchmarks, ``conf``, the entry points, the reference arrays and, where `linf weights fetch alexnet` has been run,
AlexNet's features for LPIPS. It does not hold torch, torchvision, NumPy, pandas, matplotlib or scikit-image. There,
``run.sh`` installs the wheels beside themselves and runs the acceptance.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from linf.checkpoints.pretrained import KNOWN, weights_folder, weights_state

ROOT = Path(__file__).parents[2]
WHEELS = (
    "hydra-core",
    "hydra-joblib-launcher",
    "omegaconf",
    "lpips",
    "kornia",
    "kornia_rs",
    "pytorch-lightning",
    "torchmetrics",
    "lightning-utilities",
)
"""Packages that are carried, each in the version that is installed here."""
SOURCES = ("antlr4-python3-runtime",)
"""Packages that have no wheel: one is built."""
PLATFORMS = (
    "manylinux_2_28_x86_64",
    "manylinux_2_27_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
)
CODE = ("benchmarks", "conf", "train.py", "eval.py", "tests/reference")
PROJECT = ("pyproject.toml", "README.md", "LICENSE", "src")
"""What this project's own wheel is built from."""
MOST = 60 * 10**6
"""Bytes that a bundle may have."""

RUN = """\
#!/usr/bin/env bash
# Install the wheels beside themselves and run the acceptance: ./run.sh [section …] [--json FILE] [--tiny]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
# A folder and not an environment: one made from within another would not see that one's torch.
python3 -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target site wheels/*.whl
export PYTHONPATH="$PWD/site:$PWD" LINF_CACHE="$PWD/cache"
exec python3 -m benchmarks.gpu "$@"
"""


def bundle(folder: Path, python: str) -> int:
    """Write the bundle for a version of Python on x86-64 Linux; its size in bytes."""
    shutil.rmtree(folder, ignore_errors=True)
    wheels = folder / "wheels"
    wheels.mkdir(parents=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    with (
        tempfile.TemporaryDirectory() as clean
    ):  # In its own folder setuptools would pack what earlier builds left.
        for name in PROJECT:
            _copy(ROOT / name, Path(clean) / name)
        built = [clean, *(f"{name}=={version(name)}" for name in SOURCES)]
        subprocess.run([*pip, "wheel", "--quiet", "--no-deps", f"--wheel-dir={wheels}", *built], check=True)
    target = [
        "--implementation=cp",
        f"--python-version={python}",
        *(f"--platform={name}" for name in PLATFORMS),
    ]
    wanted = [f"{name}=={version(name)}" for name in WHEELS]
    options = ["--quiet", "--no-deps", "--only-binary=:all:", f"--dest={wheels}"]
    subprocess.run([*pip, "download", *options, *target, *wanted], check=True)
    for name in CODE:
        _copy(ROOT / name, folder / name)
    if weights_state("alexnet") == "ready":
        file = weights_folder() / KNOWN["alexnet"].file
        (folder / "cache" / "weights").mkdir(parents=True)
        shutil.copy(file, folder / "cache" / "weights")
    else:
        print(
            "without AlexNet's features, LPIPS will not be measured: run `linf weights fetch alexnet` first"
        )
    (folder / "run.sh").write_text(RUN)
    (folder / "run.sh").chmod(0o755)
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    else:
        shutil.copy(source, target)


def main() -> int:
    """Write a bundle, and say how large it is; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu.bundle", description=__doc__.split("\n")[0]
    )
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "dist" / "gpu-bundle")
    parser.add_argument(
        "--python", default="3.12", metavar="VERSION", help="of the other machine (default: 3.12)"
    )
    given = parser.parse_args()
    size = bundle(given.folder, given.python)
    print(f"{given.folder}: {size / 1e6:.1f} MB; there: ./run.sh --json figures.json")
    if size > MOST:
        print(f"error: a bundle may have {MOST / 1e6:.0f} MB", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
