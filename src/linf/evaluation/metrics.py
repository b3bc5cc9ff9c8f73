"""The metrics of an evaluation: made, where they can be, fitted to its images, and described."""

from collections.abc import Callable, Mapping

from torch import nn

from linf.evaluation.origin import weights_digest
from linf.images.pixels import PixelFormat
from linf.metrics.corpus import CorpusMetric
from linf.metrics.metric import PSNR, ImageMetric


def open_metrics(
    metrics: Mapping[str, Callable[[], ImageMetric | CorpusMetric]],
) -> tuple[nn.ModuleDict, nn.ModuleDict, dict[str, str]]:
    """Make metrics: those of an image, those of all images together, and why one could not be made, by its name."""
    of_image, of_corpus, skipped = nn.ModuleDict(), nn.ModuleDict(), {}
    for name, make in metrics.items():
        try:
            metric = make()
        except ValueError as error:
            skipped[name] = str(error)
        else:
            (of_image if isinstance(metric, ImageMetric) else of_corpus)[name] = metric
    return of_image, of_corpus, skipped


def conventions(metrics: nn.ModuleDict) -> dict[str, str]:
    """What each metric is taken on."""
    return {name: str(metric.convention) for name, metric in metrics.items()}


def measured_by(metrics: nn.ModuleDict) -> dict[str, str]:
    """What decides the figures of each metric of an image: its class, its figure and a digest of its weights."""
    described = {}
    for name, metric in metrics.items():
        assert isinstance(metric, ImageMetric)
        weights = f", weights {weights_digest(metric)[:12]}" if metric.state_dict() else ""
        described[name] = f"{type(metric).__name__} ({metric.figure}{weights})"
    return described


def fit_metrics(metrics: nn.ModuleDict, pixels: PixelFormat) -> dict[str, str]:
    """Tell metrics the depth of the images, and take out those that need RGB where the images are none; the reasons."""
    skipped = {}
    for name, metric in list(metrics.items()):
        assert isinstance(metric, ImageMetric | CorpusMetric)
        if isinstance(metric, ImageMetric):
            metric.peak = pixels.peak
        if isinstance(metric, PSNR):
            metric.fit(pixels.channels)
        if metric.rgb_only and pixels.channels != 3:
            del metrics[name]
            skipped[name] = f"it compares RGB images, and these have {pixels.channels} channels"
    return skipped
