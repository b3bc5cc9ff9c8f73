"""Reading images as 8-bit RGB, and the errors about files that are no images."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from helpers.images import noise, one_line, write
from linf.errors import UsageError
from linf.images.read import read_image, read_photo


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp"])
def test_rgb_is_read_as_written(tmp_path: Path, suffix: str) -> None:
    pixels = noise(7, 9)
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}", lossless=True)
    assert np.array_equal(read_image(tmp_path / f"a.{suffix}"), pixels)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    Image.new("RGB", (5, 4), (255, 255, 255)).convert(mode).save(tmp_path / "a.tif")
    out = read_image(tmp_path / "a.tif")
    assert out.shape == (4, 5, 3)
    assert out.dtype == np.uint8
    assert out.min() >= 250


def test_one_pixel(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), (1, 2, 3)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").tolist() == [[[1, 2, 3]]]


def test_alpha_is_composited_over_white(tmp_path: Path) -> None:
    pixels = np.array([[[0, 0, 0, 0], [200, 0, 0, 255], [0, 0, 0, 128]]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").tolist() == [[[255] * 3, [200, 0, 0], [127] * 3]]


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_transparent_colour_is_white(tmp_path: Path, mode: str) -> None:
    image = Image.new(mode, (2, 1), 0)
    image.save(tmp_path / "a.png", transparency=(0, 0, 0) if mode == "RGB" else 0)
    assert (read_image(tmp_path / "a.png") == 255).all()


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_grey_of_16_bits_is_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    grey = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    Image.fromarray(grey).save(tmp_path / f"a.{suffix}")
    assert read_image(tmp_path / f"a.{suffix}")[0, :, 1].tolist() == [0, 1, 128, 255]


def test_colour_of_16_bits_is_rounded_to_8(tmp_path: Path) -> None:
    pixels = np.array([[[0, 128 * 257 + 127, 128 * 257 + 129], [65535, 257, 300]]], np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb")
    assert read_image(tmp_path / "a.tif").tolist() == [[[0, 128, 129], [255, 1, 1]]]


def test_grey_of_32_bit_integers_counts_as_16(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 65535]], np.int32)).save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif")[0, :, 0].tolist() == [0, 255]
    Image.fromarray(np.array([[0, 65536]], np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(UsageError, match="its values go from 0 to 65536"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :16] = 255  # White at the top left, black elsewhere.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.jpg", quality=100, exif=exif)
    out = read_image(tmp_path / "a.jpg").astype(int)
    assert out.shape == upright.shape
    assert np.abs(out - upright).max() < 40


def test_broken_exif_does_not_hide_the_image(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert read_image(tmp_path / "a.jpg").shape == (4, 4, 3)


def test_exif_that_cannot_be_rewritten_still_turns_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(tmp_path / "a.jpg", exif=exif)

    def damaged(self: Image.Exif, offset: int = 8) -> bytes:
        raise ValueError

    monkeypatch.setattr(Image.Exif, "tobytes", damaged)
    photo = read_photo(tmp_path / "a.jpg")
    assert photo.pixels.shape == (8, 4, 3)
    assert photo.notes == ["its EXIF is damaged and left out"]


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (3, 2), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    assert read_image(tmp_path / "a.webp")[0, 0].tolist() == [255, 0, 0]


def test_unreadable_files_are_named_with_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "whole.jpg", 64, 64)
    whole = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.png").touch()
    Image.fromarray(np.zeros((2, 2), np.float32)).save(tmp_path / "float.tif")
    for name, reason in {
        "cut.jpg": "truncated",
        "text.png": "it is no PNG, JPEG",
        "empty.png": "the file is empty",
        "absent.png": "No such file",
        "float.tif": "32-bit floats",
    }.items():
        with pytest.raises(UsageError, match=reason) as error:
            read_image(tmp_path / name)
        assert name in one_line(error)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UsageError, match="claims more than 0 megapixels"):
        read_image(tmp_path / "whole.jpg")


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint32])
def test_small_integers_without_a_white_count_as_8_bits(
    tmp_path: Path, dtype: type, caplog: pytest.LogCaptureFixture
) -> None:
    values = np.array([[0, 3, 255], [7, 128, 254]], dtype)
    tifffile.imwrite(tmp_path / "a.tif", values)
    photo = read_photo(tmp_path / "a.tif")
    assert photo.pixels.dtype == np.uint8
    assert photo.notes == ["its values go up to 255 and are read as 8 bits, with white at 255"]
    with caplog.at_level("INFO"):
        assert np.array_equal(read_image(tmp_path / "a.tif")[..., 1], values)
    assert "read as 8 bits" in caplog.text
    tifffile.imwrite(tmp_path / "b.tif", values.astype(np.int64).astype(dtype) * 100)
    assert np.array_equal(read_photo(tmp_path / "b.tif").pixels[..., 0], values.astype(np.uint16) * 100)


@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_dark_images_of_16_bits_stay_dark(tmp_path: Path, byteorder: str) -> None:
    values = np.array([[0, 3, 255]], np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", values, byteorder=byteorder)
    Image.fromarray(values).save(tmp_path / "a.png")
    (tmp_path / "a.pgm").write_bytes(b"P5 3 1 65535\n" + values.astype(">u2").tobytes())
    for suffix in ("tif", "png", "pgm"):
        assert read_photo(tmp_path / f"a.{suffix}").pixels[..., 0].tolist() == values.tolist()


@pytest.mark.parametrize(
    "text",
    [
        '{"shape": [4, 4]}',
        "shape=(4, 4)",
        "ImageJ=1.53\nimages=1\n",
        '<?xml version="1.0"?><OME xmlns="x"></OME>',
    ],
)
def test_a_description_of_the_pixels_is_left_out(tmp_path: Path, text: str) -> None:
    for description, kept in ((text, False), ("A cat of good shape", True)):
        tifffile.imwrite(
            tmp_path / "a.tif", noise(4, 4), photometric="rgb", description=description, metadata=None
        )
        exif = read_photo(tmp_path / "a.tif").exif
        assert (exif is not None and exif.get(0x010E) == description) == kept


@pytest.mark.parametrize("mode", ["L", "I;16", "RGB", "RGBA"])
@pytest.mark.parametrize("compression", [None, "tiff_adobe_deflate"])
@pytest.mark.parametrize("orientation", [1, 3, 5, 6, 7, 8])
def test_a_tiff_is_turned_by_its_path_and_by_its_content(
    tmp_path: Path, mode: str, compression: str | None, orientation: int
) -> None:
    stored, exif = noise(7, 12, 4), Image.Exif()
    exif[0x0112] = orientation
    pixels = {"L": stored[..., 0], "I;16": stored[..., 0] * np.uint16(257), "RGB": stored[..., :3]}.get(
        mode, stored
    )
    Image.fromarray(np.ascontiguousarray(pixels)).save(tmp_path / "a.tif", exif=exif, compression=compression)
    turned = {
        1: pixels,
        3: pixels[::-1, ::-1],
        5: pixels.swapaxes(0, 1),
        6: np.rot90(pixels, -1),
        7: pixels[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(pixels),
    }[orientation]
    for source in (tmp_path / "a.tif", (tmp_path / "a.tif").read_bytes()):
        photo = read_photo(source)
        read = photo.pixels if photo.alpha is None else np.dstack([photo.pixels, photo.alpha])
        assert np.array_equal(read.squeeze(), turned)


@pytest.mark.parametrize("settings", [{}, {"compression": "zlib"}, {"byteorder": ">"}, {"tile": (16, 16)}])
@pytest.mark.parametrize("channels", [3, 4])
def test_planes_of_16_bits_keep_every_level(tmp_path: Path, settings: dict, channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (20, 30, channels)).astype(np.uint16)
    extra = {"extrasamples": ["unassalpha"]} if channels == 4 else {}
    planes = np.ascontiguousarray(np.moveaxis(pixels, -1, 0))
    tifffile.imwrite(
        tmp_path / "a.tif", planes, photometric="rgb", planarconfig="separate", **settings, **extra
    )
    photo = read_photo(tmp_path / "a.tif")
    assert np.array_equal(photo.pixels, pixels[..., :3])
    assert photo.alpha is None if channels == 3 else np.array_equal(photo.alpha, pixels[..., 3])
    assert read_image(tmp_path / "a.tif").shape == (20, 30, 3)


@pytest.mark.parametrize("premultiplied", [False, True])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize(
    ("dtype", "channels"), [(np.uint8, 2), (np.uint8, 4), (np.uint16, 2), (np.uint16, 4)]
)
def test_transparency_of_tiff_is_straight_and_keeps_its_levels(
    tmp_path: Path, dtype: type, channels: int, byteorder: str, premultiplied: bool
) -> None:
    white = np.iinfo(dtype).max
    pixels = np.random.default_rng(0).integers(0, white, (20, 30, channels - 1), dtype, endpoint=True)
    alpha = np.linspace(white // 2, white, 600).reshape(20, 30).astype(dtype)
    stored = np.rint(pixels * (alpha / white)[..., None]).astype(dtype) if premultiplied else pixels
    tifffile.imwrite(
        tmp_path / "a.tif",
        np.dstack([stored, alpha]),
        photometric="rgb" if channels == 4 else "minisblack",
        planarconfig="contig",
        extrasamples=["assocalpha" if premultiplied else "unassalpha"],
        byteorder=byteorder,
    )
    photo = read_photo(tmp_path / "a.tif")
    assert photo.pixels.dtype == dtype
    assert np.array_equal(photo.alpha, alpha)
    # A product is rounded to a level, which half as much transparency doubles.
    assert abs(photo.pixels.astype(int) - pixels).max() <= 2 * premultiplied
    assert read_image(tmp_path / "a.tif").shape == (20, 30, 3)


def test_white_is_zero_in_16_bits_too(tmp_path: Path) -> None:
    grey = np.array([[0, 257, 65535]], np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", grey, photometric="miniswhite")
    assert read_photo(tmp_path / "a.tif").pixels[..., 0].tolist() == [[65535, 65278, 0]]


@pytest.mark.parametrize("kind", [b"P3", b"P6"])
@pytest.mark.parametrize("white", [1023, 65535])
def test_ppm_of_16_bits_keeps_every_level(tmp_path: Path, white: int, kind: bytes) -> None:
    values = np.random.default_rng(0).integers(0, white + 1, (4, 5, 3))
    plain = " ".join(map(str, values.ravel())).replace(" ", " # 7\n", 1).encode()
    content = plain if kind == b"P3" else values.astype(">u2").tobytes()
    (tmp_path / "a.ppm").write_bytes(kind + b"\n# by a camera\n5 4\n%d\n" % white + content)
    pixels = read_photo(tmp_path / "a.ppm").pixels
    assert np.array_equal(pixels, np.rint(values * (65535 / white)))
    assert pixels.dtype == np.uint16
    with pytest.raises(UsageError, match="cannot be read"):
        read_photo((tmp_path / "a.ppm").read_bytes()[: -1 if kind == b"P6" else -6])


@pytest.mark.parametrize("content", [b"P3 2 1 255\n1 2 3 255 30 0\n", b"P6 2 1 255\n\1\2\3\xff\x1e\0"])
def test_ppm_of_8_bits_stays_so(content: bytes) -> None:
    pixels = read_photo(content).pixels
    assert pixels.dtype == np.uint8
    assert pixels.tolist() == [[[1, 2, 3], [255, 30, 0]]]


def test_a_transparent_colour_of_16_bits_is_alpha(tmp_path: Path) -> None:
    Image.fromarray(np.array([[300, 0, 301]], np.uint16)).save(tmp_path / "a.png", transparency=300)
    photo = read_photo(tmp_path / "a.png")
    assert photo.pixels[..., 0].tolist() == [[300, 0, 301]]
    assert photo.alpha is not None
    assert photo.alpha.tolist() == [[0, 65535, 65535]]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.uint32])
def test_colour_whose_white_is_not_known_is_told(tmp_path: Path, dtype: type) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.ones((8, 9, 3), dtype), photometric="rgb")
    with pytest.raises(
        UsageError, match=f"its values are {np.dtype(dtype)}, whose white is not defined: state"
    ):
        read_image(tmp_path / "a.tif")
