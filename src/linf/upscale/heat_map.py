"""A map of standard deviations, with a scale that can be read."""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont


def heat_map(deviation: np.ndarray) -> Image.Image:
    """A deviation (H,W) in the units of [0, 1] as colours, with a scale below in levels of 255. What is not finite,
    where a flow has exploded, is beyond the scale.
    """
    from matplotlib import colormaps  # Half a second, for those who ask for a map.

    height, width = deviation.shape
    step = max(1, math.isqrt(deviation.size // 10**6))
    seen = deviation[::step, ::step].astype(np.float32)
    seen = seen[np.isfinite(seen)]
    top = max(float(np.quantile(seen, 0.995)) if len(seen) else 0.0, 1e-4)
    text = max(12, min(height, width) // 40)
    canvas = Image.new("P", (max(width, 30 * text), height + 4 * text), 255)
    colours = (colormaps["inferno"](np.linspace(0, 1, 254))[:, :3] * 255).round().astype(np.uint8)
    canvas.putpalette([*colours.flatten().tolist(), 0, 0, 0, 255, 255, 255])
    for y in range(0, height, 256):
        part = np.nan_to_num(deviation[y : y + 256].astype(np.float32) / top * 253, nan=253)
        canvas.paste(Image.fromarray(np.rint(part).clip(0, 253).astype(np.uint8)), (0, y))
    left, long = text, canvas.width - 2 * text
    bar = np.broadcast_to(np.rint(np.linspace(0, 253, long)).astype(np.uint8), (text, long))
    canvas.paste(Image.fromarray(np.ascontiguousarray(bar)), (left, height + text // 2))
    draw = ImageDraw.Draw(canvas)
    draw.fontmode = "1"  # Blends of palette indices are other colours.
    font = ImageFont.load_default(size=text)
    y = height + 2 * text
    for share, anchor in ((0.0, "lt"), (1.0, "rt")):
        word = f"{255 * top * share:.3g}{'+' if share else ''}"
        draw.text((left + share * long, y), word, fill=254, font=font, anchor=anchor)
    middle = (left + long / 2, y)
    draw.text(middle, "deviation at temperature 1, of 255", fill=254, font=font, anchor="mt")
    return canvas
