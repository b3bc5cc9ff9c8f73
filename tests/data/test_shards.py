"""Images cut and packed into shards, and training from them."""

import logging
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import numpy as np
import pytest
import torch
from moto.server import ThreadedMotoServer
from PIL import Image

from helpers.commands import Linf, assert_in_words, finish, start, wait_for
from helpers.images import noise, one_line, write
from helpers.runs import RANKS, SMOKE, same, state
from linf.data.crops import SRBatch
from linf.data.datamodule import SRDataModule
from linf.data.layouts import ImageSet
from linf.data.packing import Cut, cut_tiles, decode_pixels, encode_pixels, pack
from linf.data.samplers import MIXED, EpochSampler
from linf.data.shards import Shards, ShardSet
from linf.errors import UsageError
from linf.images.read import read_image

CUT = Cut(size=32, overlap=4, min_side=16, per_shard=5)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Eight images of 40 to 68 pixels a side."""
    folder = tmp_path_factory.mktemp("photos")
    return [write(folder / f"{i}.png", 40 + 4 * i, 52) for i in range(8)]


@pytest.fixture(scope="module")
def shards(photos: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "shards"
    pack(photos, out, CUT)
    return out


@pytest.fixture(scope="module")
def extracted(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    """The sub-images as files, in their order."""
    folder, paths = tmp_path_factory.mktemp("extracted"), []
    for i, pixels in enumerate(Shards(str(shards))):
        paths.append(folder / f"{i:03}.png")
        Image.fromarray(pixels).save(paths[-1])
    return ImageSet("extracted", tuple(paths))


@pytest.fixture(scope="module")
def bucket(shards: Path) -> Iterator[str]:
    """The address of the shards on an S3 server of this machine."""
    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "made-up",
        "AWS_SECRET_ACCESS_KEY": "made-up",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        client = boto3.client("s3")
        client.create_bucket(Bucket="photos")
        for file in shards.iterdir():
            client.upload_file(str(file), "photos", f"packed/{file.name}")
        yield "s3://photos/packed"
    server.stop()


# Packing


def test_sub_images_cover_an_image_at_even_distances() -> None:
    rows, columns = np.meshgrid(np.arange(100), np.arange(71), indexing="ij")
    image = np.stack([rows, columns, rows + columns], axis=-1).astype(np.uint8)
    found = list(cut_tiles(image, 32, 8))
    assert all(tile.shape == (32, 32, 3) for tile in found)
    corners = [tuple(tile[0, 0, :2].tolist()) for tile in found]
    assert corners == [(y, x) for y in (0, 23, 45, 68) for x in (0, 20, 39)]
    assert [tile.shape for tile in cut_tiles(image, 80, 0)] == [(80, 71, 3)] * 2
    assert [tile.shape for tile in cut_tiles(image, 100, 99)] == [(100, 71, 3)]


@pytest.mark.parametrize(
    "image", [noise(9, 7), noise(9, 7, 1), noise(5, 4, 5), np.full((3, 3, 1), 65535, np.uint16)]
)
@pytest.mark.parametrize("raw", [False, True])
def test_pixels_come_back_as_they_were(image: np.ndarray, raw: bool) -> None:
    back = decode_pixels(encode_pixels(image, raw))
    assert (back.dtype, back.shape) == (image.dtype, image.shape)
    assert np.array_equal(back, image)
    assert not back.flags.writeable


def test_shards_hold_every_sub_image_once(photos: list[Path], shards: Path) -> None:
    expected = sorted(t.tobytes() for path in photos for t in cut_tiles(read_image(path), 32, 4))
    packed = Shards(str(shards))
    assert sorted(pixels.tobytes() for pixels in packed) == expected
    assert (packed.facts.images, packed.facts.sub_images) == (8, len(expected))
    assert packed.shortest_side == 32
    assert packed.facts.gigabytes == pytest.approx(sum(map(len, expected)) / 1e9)
    assert len(list(shards.glob("*.bin"))) == -(-len(expected) // 5)
    # Not in the order of the files.
    assert [p.tobytes() for p in packed] != [
        t.tobytes() for f in photos for t in cut_tiles(read_image(f), 32, 4)
    ]


def test_packing_leaves_out_and_names_what_cannot_be_cut(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good, small, broken = (write(tmp_path / f"{n}.png", s, 40) for n, s in (("a", 40), ("s", 15), ("b", 40)))
    broken.write_bytes(b"no image")
    with caplog.at_level(logging.WARNING):
        assert pack([good, small, broken], tmp_path / "out", CUT).images == 1
    assert "s.png has 15 x 40 pixels, below 16" in caplog.text
    assert "b.png" in caplog.text
    with pytest.raises(UsageError, match="none of 2 images"):
        pack([small, broken], tmp_path / "none", CUT)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png", "out", "s.png"]


def test_shards_that_are_replaced_stay_until_the_new_ones_are_in_place(
    tmp_path: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pack(photos, tmp_path / "out", CUT)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    rename = Path.replace

    def full(path: Path, target: Path) -> Path:
        if path.name == ".out.part":
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(UsageError, match="No space left"):
        pack(photos[:4], tmp_path / "out", CUT, replace=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    monkeypatch.undo()
    assert pack(photos[:4], tmp_path / "out", CUT, replace=True).images == 4
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_linf_shard(run: Linf, tmp_path: Path, photos: list[Path]) -> None:
    cut = ("--size", "32", "--overlap", "4", "--min-side", "44")
    done = run("shard", photos[0].parent, "out", *cut, "--raw")
    assert done.status == 0, done.err
    count = sum(len(list(cut_tiles(read_image(path), 32, 4))) for path in photos[1:])
    assert done.out.startswith(f"out, 7 images as {count} sub-images, ")
    assert "0.png has 40 x 52 pixels" in done.err
    raw = Shards(str(tmp_path / "out"))
    assert raw.facts.per_shard == 128
    again = run("shard", photos[0].parent, "out", "--size", "20", "--overlap", "0")
    assert_in_words(again.status, again.out, again.err, "out exists", "--force")
    assert run("shard", photos[0].parent, "out", "--size", "20", "--overlap", "0", "--force").status == 0
    assert Shards(str(tmp_path / "out")).shortest_side == 20
    wrong = run("shard", photos[0].parent, "new", "--overlap", "480")
    assert_in_words(wrong.status, wrong.out, wrong.err, "--overlap 480", "--size 480")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "thesis.txt").touch()
    kept = run("shard", photos[0].parent, "kept", "--force")
    assert_in_words(kept.status, kept.out, kept.err, "kept exists")
    assert (tmp_path / "kept" / "thesis.txt").exists()


# Reading


def test_what_is_no_folder_of_shards_says_so(tmp_path: Path, shards: Path, bucket: str) -> None:
    for root in (str(tmp_path), "s3://photos/nowhere", "s3://nobody/packed"):
        with pytest.raises(UsageError, match=f"no shards in {root}.*linf shard FOLDER OUT") as error:
            Shards(root, cache_dir=str(tmp_path))
        one_line(error)
    with pytest.raises(UsageError, match=r"32 pixels on its shorter side.*--min-side 48"):
        Shards(str(shards), min_side=48)
    with pytest.raises(UsageError, match=r"data\.root is \['a', 'b'\]: give one folder"):
        ShardSet(["a", "b"])  # type: ignore[arg-type]
    shutil.copytree(shards, tmp_path / "torn")
    (tmp_path / "torn" / "chunk-0-1.bin").unlink()
    with pytest.raises(UsageError, match=r"chunk-0-1\.bin is not in .*torn"):
        Shards(str(tmp_path / "torn"))[5]


@pytest.mark.parametrize("whole", [True, False])
def test_object_storage_gives_what_a_folder_does(
    shards: Path, bucket: str, tmp_path: Path, whole: bool
) -> None:
    stored = Shards(bucket, whole=whole, cache_dir=str(tmp_path))
    order = np.random.default_rng(0).permutation(len(stored)).tolist()
    assert all(np.array_equal(stored[i], Shards(str(shards))[i]) for i in order)
    here = len(list((tmp_path / "shards").rglob("*.bin")))
    assert here == (len(stored.files) if whole else 0)


def test_shards_of_an_object_storage_make_room_for_each_other(
    bucket: str, shards: Path, tmp_path: Path
) -> None:
    largest = max(file.stat().st_size for file in shards.glob("*.bin"))
    stored, local = (
        Shards(bucket, whole=True, cache_dir=str(tmp_path), limit=2.5 * largest / 1e9),
        Shards(str(shards)),
    )
    for i in [*range(len(stored)), *range(0, len(stored), 4)]:
        assert np.array_equal(stored[i], local[i])
        here = [file.stat().st_size for file in (tmp_path / "shards").rglob("*.bin")]
        assert sum(here) <= 2.5 * largest
    assert len(here) == 2


def test_too_little_room_for_what_is_read_at_a_time_is_told(
    bucket: str, shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def told(root: str, **settings: object) -> str:
        caplog.clear()
        data = SRDataModule(ShardSet(root), batch_size=2, crop=8, queries=4, **settings)  # type: ignore[arg-type]
        data.setup("fit")
        return "".join(record.getMessage() for record in caplog.records if record.name == "linf.data.shards")

    enough = sum(file.stat().st_size for file in shards.glob("*.bin")) / 1e9
    settings = {"cache_dir": str(tmp_path), "shuffle_block": 5}
    text = told(bucket, cache_limit=0.9 * enough, **settings)
    assert "2 samples a batch are read from up to" in text
    assert "raise it, or set data.shuffle_block=null" in text
    assert not told(bucket, cache_limit=1.1 * enough, **settings)
    assert not told(bucket, cache_limit=0.9 * enough, **(settings | {"shuffle_block": None}))
    assert not told(str(shards), cache_limit=0.9 * enough, **settings)


def test_without_litdata_both_say_how_to_get_it(
    photos: list[Path], shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("litdata", "litdata.streaming"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=r"linf shard needs LitData: pip install 'linf\[shards\]'"):
        pack(photos, tmp_path / "out", CUT)
    with pytest.raises(UsageError, match=r"data=shards needs LitData: pip install 'linf\[shards\]'"):
        Shards("s3://photos/packed", cache_dir=str(tmp_path))


def test_another_set_of_shards_at_an_address_is_noticed(
    bucket: str, photos: list[Path], shards: Path, tmp_path: Path
) -> None:
    first = Shards(bucket, whole=True, cache_dir=str(tmp_path))
    assert first[0].shape == (32, 32, 3)
    pack(photos, tmp_path / "other", Cut(size=24, overlap=0, per_shard=5, min_side=1))
    client = boto3.client("s3")
    try:
        for file in (tmp_path / "other").iterdir():
            client.upload_file(str(file), "photos", f"packed/{file.name}")
        assert Shards(bucket, whole=True, cache_dir=str(tmp_path))[0].shape == (24, 24, 3)
    finally:
        for file in shards.iterdir():
            client.upload_file(str(file), "photos", f"packed/{file.name}")


# The order by shards


def ordered(length: int, **settings: object) -> np.ndarray:
    """A rank's first epoch, (batches, batch_size)."""
    sampler = EpochSampler(length, seed=0, **settings)  # type: ignore[arg-type]
    return np.reshape(list(sampler), (sampler.batches, -1))


def test_an_order_by_shards_has_every_sample_once() -> None:
    found = ordered(3 * 48, batch_size=4, images=48, block=5)
    assert sorted(found.ravel()) == list(range(3 * 48))
    assert not np.array_equal(np.sort(found.ravel()), found.ravel())
    partial = ordered(3 * 48, batch_size=4, images=48, block=5, batches=10)
    assert len(set(partial.ravel())) == 40


def test_an_order_by_shards_stays_in_few_of_them_and_mixes_all() -> None:
    images, block, places = 4096, 16, 8
    found = ordered(images, batch_size=places, images=images, block=block)
    for place in found.T:  # What one place in the batch reads.
        shards = place // block
        assert len(set(shards)) <= images / block / places + MIXED
        # A shard comes, stays for a while and does not come back.
        spans = [np.ptp(np.flatnonzero(shards == shard)) for shard in set(shards)]
        assert max(spans) < MIXED * block
    assert np.mean([len(set(batch // block)) for batch in found]) == places
    second = list(
        EpochSampler(images, seed=0, batch_size=places, images=images, block=block, position=lambda: 512)
    )
    assert sorted(i - images for i in second) == list(range(images))
    assert [i - images for i in second] != found.ravel().tolist()


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_share_an_order_by_shards(world_size: int) -> None:
    settings = {"images": 640, "block": 16}
    alone = ordered(640, batch_size=8, **settings)
    shares = [
        ordered(640, batch_size=8 // world_size, rank=r, world_size=world_size, **settings)
        for r in range(world_size)
    ]
    assert np.array_equal(np.concatenate(shares, axis=1), alone)
    read = [set((share // 16).ravel()) for share in shares]
    # But for the windows where their stretches meet.
    assert sum(map(len, read)) <= 40 + (world_size - 1) * MIXED


def test_an_order_of_very_many_samples_takes_little_memory() -> None:
    begun = time.perf_counter()
    sampler = EpochSampler(10**9, seed=0, batch_size=16, world_size=64, batches=100, images=10**9, block=1024)
    assert len(set(sampler)) == 1600
    assert time.perf_counter() - begun < 5


# Training


def batches(train: ImageSet | ShardSet, **settings: object) -> list[SRBatch]:
    """The first so many batches, of two epochs."""
    data = SRDataModule(train, batch_size=2, crop=8, queries=4, batches_per_epoch=7, **settings)  # type: ignore[arg-type]
    data.setup("fit")
    first = data.initial_batches(1)  # Opens the shards before the loader forks.
    position = [0]
    loader = data.train_dataloader()
    loader.sampler.position = lambda: position[0]  # type: ignore[attr-defined]
    found = list(loader)
    position[0] = 7
    return first + found + list(loader)


def assert_equal(some: list[SRBatch], others: list[SRBatch]) -> None:
    for one, other in zip(some, others, strict=True):
        assert all(map(torch.equal, one, other))


@pytest.mark.parametrize("block", [None, 5])
@pytest.mark.parametrize("workers", [0, 2])
def test_samples_are_those_of_the_cache(
    extracted: ImageSet, shards: Path, bucket: str, tmp_path: Path, block: int | None, workers: int
) -> None:
    settings = {"shuffle_block": block, "num_workers": workers, "cache_dir": str(tmp_path)}
    cached = batches(extracted, **settings)
    assert len(cached) == 15
    assert_equal(cached, batches(ShardSet(str(shards)), **settings))
    assert_equal(cached, batches(ShardSet(bucket), **settings))
    with pytest.raises(AssertionError):
        assert_equal(
            cached, batches(extracted, **(settings | {"shuffle_block": 5 if block is None else None}))
        )


def test_the_order_without_shards_has_not_changed() -> None:
    sampler = EpochSampler(20, seed=3, batch_size=4, images=10)
    assert list(sampler) == np.random.default_rng((3, 0)).permutation(20).tolist()


@pytest.mark.parametrize(
    "ranks", [pytest.param((), marks=pytest.mark.slow), pytest.param(RANKS, marks=pytest.mark.thorough)]
)
def test_a_run_on_shards_killed_and_resumed_ends_as_one_on_the_cache(
    extracted: ImageSet, bucket: str, tmp_path: Path, ranks: tuple[str, ...]
) -> None:
    arguments = [*SMOKE, *ranks, "data.batches_per_epoch=5", "data.shuffle_block=5", "data.val_limit=2"]
    arguments += ["data.num_workers=1", "data.val_scales=[2]", "~callbacks.panels"]
    killed = tmp_path / "killed"
    from_shards = ["data=shards", f"data.root={bucket}", f"hydra.run.dir={killed}"]
    process = start(*arguments, *from_shards, "trainer.max_epochs=60", cwd=tmp_path)
    wait_for(killed / "checkpoints" / "last.ckpt", process)
    time.sleep(0.3)
    process.kill()
    process.communicate()
    done = state(killed / "checkpoints" / "last.ckpt")["global_step"]
    assert 5 <= done < 100
    length = f"trainer.max_epochs={done // 5 + 2}"
    resumed = finish(*arguments, *from_shards, length, cwd=tmp_path)
    assert resumed.status == 0, resumed.err
    all_images = "data.val={_target_: linf.data.sources.bundled, split: heldout}"
    from_cache = ["data=folder", f"data.root={extracted.hr[0].parent}", all_images, "hydra.run.dir=whole"]
    whole = finish(*arguments, *from_cache, length, cwd=tmp_path)
    assert whole.status == 0, whole.err
    ends = [state(run / "checkpoints" / "last.ckpt") for run in (tmp_path / "whole", killed)]
    assert ends[0]["global_step"] == ends[1]["global_step"] == done // 5 * 5 + 10
    for part in ("state_dict", "current_model_state", "averaging_state", "optimizer_states", "lr_schedulers"):
        assert same(ends[0][part], ends[1][part]), part
    assert "Traceback" not in resumed.err


def test_two_processes_do_not_write_the_same_shards(
    photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"

    def read(path: Path) -> np.ndarray:
        monkeypatch.undo()  # For one image.
        with pytest.raises(UsageError, match="another process is writing shards to"):
            pack(photos[:1], out, CUT)
        return read_image(path)

    monkeypatch.setattr("linf.data.packing.read_image", read)
    pack(photos[:2], out, CUT)
    assert Shards(str(out)).facts.images == 2
    assert {path.name for path in out.iterdir() if path.name.startswith(".")} == set()


KILLED_PACKING = """
import sys
from pathlib import Path
from linf.data import packing
write = packing.encode_pixels
def slow(*given):
    import time
    time.sleep(0.2)
    return write(*given)
packing.encode_pixels = slow
packing.pack(sorted(Path(sys.argv[1]).glob("*.png")), Path(sys.argv[2]), packing.Cut(size=32, min_side=16, overlap=4))
"""


@pytest.mark.slow
def test_a_killed_packing_leaves_no_shards_and_can_begin_again(
    run: Linf, tmp_path: Path, photos: list[Path]
) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-c", KILLED_PACKING, str(photos[0].parent), str(out)])
    limit = time.monotonic() + 60
    while not (tmp_path / ".out.part").exists():
        assert time.monotonic() < limit
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not out.exists()
    assert (
        run("shard", photos[0].parent, "out", "--size", "32", "--min-side", "16", "--overlap", "4").status
        == 0
    )
    assert len(Shards(str(out))) > 8
    assert not (tmp_path / ".out.part").exists()
