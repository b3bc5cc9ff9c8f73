"""Decoding in tiles and chunks against the training path, which knows of neither."""

from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from linf.coordinates import patch_centres
from linf.models.arguments import check_size
from linf.models.conditioner import FourierConditioner
from linf.models.decoding import Block, Request, stream
from linf.models.encoders import EDSR
from linf.models.flow import ConditionalFlow
from linf.models.linf import LINF
from linf.models.threads import parallel
from linf.models.tiling import encode, tiles

CPU = torch.device("cpu")


def case(patch_size: int, lr_size: tuple[int, int], size: tuple[int, int]) -> tuple[LINF, Tensor, Tensor]:
    """A model whose conditions range over ±1, an LR image and latents, in float64."""
    torch.manual_seed(0)
    flow = ConditionalFlow(patch_size, steps=2)
    model = LINF(EDSR(blocks=1, channels=4), partial(FourierConditioner, width=8, depth=2), flow).double()
    for p in (*model.encoder.parameters(), *model.conditioner.parameters()):
        torch.nn.init.normal_(p, std=0.2)
    z = torch.randn(1, *(-(-n // patch_size) for n in size), flow.dim, dtype=torch.float64)
    return model, torch.rand(1, 3, *lr_size, dtype=torch.float64), z


def trained_path(model: LINF, lr: Tensor, size: tuple[int, int], z: Tensor) -> Tensor:
    """All queries at once through `LINF.condition`; the patches put back by pixel_shuffle."""
    axes = [patch_centres(n, model.patch_size) for n in size]
    coord = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)[None]
    condition = model.condition(lr, coord, torch.tensor([[2 / size[0], 2 / size[1]]]))
    residual = model.flow.inverse(z.flatten(0, 2).T, condition).view(1, -1, *z.shape[1:3])
    patches = F.pixel_shuffle(residual, model.patch_size)[..., : size[0], : size[1]]
    return F.interpolate(lr, size, mode="bilinear", align_corners=False) + patches / 2


SIZES = [
    ((6, 7), (16, 19)),
    ((6, 7), (18, 21)),
    ((6, 7), (6, 7)),
    ((6, 7), (3, 4)),
    ((6, 7), (2, 30)),
    ((6, 7), (1, 1)),
    ((1, 1), (1, 1)),
    ((1, 1), (7, 5)),
    ((1, 5), (4, 13)),
    ((5, 1), (2, 2)),
]


@pytest.mark.parametrize("patch_size", [1, 3, 5])
@pytest.mark.parametrize(("lr_size", "size"), SIZES)
def test_sample_is_the_training_path(
    patch_size: int, lr_size: tuple[int, int], size: tuple[int, int]
) -> None:
    model, lr, z = case(patch_size, lr_size, size)
    image = model.sample(lr, size, temperature=1.0, z=z)
    assert image.shape == (1, 3, *size)
    torch.testing.assert_close(image, trained_path(model, lr, size, z), rtol=0, atol=1e-12)


@pytest.mark.parametrize("patch_size", [1, 3])
@pytest.mark.parametrize("chunk", [1, 7, 40, 5000])
def test_chunks_leave_no_trace(patch_size: int, chunk: int) -> None:
    size = (16, 19)
    model, lr, z = case(patch_size, (6, 7), size)
    whole = model.sample(lr, size, temperature=1.0, z=z)
    chunked = model.sample(lr, size, temperature=1.0, z=z, chunk=chunk)
    torch.testing.assert_close(chunked, whole, rtol=0, atol=1e-13)


@pytest.mark.parametrize("size", [(60, 63), (41, 50), (14, 15), (71, 55)])
@pytest.mark.parametrize(("patch_size", "tile"), [(1, 8), (1, 3), (3, 8), (3, 5), (5, 20)])
def test_tiles_leave_no_seam(patch_size: int, tile: int, size: tuple[int, int]) -> None:
    """Some halos are cut by the border, others lie inside; float64 shows a receptive_field that is one pixel short."""
    model, lr, z = case(patch_size, (28, 25), size)
    whole = model.sample(lr, size, temperature=1.0, z=z)
    tiled = model.sample(lr, size, temperature=1.0, z=z, tile=tile)
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-13)


def test_tiles_leave_no_seam_in_single_precision() -> None:
    model, lr, z = (part.float() for part in case(3, (28, 25), (71, 55)))
    whole = model.sample(lr, (71, 55), temperature=1.0, z=z)
    tiled = model.sample(lr, (71, 55), temperature=1.0, z=z, tile=8)
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("patch_size", [1, 3, 5])
def test_blocks_cover_every_patch_once(patch_size: int) -> None:
    size = (37, 44)
    model, lr, _ = case(patch_size, (11, 13), size)
    seen = torch.zeros([-(-n // patch_size) for n in size], dtype=torch.int64)

    def count(block: Block) -> tuple[slice, slice]:
        n = (block.rows.stop - block.rows.start) * (block.cols.stop - block.cols.start)
        assert block.answers.shape == (model.flow.condition_dim, n)
        assert n <= 9
        return block.rows, block.cols

    for rows, cols in stream(
        model.encoder, model.conditioner, lr, size, patch_size, count, Request(tile=4, chunk=9)
    ):
        seen[rows, cols] += 1
    assert (seen == 1).all()


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets torch's intra-op threads, and sets them back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("patch_size", [1, 3])
@pytest.mark.parametrize("tile", [None, 8])
def test_the_number_of_threads_decides_no_bit(
    patch_size: int, tile: int | None, threads: Callable[[int], None]
) -> None:
    model, lr, _ = (part.float() for part in case(patch_size, (28, 25), (71, 55)))
    images = []
    for n in (1, 2, 5):
        threads(n)
        features = model.encode(lr, tile=8)
        images.append(
            model.sample(lr, (71, 55), temperature=0.8, seed=0, tile=tile, chunk=40, features=features)
        )
    assert torch.equal(images[0], images[1])
    assert torch.equal(images[0], images[2])


def test_parallel_gives_results_in_order_and_an_error_where_it_happened(
    threads: Callable[[int], None],
) -> None:
    threads(3)
    assert list(parallel((lambda i=i: i for i in range(40)), CPU)) == list(range(40))  # type: ignore[misc]
    seen = []
    failing = parallel([lambda i=i: 1 // (5 - i) for i in range(40)], CPU)  # type: ignore[misc]
    with pytest.raises(ZeroDivisionError):
        seen.extend(failing)
    assert len(seen) == 5
    assert torch.get_num_threads() == 3


def test_a_task_has_one_thread_and_the_modes_of_its_caller(threads: Callable[[int], None]) -> None:
    threads(2)

    def modes() -> tuple[int, bool, bool]:
        return torch.get_num_threads(), torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")

    assert list(parallel([modes] * 4, CPU)) == [(1, True, False)] * 4
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert list(parallel([modes] * 4, CPU)) == [(1, False, True)] * 4


def test_a_sample_is_the_same_in_inference_mode(threads: Callable[[int], None]) -> None:
    """In which Lightning validates and tests."""
    threads(2)
    model, lr, _ = (part.float() for part in case(3, (40, 25), (101, 55)))
    expected = model.sample(lr, (101, 55), temperature=0.8, seed=0, chunk=40)
    with torch.inference_mode():
        image = model.sample(lr, (101, 55), temperature=0.8, seed=0, chunk=40)
        tiled = model.sample(lr, (101, 55), temperature=0.8, seed=0, tile=8)
    assert torch.equal(image, expected)
    torch.testing.assert_close(tiled, expected, rtol=0, atol=1e-5)


def test_an_abandoned_decode_leaves_no_task_behind(threads: Callable[[int], None]) -> None:
    threads(2)
    model, lr, _ = (part.float() for part in case(1, (28, 25), (71, 55)))
    running = model.regions(lr, (71, 55), Request(chunk=9))
    next(running)
    running.close()
    assert model.sample(lr, (71, 55)).isfinite().all()


def test_images_of_a_batch_have_their_own_tiles(threads: Callable[[int], None]) -> None:
    model, lr, _ = case(3, (12, 9), (20, 20))
    both = torch.cat([lr, lr.flip(-1)])
    for tile in encode(model.encoder, both, tile=5):
        alone = next(
            t for t in encode(model.encoder, both[tile.image : tile.image + 1], tile=5) if t[1:4] == tile[1:4]
        )
        assert torch.equal(alone.features, tile.features)


def test_tiles_cover_a_length_once_in_nearly_equal_parts() -> None:
    for length in range(1, 60):
        for tile in range(1, 65):
            cuts = tiles(length, tile)
            assert [i for start, stop in cuts for i in range(start, stop)] == list(range(length))
            sides = [stop - start for start, stop in cuts]
            assert max(sides) <= tile
            assert max(sides) - min(sides) <= 1


@pytest.mark.parametrize("patch_size", [1, 3])
def test_autocast_is_near_single_precision(patch_size: int) -> None:
    size = (16, 19)
    model, lr, z = (part.float() for part in case(patch_size, (6, 7), size))
    single = model.sample(lr, size, temperature=1.0, z=z)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model.sample(lr, size, temperature=1.0, z=z)
    assert half.dtype == torch.float32
    residual = single - F.interpolate(lr, size, mode="bilinear", align_corners=False)
    assert 0 < (half - single).std() < 0.01 * residual.std()


@pytest.mark.parametrize(
    "size", [(0, 5), (5, 0), (-1, 5), (2.5, 5), (5.0, 5.0), (5,), (5, 5, 5), (), ("5", "5"), (None, 5)]
)
def test_size_that_is_not_two_positive_whole_numbers_is_refused(size: tuple) -> None:
    with pytest.raises(ValueError, match="not two positive whole numbers") as error:
        check_size(size, 12, CPU)
    assert "\n" not in str(error.value)
    model, lr, _ = case(1, (4, 4), (4, 4))
    for method in (model.sample, model.distribution):
        with pytest.raises(ValueError, match="not two positive whole numbers"):
            method(lr, size)


@pytest.mark.parametrize("side", [10**6, 10**9, 10**200], ids=["1e6", "1e9", "1e200"])
def test_size_that_memory_cannot_hold_is_refused(side: int) -> None:
    model, lr, _ = case(1, (4, 4), (4, 4))
    for method in (model.sample, model.distribution):
        with pytest.raises(ValueError, match=f"size {side}×{side} needs .* GB, .* are free") as error:
            method(lr, (side, side))
        assert "\n" not in str(error.value)


def test_size_that_can_be_held_comes_back() -> None:
    assert check_size([480, 640], 12, CPU) == (480, 640)
