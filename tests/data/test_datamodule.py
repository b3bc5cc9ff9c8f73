"""The order of samples, their independence of workers and ranks, and exact resumption."""

import hashlib
import itertools
import logging
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.callbacks import Callback

from linf.data.crops import SRBatch
from linf.data.datamodule import SRDataModule
from linf.data.samplers import EpochSampler
from linf.data.sources import ImageSet
from linf.errors import UsageError


def images(root: Path, count: int = 3, side: int = 40) -> ImageSet:
    rng = np.random.default_rng(0)
    paths = []
    for i in range(count):
        paths.append(root / f"{i}_{side}.png")
        if not paths[-1].exists():
            Image.fromarray(rng.integers(0, 256, (side, side + i, 3), np.uint8)).save(paths[-1])
    return ImageSet("made", tuple(paths))


def datamodule(root: Path, **kwargs: object) -> SRDataModule:
    settings = {"batch_size": 2, "crop": 8, "queries": 4, "batches_per_epoch": 4, "cache_dir": str(root)}
    return SRDataModule(images(root), images(root), **(settings | kwargs))  # type: ignore[arg-type]


def digest(batch: SRBatch) -> str:
    return hashlib.sha256(b"".join(t.numpy().tobytes() for t in batch)).hexdigest()[:12]


@pytest.mark.parametrize(("qualities", "warned"), [((60, 75, 98), "quality 67 or so"), ((60, 95, 98), None)])
def test_training_images_that_are_strongly_compressed_are_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, qualities: tuple[int, ...], warned: str | None
) -> None:
    paths = tuple(tmp_path / f"{quality}.jpg" for quality in qualities)
    for path, quality in zip(paths, qualities, strict=True):
        Image.new("RGB", (40, 40)).save(path, quality=quality)
    data = SRDataModule(ImageSet("made", paths), crop=8, cache_dir=str(tmp_path))
    with caplog.at_level(logging.WARNING):
        data.setup("fit")
    assert [warned in line for line in caplog.messages] == [True] if warned else not caplog.messages


# EpochSampler


def test_an_epoch_is_a_permutation_offset_by_its_number() -> None:
    sampler = EpochSampler(12, seed=0, batch_size=3)
    assert len(sampler) == 12
    assert sorted(sampler) == list(range(12))
    second = list(EpochSampler(12, seed=0, batch_size=3, position=lambda: 4))
    assert sorted(second) == list(range(12, 24))
    assert [i - 12 for i in second] != list(sampler)
    assert list(sampler) == list(sampler) != list(EpochSampler(12, seed=1, batch_size=3))


def test_the_incomplete_batch_is_dropped() -> None:
    sampler = EpochSampler(11, seed=0, batch_size=2, world_size=2)
    assert (len(sampler), len(list(sampler)), sampler.batches) == (4, 4, 2)


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_together_see_what_one_would(world_size: int) -> None:
    def batches(size: int, rank: int, world_size: int) -> list[list[int]]:
        found = list(EpochSampler(26, seed=3, batch_size=size, rank=rank, world_size=world_size))
        return [found[i : i + size] for i in range(0, len(found), size)]

    alone = batches(8, 0, 1)
    shares = [batches(8 // world_size, rank, world_size) for rank in range(world_size)]
    assert [list(itertools.chain(*step)) for step in zip(*shares, strict=True)] == alone


@pytest.mark.parametrize("start", [0, 1, 3, 4, 9])
def test_iteration_starts_at_the_position(start: int) -> None:
    stream = [i for e in range(4) for i in EpochSampler(9, seed=0, batch_size=2, position=lambda e=e: 4 * e)]
    found = list(EpochSampler(9, seed=0, batch_size=2, position=lambda: start))
    assert found == stream[2 * start : 2 * start + 8]


def test_an_epoch_without_a_full_batch_is_refused() -> None:
    with pytest.raises(UsageError, match="5 samples an epoch do not fill 1 batches of 2 × 3: raise repeat"):
        EpochSampler(5, seed=0, batch_size=3, world_size=2)
    with pytest.raises(UsageError, match="do not fill 3 batches"):
        EpochSampler(8, seed=0, batch_size=3, batches=3)


# SRDataModule


def test_workers_change_no_sample(tmp_path: Path) -> None:
    seen = []
    for workers in (0, 2):
        data = datamodule(tmp_path, num_workers=workers, patch_size=3)
        data.setup("fit")
        seen.append([digest(batch) for batch in data.train_dataloader()])
    assert seen[0] == seen[1]
    assert len(set(seen[0])) == 4


def test_epoch_has_the_batches_asked_for(tmp_path: Path) -> None:
    for batches, repeat, expected in ((7, 1, 7), (None, 4, 6), (2, 50, 2)):
        data = datamodule(tmp_path, batches_per_epoch=batches, repeat=repeat)
        data.setup("fit")
        loader = data.train_dataloader()
        assert (len(loader), len(list(loader))) == (expected, expected)


def test_initial_batches_are_fixed_and_not_trained_on(tmp_path: Path) -> None:
    first, again = (datamodule(tmp_path, num_workers=w).initial_batches(5) for w in (0, 2))
    assert [digest(b) for b in first] == [digest(b) for b in again]
    assert first[0].lr.shape == (2, 3, 8, 8)
    data = datamodule(tmp_path)
    data.setup("fit")
    assert not {digest(b) for b in first} & {digest(b) for b in data.train_dataloader()}


def test_many_ranks_initialise_from_no_more_than_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = datamodule(tmp_path, batch_size=64)
    whole = data.initial_batches(2)
    queries = whole[0].hr[0, 0].numel()
    monkeypatch.setattr("linf.data.datamodule.INITIAL_PATCHES", 2 * 5 * queries)
    assert [len(batch.lr) for batch in data.initial_batches(2)] == [5, 5]
    assert torch.equal(data.initial_batches(2)[0].hr, whole[0].hr[:5])
    monkeypatch.setattr("linf.data.datamodule.INITIAL_PATCHES", 1)
    assert [len(batch.lr) for batch in data.initial_batches(2)] == [1, 1]


def test_evaluation_loaders(tmp_path: Path) -> None:
    made = images(tmp_path)
    data = SRDataModule(
        None,
        made,
        [made, ImageSet("other", made.hr[:1])],
        val_scales=[2, 4],
        val_crop=16,
        val_limit=2,
        test_scales=[2.5],
        test_limit=2,
        cache_dir=str(tmp_path),
    )
    data.setup()
    (val,) = data.val_dataloader()
    assert [(p.scale, p.name, tuple(p.hr.shape)) for p in val] == [
        (s, name, (1, 3, 16, 16)) for s in (2.0, 4.0) for name in ("0_40", "1_40")
    ]
    tested = [(p.dataset, p.name, p.scale) for p in data.test_dataloader()]
    assert tested == [("made", "0_40", 2.5), ("made", "1_40", 2.5), ("other", "0_40", 2.5)]
    assert tested == [pairs.key(i) for pairs in data.test_pairs for i in range(len(pairs))]
    data.tested = {tested[0], tested[2]}
    assert [p.name for p in data.test_dataloader()] == ["1_40"]
    assert [p.name for p in data.test] == ["made", "other"]
    with pytest.raises(UsageError, match=r"set data\.train"):
        data.train_dataloader()
    with pytest.raises(UsageError, match=r"set data\.train"):
        data.initial_batches(1)


def test_given_lr_reaches_the_test_loader(tmp_path: Path) -> None:
    hr = images(tmp_path)
    (tmp_path / "lr").mkdir()
    lr = images(tmp_path / "lr", side=20)
    data = SRDataModule(
        test=ImageSet("given", hr.hr, {2.0: lr.hr}), test_scales=(2, 4), cache_dir=str(tmp_path)
    )
    data.setup("test")
    found = list(data.test_dataloader())
    assert (
        found[0]
        .lr.mul(255)
        .round()
        .byte()
        .equal(torch.from_numpy(np.array(Image.open(lr.hr[0]))).permute(2, 0, 1)[None])
    )
    assert found[3].lr.shape == (1, 3, 10, 10)


class OneRank(pl.Trainer):
    """A trainer that is one of several ranks, as far as a datamodule can tell."""

    def __init__(self, rank: int, world_size: int) -> None:
        super().__init__(accelerator="cpu", logger=False, enable_checkpointing=False)
        self.place = (rank, world_size)

    @property
    def global_rank(self) -> int:
        return self.place[0]

    @property
    def world_size(self) -> int:
        return self.place[1]


def test_ranks_share_images_and_batches_exactly(tmp_path: Path) -> None:
    def loaders(rank: int, world_size: int) -> tuple[list[str], list[torch.Tensor]]:
        data = datamodule(tmp_path, batch_size=6 // world_size, val_scales=(2, 3))
        data.trainer = OneRank(rank, world_size)
        data.setup()
        names = [f"{p.name} {p.scale}" for p in data.val_dataloader()[0]]
        return names, [batch.lr for batch in data.train_dataloader()]

    names, batches = loaders(0, 1)
    shares = [loaders(rank, 2) for rank in range(2)]
    assert sorted(shares[0][0] + shares[1][0]) == sorted(names)
    assert len(names) == 6
    for step, whole in enumerate(batches):
        assert torch.equal(torch.cat([share[1][step] for share in shares]), whole)


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_every_rank_gets_test_images_and_each_is_scored_once(tmp_path: Path, world_size: int) -> None:
    made = images(tmp_path)
    shares = []
    for rank in range(world_size):
        one = ImageSet("one", made.hr[:1])
        data = SRDataModule(test=[one, made], test_scales=[2], cache_dir=str(tmp_path))
        data.trainer = OneRank(rank, world_size)
        data.setup("test")
        shares.append([(p.dataset, p.name) for p in data.test_dataloader()])
    assert all(shares)
    assert sorted(itertools.chain(*shares)) == [
        ("made", "0_40"),
        ("made", "1_40"),
        ("made", "2_40"),
        ("one", "0_40"),
    ]


def test_more_ranks_than_validation_images_are_refused(tmp_path: Path) -> None:
    data = datamodule(tmp_path, val_scales=[2])
    data.trainer = OneRank(0, 4)
    data.setup("validate")
    with pytest.raises(UsageError, match=r"3 validation images, .* among 4 ranks"):
        data.val_dataloader()


@pytest.mark.parametrize(
    "wrong", [{"batch_size": 0}, {"num_workers": -1}, {"batches_per_epoch": 0}, {"val_limit": 0}]
)
def test_numbers_out_of_range_are_refused(tmp_path: Path, wrong: dict) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(wrong))} is"):
        datamodule(tmp_path, **wrong)


def test_missing_images_name_the_setting(tmp_path: Path) -> None:
    data = SRDataModule(cache_dir=str(tmp_path))
    data.setup()
    assert data.val_dataloader() == []
    with pytest.raises(UsageError, match=r"set data\.test"):
        data.test_dataloader()
    with pytest.raises(UsageError, match=r"set data\.train"):
        data.train_dataloader()


# Resuming


class Recorder(pl.LightningModule):
    """One weight, and the digests of the batches it was trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.seen: list[str] = []
        self.kill_at: int | None = None

    def training_step(self, batch: SRBatch, batch_idx: int) -> torch.Tensor:
        if self.kill_at == len(self.seen):
            os.kill(os.getpid(), signal.SIGKILL)
        self.seen.append(digest(batch))
        return self.weight * batch.lr.mean()

    def validation_step(self, batch: object, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


class SaveEverywhere(Callback):
    """A checkpoint at every point where one may be taken, named by the batches done and the hook."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, trainer: pl.Trainer, module: Recorder, hook: str) -> None:
        if not trainer.sanity_checking:
            trainer.save_checkpoint(self.folder / f"{len(module.seen)}-{hook}.ckpt")

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Recorder, *_: object) -> None:  # type: ignore[override]
        self.save(trainer, pl_module, "batch")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Recorder) -> None:  # type: ignore[override]
        self.save(trainer, pl_module, "validation")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Recorder) -> None:  # type: ignore[override]
        self.save(trainer, pl_module, "epoch")


def fit(
    data: SRDataModule, ckpt: Path | None = None, callbacks: tuple[Callback, ...] = (), **kwargs
) -> list[str]:
    module = Recorder()
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        callbacks=list(callbacks),
        **kwargs,
    )
    trainer.fit(module, data, ckpt_path=ckpt)
    return module.seen


@pytest.mark.parametrize("length", [{"max_epochs": 3}, {"max_steps": 12, "max_epochs": -1}])
@pytest.mark.parametrize("validation", [{"limit_val_batches": 0}, {"val_check_interval": 2}])
def test_resuming_from_any_checkpoint_goes_on_with_the_next_batch(
    tmp_path: Path, length: dict, validation: dict
) -> None:
    settings = length | validation
    whole = fit(datamodule(tmp_path), callbacks=(SaveEverywhere(tmp_path),), **settings)
    assert len(set(whole)) == 12
    checkpoints = sorted(tmp_path.glob("*.ckpt"))
    assert len(checkpoints) >= 15
    wrong = {}
    for checkpoint in checkpoints:
        done = int(checkpoint.stem.split("-")[0])
        rest = fit(datamodule(tmp_path), checkpoint, **settings)
        if rest != whole[done:]:
            wrong[checkpoint.stem] = [whole.index(batch) if batch in whole else None for batch in rest]
    assert not wrong


@pytest.mark.parametrize("checkpoint", ["2-batch", "4-batch", "5-batch", "8-epoch"])
def test_resuming_with_workers(tmp_path: Path, checkpoint: str) -> None:
    whole = fit(
        datamodule(tmp_path), callbacks=(SaveEverywhere(tmp_path),), max_epochs=3, limit_val_batches=0
    )
    rest = fit(datamodule(tmp_path, num_workers=2), tmp_path / f"{checkpoint}.ckpt", max_epochs=3)
    assert rest == whole[int(checkpoint[0]) :]


def test_a_second_resume_is_exact_too(tmp_path: Path) -> None:
    saver = (SaveEverywhere(tmp_path),)
    whole = fit(datamodule(tmp_path), callbacks=saver, max_epochs=3, limit_val_batches=0)
    (tmp_path / "again").mkdir()
    again = (SaveEverywhere(tmp_path / "again"),)
    fit(datamodule(tmp_path), tmp_path / "4-batch.ckpt", again, max_epochs=3, limit_val_batches=0)
    # Counted by the second run, which began after four batches.
    rest = fit(datamodule(tmp_path), tmp_path / "again" / "3-batch.ckpt", max_epochs=3, limit_val_batches=0)
    # Lightning takes the second resume for an epoch's start, so it trains longer, but on no other batches.
    assert rest[:5] == whole[7:]


KILLED = """
import sys
from pathlib import Path
from unittest import mock
sys.path.insert(0, sys.argv[1])
import test_datamodule as t
class Doomed(t.Recorder):
    def __init__(self):
        super().__init__()
        self.kill_at = 6
t.Recorder = Doomed
root = Path(sys.argv[2])
t.fit(t.datamodule(root, num_workers=2), callbacks=(t.SaveEverywhere(root),), max_epochs=3)
"""


@pytest.mark.slow
def test_a_killed_run_resumes_exactly(tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(tmp_path)]
    assert subprocess.run(arguments, timeout=120).returncode == -signal.SIGKILL
    last = max(tmp_path.glob("*.ckpt"))
    assert last.stem == "6-batch"
    whole = fit(datamodule(tmp_path), max_epochs=3)
    assert fit(datamodule(tmp_path), last, max_epochs=3) == whole[6:]


def test_resuming_in_mid_epoch_warns_of_nothing(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    fit(datamodule(tmp_path), callbacks=(SaveEverywhere(tmp_path),), max_epochs=1)
    fit(datamodule(tmp_path), tmp_path / "2-batch.ckpt", max_epochs=1)
    assert not [w for w in recwarn if "resum" in str(w.message)]


def test_resuming_with_another_order_warns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fit(datamodule(tmp_path), callbacks=(SaveEverywhere(tmp_path),), max_epochs=1)
    with caplog.at_level(logging.WARNING):
        fit(datamodule(tmp_path, seed=5), tmp_path / "2-batch.ckpt", max_epochs=1)
    assert "another order of samples than the interrupted one: seed 0 → 5" in caplog.text
    with caplog.at_level(logging.WARNING):
        fit(datamodule(tmp_path, batches_per_epoch=3, repeat=3), tmp_path / "2-batch.ckpt", max_epochs=1)
    assert "the interrupted one: batches_per_epoch 4 → 3" in caplog.text
    other = datamodule(tmp_path)
    assert isinstance(other.train, ImageSet)
    other.train = replace(other.train, name="others")
    with caplog.at_level(logging.WARNING):
        fit(other, tmp_path / "2-batch.ckpt", max_epochs=1)
    assert "trained on made, and the resumed one is on others: to go on with the same" in caplog.text


@pytest.mark.parametrize(("device", "pinned"), [("cpu", False), ("cuda", True)])
def test_memory_is_pinned_for_a_gpu_that_the_run_uses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, pinned: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # A GPU is there, used or not.
    data = datamodule(tmp_path)
    data.setup("fit")
    data.trainer = mock.MagicMock(global_rank=0, world_size=1)
    data.trainer.strategy.root_device = torch.device(device)
    assert [loader.pin_memory for loader in (data.train_dataloader(), *data.val_dataloader())] == [pinned] * 2
