"""`linf upscale` on files that are broken, lie or are odd: each an image or a line in words, none ends the run."""

import io
import os
import random
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from linf import cli

COUNT = 200
SUFFIX = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp", "TIFF": "tif", "BMP": "bmp"}
Maker = Callable[[random.Random, Path], Path]


def pixels(rng: random.Random, *shape: int, dtype: type = np.uint8) -> np.ndarray:
    high = np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else 1
    return (np.random.default_rng(rng.randrange(2**32)).random(shape) * high).astype(dtype)


def colour(rng: random.Random, mode: str = "RGB") -> Image.Image:
    return Image.fromarray(pixels(rng, rng.randint(2, 24), rng.randint(2, 24), 3)).convert(mode)


def encoded(rng: random.Random, form: str | None = None, **settings: object) -> tuple[str, bytes]:
    """A whole small image: its suffix and its bytes."""
    form = form or rng.choice(list(SUFFIX))
    content = io.BytesIO()
    colour(rng).save(content, form, **settings)
    return SUFFIX[form], content.getvalue()


def chunk(name: bytes, content: bytes, wrong: int = 0) -> bytes:
    check = (zlib.crc32(name + content) + wrong) % 2**32
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)


def png(
    width: int,
    height: int,
    data: bytes,
    *more: bytes,
    depth: int = 8,
    kind: int = 2,
    wrong: int = 0,
    end: bool = True,
) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0), wrong)
    body = b"".join(more) + chunk(b"IDAT", zlib.compress(data))
    return b"\x89PNG\r\n\x1a\n" + header + body + (chunk(b"IEND", b"") if end else b"")


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def named(path: Path, suffix: str) -> Path:
    return path.with_name(f"{path.name}.{suffix}")


def truncated(rng: random.Random, path: Path) -> Path:
    suffix, content = encoded(rng)
    return written(named(path, suffix), content[: rng.randrange(len(content))])


def flipped(rng: random.Random, path: Path) -> Path:
    suffix, content = encoded(rng)
    damaged = bytearray(content)
    for _ in range(rng.choice([1, 3, 30])):
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
    return written(named(path, suffix), bytes(damaged))


def mislabelled(rng: random.Random, path: Path) -> Path:
    _, content = encoded(rng)
    return written(named(path, rng.choice(["png", "jpg", "webp", "tif", "JPEG", "bmp"])), content)


def empty(rng: random.Random, path: Path) -> Path:
    return written(named(path, rng.choice(list(SUFFIX.values()))), b"")


def noise(rng: random.Random, path: Path) -> Path:
    magic = rng.choice(
        [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBP", b"II*\0", b"BM", b"GIF89a"]
    )
    return written(named(path, rng.choice(list(SUFFIX.values()))), magic + rng.randbytes(rng.randint(1, 300)))


def text(rng: random.Random, path: Path) -> Path:
    words = rng.choice(
        ["<html>404</html>", "version https://git-lfs.github.com/spec/v1\n", "%PDF-1.7", "%!PS-Adobe"]
    )
    return written(named(path, rng.choice(["png", "jpg", "tif"])), words.encode())


def bomb_header(rng: random.Random, path: Path) -> Path:
    side = rng.choice([20000, 60000, 65535])
    kind = rng.choice(["png", "bmp", "jpg", "tif", "webp"])
    if kind == "png":
        content = png(rng.choice([side, 2**31 - 1]), side, b"\0" * 100)
    elif kind == "bmp":
        content = b"BM" + struct.pack("<IIIIiiHHIIiiII", 70, 0, 54, 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0)
    elif kind == "jpg":
        _, whole = encoded(rng, "JPEG")
        at = whole.index(b"\xff\xc0")
        content = whole[: at + 5] + struct.pack(">HH", side, side) + whole[at + 9 :]
    elif kind == "tif":
        _, whole = encoded(rng, "TIFF")
        content = bytearray(whole)
        first, count = struct.unpack_from("<I", content, 4)[0], 0
        count = struct.unpack_from("<H", content, first)[0]
        for entry in range(first + 2, first + 2 + 12 * count, 12):
            if struct.unpack_from("<H", content, entry)[0] in (256, 257):
                struct.pack_into("<HII", content, entry + 2, 4, 1, side)
    else:
        extended = b"VP8X" + struct.pack("<IB3x", 10, 0) + (16383).to_bytes(3, "little") * 2
        content = b"RIFF" + struct.pack("<I", 4 + len(extended)) + b"WEBP" + extended
    return written(named(path, kind), bytes(content))


def bomb_data(rng: random.Random, path: Path) -> Path:
    side = 20000
    return written(named(path, "png"), png(side, side, b"\0" * (side // 8 + 1) * side, depth=1, kind=0))


def cmyk(rng: random.Random, path: Path) -> Path:
    form, suffix = rng.choice([("JPEG", "jpg"), ("TIFF", "tif")])
    profile = rng.choice([None, rng.randbytes(500), b"\0" * 16 + b"CMYK" + rng.randbytes(200)])
    settings = {} if profile is None else {"icc_profile": profile}
    colour(rng, "CMYK").save(path := named(path, suffix), form, **settings)
    return path


def animated(rng: random.Random, path: Path) -> Path:
    form, suffix = rng.choice([("GIF", "png"), ("WEBP", "webp"), ("PNG", "png"), ("TIFF", "tif")])
    first = colour(rng)
    others = [first.rotate(90 * n) for n in (1, 2, 3)]
    first.save(path := named(path, suffix), form, save_all=True, append_images=others)
    return path


def thin(rng: random.Random, path: Path) -> Path:
    shape = rng.choice([(1, rng.randint(1, 900)), (rng.randint(1, 900), 1)])
    Image.fromarray(pixels(rng, *shape, 3)).save(
        path := named(path, rng.choice(["png", "jpg", "webp", "tif"]))
    )
    return path


def palette(rng: random.Random, path: Path) -> Path:
    image = colour(rng).convert("P", palette=Image.Palette.ADAPTIVE, colors=rng.choice([2, 3, 16, 256]))
    clear = rng.choice([None, 0, 300, bytes(rng.randrange(256) for _ in range(rng.randint(0, 16)))])
    settings = {} if clear is None else {"transparency": clear}
    try:
        image.save(path := named(path, "png"), **settings)
    except (struct.error, ValueError):
        image.save(path)
    return path


def deep(rng: random.Random, path: Path) -> Path:
    """16 and 32 bits, floats, of one to five channels."""
    dtype = rng.choice([np.uint16, np.uint16, np.int16, np.int32, np.uint32, np.float32, np.float64])
    channels = rng.choice([(), (), (2,), (3,), (4,), (5,)])
    values = pixels(rng, 8, 9, *channels, dtype=dtype)
    if np.issubdtype(dtype, np.floating) and rng.random() < 0.5:
        values[0] = np.nan
    order = rng.choice("<>")
    kind = "rgb" if channels in ((3,), (4,)) else "minisblack"
    tifffile.imwrite(
        path := named(path, "tif"), values, photometric=kind, planarconfig="contig", byteorder=order
    )
    return path


def deep_png(rng: random.Random, path: Path) -> Path:
    kind = rng.choice([0, 2, 4, 6])
    row = 2 * 9 * {0: 1, 2: 3, 4: 2, 6: 4}[kind] + 1
    rows = b"".join(bytes([rng.randrange(5)]) + rng.randbytes(row - 1) for _ in range(8))
    return written(named(path, "png"), png(9, 8, rows, depth=16, kind=kind))


def exif_rubbish(rng: random.Random, path: Path) -> Path:
    form = rng.choice(["JPEG", "PNG", "WEBP"])
    exif = Image.Exif()
    exif[0x0112] = rng.choice([0, 3, 6, 9, 65535])
    exif[0x010F] = "x" * rng.choice([1, 60000])
    exif[0x8769] = {0x829A: 1, 0x927C: rng.randbytes(40)}
    content = rng.choice(
        [rng.randbytes(60), exif.tobytes(), exif.tobytes()[: rng.randint(8, 40)], b"MM\0*\0\0\0\x08"]
    )
    content = content if content.startswith(b"Exif") else b"Exif\0\0" + content
    suffix, whole = encoded(rng, form, exif=content)
    return written(named(path, suffix), whole)


def profiles(rng: random.Random, path: Path) -> Path:
    real = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    huge = real[:16] + b"RGB " + rng.randbytes(3_000_000)
    profile = rng.choice([huge, rng.randbytes(7), rng.randbytes(5000), real[:100], b"\0" * 16 + b"GRAY" * 9])
    suffix, whole = encoded(rng, rng.choice(["JPEG", "PNG", "WEBP", "TIFF"]), icc_profile=profile)
    return written(named(path, suffix), whole)


def odd_png(rng: random.Random, path: Path) -> Path:
    rows = (rng.choice([b"\0", b"\0", b"\5"]) + b"\x7f" * 12) * 4
    bomb = zlib.compress(b"\0" * 50_000_000)
    return written(
        named(path, "png"),
        rng.choice(
            [
                png(4, 4, rows, wrong=1),
                png(4, 4, rows, end=False),
                png(0, 4, rows),
                png(4, 4, rows, chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 9, 8, 2, 0, 0, 0))),
                png(4, 4, rows, chunk(b"tRNS", b"\1")),
                png(4, 4, rows, chunk(b"iCCP", b"x\0\0" + bomb)),
                png(4, 4, rows, chunk(b"zTXt", b"x\0\0" + bomb)),
                png(4, 4, rows[:20]),
                png(4, 4, rows, kind=3),
                png(4, 4, rows, kind=7),
                png(4, 4, rows, depth=13),
                png(4, 4, rows, chunk(b"PLTE", b"\1\2\3" * 300), kind=3),
                png(4, 4, rows, chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0))),
            ]
        ),
    )


def spaces(rng: random.Random, path: Path) -> Path:
    image = colour(rng, rng.choice(["YCbCr", "LAB", "1", "L"]))
    image.save(path := named(path, "tif"), compression=rng.choice(["raw", "tiff_lzw", "packbits"]))
    return path


def names(rng: random.Random, path: Path) -> Path:
    suffix, content = encoded(rng, "PNG")
    odd = os.fsdecode(
        rng.choice([b"line\nbreak", b"\xff\xfe", "größe 図".encode(), b"tab\t", b"-", b"a*[b]?", b"%s{}"])
    )
    return written(path.with_name(f"{path.name} {odd}.{suffix}"), content)


MAKERS: list[Maker] = [
    truncated,
    truncated,
    flipped,
    flipped,
    mislabelled,
    empty,
    noise,
    text,
    bomb_header,
    cmyk,
    animated,
    thin,
    palette,
    deep,
    deep,
    deep_png,
    exif_rubbish,
    profiles,
    odd_png,
    spaces,
    names,
]


def hostile(folder: Path, seed: int) -> list[Path]:
    """`COUNT` files of every kind."""
    rng = random.Random(seed)
    folder.mkdir()
    made = [bomb_data(rng, folder / "000bomb_data")]
    for n in range(1, COUNT):
        maker = MAKERS[n % len(MAKERS)]
        made.append(maker(rng, folder / f"{n:03}{maker.__name__}"))
    return made


def openable(path: Path) -> tuple[int, int]:
    with Image.open(path) as file:
        file.load()
        return file.size


def lines_by_file(err: str) -> Iterator[tuple[str, str]]:
    """Number of the file, and the line; the last line counts."""
    for line in err.splitlines()[:-1]:
        if line.startswith("note: in: left out: what cannot be read ("):
            continue
        match = re.match(r"(?:note: )?(?:in/)(\d{3})", line)
        assert match, f"a line that is no line of ours: {line!r}"
        yield match[1], line


@pytest.mark.slow
@pytest.mark.parametrize(
    "seed", [0, pytest.param(1, marks=pytest.mark.thorough), pytest.param(2, marks=pytest.mark.thorough)]
)
def test_hostile_files_give_an_image_or_a_one_line_message(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    checkpoint: Path,
    seed: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    files = hostile(tmp_path / "in", seed)
    assert len(files) == len(set(files)) == COUNT
    (tmp_path / "in" / "folder.png").mkdir()
    (tmp_path / "in" / "nowhere.png").symlink_to("gone")
    os.mkfifo(tmp_path / "in" / "pipe.png")
    with pytest.raises(SystemExit) as end:
        cli.main(
            [
                "upscale",
                "in",
                "--scale",
                "2",
                "--out",
                "out",
                "--temperature",
                "0.8",
                "--model",
                str(checkpoint),
            ]
        )
    out, err = capfd.readouterr()
    assert end.value.code == 1
    assert "Traceback" not in err
    told = list(lines_by_file(err))
    failed = {number for number, line in told if not line.startswith("note: ")}
    assert len(failed) == sum(not line.startswith("note: ") for _, line in told), "one line each"
    assert err.splitlines()[-1] == f"{len(failed)} of {COUNT} images failed"
    for _, line in told:
        assert not re.search(r"<class|object at 0x|PosixPath|BytesIO|: None$|: $", line), line
        assert len(line.split(": ", 1)[1]) > 12, f"no words: {line}"
    made = {path.name[:3]: path for path in (tmp_path / "out").iterdir()}
    assert {path.name[:3] for path in files} - failed == made.keys()
    assert len(out.splitlines()) == len(made)
    assert 60 < len(made) < COUNT - 60
    for path in made.values():
        assert not path.name.startswith(".")
        assert min(openable(path)) >= 2


def test_unusual_but_valid_files_become_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    rng = random.Random(0)
    makers = [mislabelled, animated, thin, palette, deep_png, names]
    for n in range(30):
        makers[n % len(makers)](rng, tmp_path / "in" / f"{n:03}")
    cli.main(["upscale", "in", "--scale", "2", "--out", "out", "--model", "bicubic"])
    assert "failed" not in capfd.readouterr().err
    for source in (tmp_path / "in").iterdir():
        (made,) = (path for path in (tmp_path / "out").iterdir() if path.name[:3] == source.name[:3])
        wide, high = openable(source)
        assert openable(made) == (2 * wide, 2 * high)
