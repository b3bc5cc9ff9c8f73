"""What the page shows of a tab's image, and the files that it downloads, named for what they hold."""

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from linf.demo.mixture import Mixture
from linf.demo.session import EnlargedWhole, Session
from linf.demo.window import bicubic_part, framed
from linf.errors import UsageError
from linf.images.photo import Photo
from linf.images.read import eight_bits
from linf.images.write import write_photo
from linf.models.correlation import LatentChoice
from linf.models.super_resolver import SuperResolver

BY_BICUBIC, BY_MEAN = "Bicubic", "Mean (τ = 0)"
"""What an enlarged image can be compared with, beside other models by their names."""

KEPT_PREVIEWS = 8
"""Number of preview files kept per name, since a browser may still be fetching the last few."""

PREVIEW_SIDE = 2048
"""The longer side in pixels at most of a preview of an image that is too large to be kept for every temperature."""

OUTLINE = (255, 59, 48)
"""The colour of a brush, and of the edge of what was painted."""


class Shown:
    """The files that the page shows of a session, in its folder."""

    def __init__(self, session: Session) -> None:
        self.session, self.folder, self.count = session, Path(session.folder.name), 0
        self.left: tuple[tuple[object, ...], Path] | None = None
        """What left of the divider was made of last, and its file."""
        self.seen: tuple[object, ...] | None = None
        self.framed_size: tuple[int, int] = session.low
        """(h, w) of the uploaded image as it is shown."""

    def turns_to(self, whole: bool) -> bool:
        """Whether a view shows another part than the last one did, which it then is."""
        before, self.seen = self.seen, (whole, self.session.size, self.session.window(whole))
        return before != self.seen

    def comparison(
        self,
        whole: bool,
        temperature: float,
        within: float,
        against: str,
        outlined: bool,
        model: SuperResolver | None = None,
    ) -> tuple[Path, Path] | None:
        """Return the files on both sides of the divider; None if what is to be shown has not been made, as where it is
        compared with ``model`` and another one made what is there.
        """
        session, fixed = self.session, self.session.fixed
        if whole and not session.keeps_whole():
            if fixed is None:
                return None
            small = self._reduced(fixed)
            size = small.pixels.shape[0], small.pixels.shape[1]
            part = slice(0, size[0]), slice(0, size[1])
            bicubic = self._kept_left((size,), lambda: bicubic_part(session.image, size, part))
            return bicubic, self.preview(small, "linf")
        mixture = session.made.get((whole, True))
        if mixture is None:
            return None
        made = mixture.at(session.temperatures(temperature, within, mixture.part))
        if outlined and session.mask is not None:
            made = self._outlined(made, mixture)
        left = self._left(whole, mixture, temperature, within, against, model)
        return None if left is None else (left, self.preview(made, "linf"))

    def _left(
        self,
        whole: bool,
        mixture: Mixture,
        temperature: float,
        within: float,
        against: str,
        model: SuperResolver | None,
    ) -> Path | None:
        session, other = self.session, self.session.made.get((whole, False))
        key: tuple[object, ...] = against, mixture.size, mixture.part, self.session.consistent
        if against not in (BY_BICUBIC, BY_MEAN):
            # A job that waits for its turn will take the place of what was made at another scale or by another model.
            if other is None or other.model is not model or other.size != mixture.size:
                return None
            key = (*key, other.sample, temperature, within, session.mask)

        def make() -> Photo:
            if against == BY_BICUBIC:
                return bicubic_part(session.image, mixture.size, mixture.part)
            if against == BY_MEAN or other is None:
                return mixture.at(0)
            return other.at(session.temperatures(temperature, within, other.part))

        return self._kept_left(key, make)

    def _kept_left(self, key: tuple[object, ...], make: Callable[[], Photo]) -> Path:
        """The file left of the divider, which is made anew only where its key is another than the last one's."""
        if self.left is None or self.left[0] != key:
            self.left = key, self.preview(make(), "left")
        return self.left[1]

    def _outlined(self, made: Photo, mixture: Mixture) -> Photo:
        """An image with the edge of what was painted drawn on it."""
        share = self.session.share(mixture.part).numpy()
        edge = (share > 0.3) & (share < 0.7)
        pixels = eight_bits(made.pixels)
        pixels = np.repeat(pixels, 3, 2) if pixels.shape[2] == 1 else pixels.copy()
        pixels[edge] = OUTLINE
        return replace(made, pixels=pixels, alpha=None if made.alpha is None else eight_bits(made.alpha))

    def _reduced(self, fixed: EnlargedWhole) -> Photo:
        every = slice(None, None, -(-max(fixed.image.pixels.shape[:2]) // PREVIEW_SIDE))
        return fixed.image.part(every, every)

    def labels(self, whole: bool, temperature: float, against: str) -> str:
        """What is left and right of the divider, as a style sheet."""
        session = self.session
        if whole and session.fixed is not None:
            temperature, against = session.fixed.temperature, BY_BICUBIC
        texts = {"before": against, "after": f"LINF, τ = {temperature:g}"}
        rules = (
            f"#compare::{where} {{content: {json.dumps(text, ensure_ascii=False)}}}"
            for where, text in texts.items()
        )
        return f"<style>{' '.join(rules).replace('<', '')}</style>"

    def framed(self, whole: bool) -> Path:
        """Return the file of the uploaded image, with a frame around the part that is shown."""
        image = framed(self.session.image, None if whole else self.session.window(False))
        self.framed_size = image.height, image.width
        return self.preview(Photo(np.asarray(image)), "yours")

    def point_of(self, clicked: Sequence[float]) -> tuple[float, float]:
        """The point (y, x) of the uploaded image for one (x, y) of what `framed` shows."""
        y, x = (
            (at + 0.5) * n / shown
            for at, n, shown in zip(clicked[::-1], self.session.low, self.framed_size, strict=True)
        )
        return y, x

    def canvas(self, whole: bool) -> dict[str, object]:
        """Return what the editor shows: the part of the uploaded image, and what was painted on it."""
        session, part = self.session, self.session.window(whole)
        background, layers = self.preview(session.image.part(*part), "canvas"), []
        if session.mask is not None and (ink := np.asarray(session.mask)[part]).any():
            layer = np.dstack([np.full((*ink.shape, 3), OUTLINE, np.uint8), (0.6 * ink).astype(np.uint8)])
            path = self.path("ink", "png")
            Image.fromarray(layer).save(path)
            layers = [str(path)]
        return {"background": str(background), "layers": layers, "composite": None}

    def preview(self, image: Photo, name: str) -> Path:
        """Write a JPEG for the browser, and return its file."""
        path = self.path(name, "jpg")
        self.write(replace(image, exif=None), path.name)
        return path

    def owns(self, path: Path) -> bool:
        """Whether a file is one that the page itself has shown as the uploaded image."""
        return path.parent == self.folder

    def download(self, whole: bool, temperature: float, within: float) -> Path:
        """Return the image that is shown as a lossless file."""
        session = self.session
        if whole and (done := session.fixed) is not None:
            return self.write(done.image, self.name(True, done.temperature, done.within, done.sample))
        mixture, sample = session.ready(whole), (session.seed, session.latents)
        if whole and (True, True) not in session.made:
            raise UsageError("all of the image has not been enlarged yet: press Enlarge all of it first")
        name = self.name(whole, temperature, within, sample)
        made = (
            None if mixture is None else mixture.at(session.temperatures(temperature, within, mixture.part))
        )
        # It may have become another one meanwhile.
        if made is None or session.ready(whole) is not mixture or (session.seed, session.latents) != sample:
            raise UsageError("what you asked for last is still being made: download it when it is there")
        return self.write(made, name)

    def name(self, whole: bool, temperature: float, within: float, sample: tuple[int, LatentChoice]) -> str:
        """The name of an image's file."""
        words = [self._stem(whole), f"t{temperature:g}"]
        if self.session.mask is not None and within != temperature:
            words.append(f"region{within:g}")
        if sample[0]:
            words.append(f"sample{sample[0]}")
        if sample[1] == "correlated":
            words.append("correlated")
        if self.session.consistent:
            words.append("consistent")
        return "_".join(words) + ".png"

    def deviation(self, whole: bool, spread: np.ndarray) -> Path:
        """Return a TIFF of a view's standard deviation of luma at temperature 1, float32 in the units of [0, 1]."""
        path = self.folder / f"{self._stem(whole)}_deviation.tiff"
        tifffile.imwrite(path, spread, photometric="minisblack", compression="zlib", metadata=None)
        return path

    def _stem(self, whole: bool) -> str:
        window, low = self.session.window(whole), self.session.low
        detail = any(side.stop - side.start < n for side, n in zip(window, low, strict=True))
        return f"{self.session.source.stem}{'_detail' * detail}_x{self.session.scale:g}"

    def caption(self, whole: bool) -> str:
        """Describe what the page shows, in Markdown."""
        session = self.session
        (h, w), (height, width) = session.low, session.size
        rows, cols = session.window_enlarged(whole)
        fixed = session.fixed if whole else None
        text = f"{w}×{h} → **{width}×{height}** pixels, sample {session.seed if fixed is None else fixed.sample[0]}"
        text += "." if fixed is None else f", temperature {fixed.temperature:g}."
        if fixed is not None:
            text += (
                " It is too large to change while you look, and is shown smaller than it is: **Download** gives all of "
                "it, **Enlarge all of it** makes it anew with what is chosen above."
            )
        elif (rows.stop - rows.start, cols.stop - cols.start) != session.size:
            text += (
                f" You see the {cols.stop - cols.start}×{rows.stop - rows.start} of them within the frame on your "
                "image: click there on another point."
            )
        return " ".join([text, *(f"Note: {note}." for note in session.image.notes + session.unlike)])

    def write(self, image: Photo, name: str) -> Path:
        """Write an image in the format of its suffix, and return its file."""
        path, content = self.folder / name, io.BytesIO()
        write_photo(content, image, path.suffix[1:], 95)
        path.write_bytes(content.getbuffer())
        return path

    def path(self, name: str, suffix: str) -> Path:
        """Return a new name for a file that is shown, and delete the oldest of that kind."""
        self.count += 1
        for old in sorted(self.folder.glob(f"{name}-*.{suffix}"))[: 1 - KEPT_PREVIEWS]:
            old.unlink(missing_ok=True)
        return self.folder / f"{name}-{self.count:09}.{suffix}"
