"""`linf upscale --dry-run`: what would be made of each image, and what it would take."""

import sys
import time
from collections.abc import Hashable, Iterator, Sequence

from linf.images.write import conversion_notes
from linf.upscale.estimate import Estimate, Pace, estimate, measured_pace
from linf.upscale.inputs import PIPE, Input
from linf.upscale.run import Upscaler, input_name, print_line


def dry_run(upscaler: Upscaler, images: Sequence[Input]) -> int:
    """Read all images and write none; print a line for each, and return how many would fail.

    A part of the first image of each kind, of channels, bits and format, is enlarged to see what that takes.
    """
    paces: dict[Hashable, Pace] = {}
    found: list[Estimate] = []
    failed = sum(upscaler.failed(image, _estimated(upscaler, image, paces, found)) for image in images)
    if len(found) > 1:
        together = Estimate(
            sum(each.seconds for each in found),
            max(each.memory for each in found),
            sum(each.file for each in found),
        )
        print_line(f"{len(found)} images: {together}", upscaler.message_stream)
    if found:
        print_line(
            f"nothing was written; estimated from {len(paces)} small part{'s' * (len(paces) > 1)} enlarged just now",
            sys.stderr,
        )
    return failed


def _estimated(
    upscaler: Upscaler, source: Input, paces: dict[Hashable, Pace], found: list[Estimate]
) -> Iterator[str]:
    """Estimate what one image would take; yield the lines to print."""
    began = time.perf_counter()
    image, size, form, out, heat = upscaler.opened(source)
    read = time.perf_counter() - began
    height, width, channels = image.pixels.shape
    kind = channels, image.pixels.dtype, image.alpha is None, form
    if kind not in paces:
        scale = size[0] / height, size[1] / width
        paces[kind] = measured_pace(
            upscaler.model, image, scale, upscaler.ask, form, upscaler.outputs.quality
        )
    needs = estimate(paces[kind], upscaler.model, image, size, upscaler.ask)
    found.append(needs._replace(seconds=needs.seconds + read))
    files = [path for path in (*out, *heat) if path != PIPE]
    upscaler.outputs.keep(*files)
    yield from (f"note: {input_name(source)}: {note}" for note in image.notes + conversion_notes(image, form))
    where = ", ".join(map(str, files)) or "stdout"
    yield f"{input_name(source)}: {width}×{height} → {size[1]}×{size[0]} in {where}, {found[-1]}"
