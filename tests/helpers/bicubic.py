"""The bicubics of Pillow and MATLAB in numpy, from the formula of their kernel."""

import numpy as np


def weights(n_in: int, n_out: int, *, mirrored: bool) -> np.ndarray:
    """(n_out, n_in) weights of Keys's cubic kernel, a = -0.5, antialiased. Beyond the border the image is mirrored as
    in MATLAB, or has no pixels as in Pillow.
    """
    ratio = n_in / n_out
    centre = (np.arange(n_out)[:, None] + 0.5) * ratio - 0.5
    out = np.zeros((n_out, n_in))
    for tile in (-1, 0, 1) if mirrored else (0,):  # The image itself, and what lies before and behind it.
        x = (
            np.arange(n_in)
            if not tile
            else (-1 - np.arange(n_in) if tile < 0 else 2 * n_in - 1 - np.arange(n_in))
        )
        t = np.abs(x - centre) / max(ratio, 1)
        near, far = 1.5 * t**3 - 2.5 * t**2 + 1, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
        out += np.where(t <= 1, near, np.where(t <= 2, far, 0))
    return out / out.sum(1, keepdims=True)


def pillow(image: np.ndarray, size: tuple[int, int], peak: int) -> np.ndarray:
    """(H,W,C) of 16 bits reduced as Pillow does floats, then rounded."""
    y, x = (weights(n, m, mirrored=False) for n, m in zip(image.shape[:2], size, strict=True))
    return np.rint(np.einsum("yi,xj,ijc->yxc", y, x, image.astype(float))).clip(0, peak)


def matlab(image: np.ndarray, size: tuple[int, int], peak: int) -> np.ndarray:
    """(h,w,C) in whole numbers enlarged by the same factor on both axes, rounded after each, rows first."""
    y, x = (weights(n, m, mirrored=True) for n, m in zip(image.shape[:2], size, strict=True))

    def rounded(values: np.ndarray) -> np.ndarray:
        return np.floor(values + 0.5).clip(0, peak)

    return rounded(np.einsum("xj,yjc->yxc", x, rounded(np.einsum("yi,ijc->yjc", y, image.astype(float)))))
