"""The command ``linf shard``: images cut and packed, for training on more than a disk holds decoded."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from linf.cli.options import add_command, check_image_folders
from linf.errors import UsageError


def add_shard(commands: Any) -> None:
    parser = add_command(commands, "shard", _shard, "cut images and pack them for training with data=shards")
    parser.add_argument("folder", metavar="FOLDER", help="folder of images, with its subfolders")
    parser.add_argument("out", type=Path, metavar="OUT", help="new folder for the shards")
    parser.add_argument(
        "--size", type=int, default=480, metavar="N", help="side of a sub-image, in pixels (default: 480)"
    )
    parser.add_argument(
        "--overlap",
        type=int,
        default=48,
        metavar="N",
        help="least overlap of neighbouring sub-images, in pixels (default: 48)",
    )
    parser.add_argument(
        "--min-side",
        type=int,
        default=48,
        metavar="N",
        help="leave out images with a side below N pixels (default: 48)",
    )
    parser.add_argument(
        "--per-shard", type=int, default=128, metavar="N", help="sub-images in a shard (default: 128)"
    )
    parser.add_argument(
        "--raw",
        action="store_true",
        help="store pixels uncompressed: takes twice the space, but nothing has to be decoded in training",
    )
    parser.add_argument("--force", action="store_true", help="replace the shards in OUT")


def _shard(given: Namespace) -> None:
    """Cut images into overlapping sub-images and pack them, without loss, into shards. Train on them with data=shards
    data.root=OUT.

    You can also copy the shards to object storage, and train with data.root=s3://bucket/OUT.
    """
    import logging

    from linf.data.packing import INDEX, Cut, pack
    from linf.data.sources import image_folder

    check_image_folders([given.folder], "FOLDER")
    cut = Cut(given.size, given.overlap, given.min_side, given.per_shard, given.raw)
    out = Path(given.out).absolute()
    there = out.exists() and (out.is_file() or any(out.iterdir()))
    if there and not (given.force and (out / INDEX).is_file()):
        raise UsageError(f"{given.out} exists: choose another name, or --force to replace shards")
    ours, to_stderr = logging.getLogger("linf"), logging.StreamHandler()
    ours.setLevel(logging.INFO)
    ours.addHandler(to_stderr)
    try:
        facts = pack(image_folder(given.folder).hr, out, cut, replace=there)
    finally:
        ours.removeHandler(to_stderr)
    size, decoded = sum(file.stat().st_size for file in out.iterdir()), int(facts.gigabytes * 1e9)
    count = f"{facts.images:,} images as {facts.sub_images:,} sub-images"
    print(f"{given.out}, {count}, {decimal(size)} ({decimal(decoded)} decoded)")
