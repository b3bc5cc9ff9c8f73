"""The command ``linf latents``: how the latents of real images are distributed, estimated and kept."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from linf.cli.options import LINF_FILE, add_command, check_image_folders, check_output, chosen_device
from linf.errors import UsageError, check_distinct
from linf.runs import CONF


def add_latents(commands: Any) -> None:
    parser = add_command(
        commands, "latents", _latents, "estimate how the latents of real images are distributed"
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help=LINF_FILE)
    parser.add_argument(
        "out", type=Path, metavar="OUT", help="NAME.safetensors: the model together with what was estimated"
    )
    parser.add_argument(
        "--data", required=True, nargs="+", metavar="DIR", help="one or more folders of HR images"
    )
    parser.add_argument(
        "--scales",
        type=float,
        nargs="+",
        default=[2, 3, 4],
        metavar="S",
        help="scales to estimate at (default: 2 3 4)",
    )
    parser.add_argument(
        "--images",
        type=int,
        default=24,
        metavar="N",
        help="use at most N images, evenly spaced in the folder (default: 24)",
    )
    made = parser.add_mutually_exclusive_group()
    made.add_argument(
        "--resize", choices=("pil", "matlab"), default="pil", help="the bicubic that makes LR (default: pil)"
    )
    made.add_argument(
        "--degradation",
        choices=sorted(file.stem for file in (CONF / "data" / "degradation").glob("*.yaml")),
        help="degrade LR as in the training of the model, for instance photo for the model photo (default: clean LR)",
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, … (default: auto)")
    parser.add_argument("--half", action="store_true", help="write weights in half precision")
    parser.add_argument("--force", action="store_true", help="overwrite OUT")


def _latents(given: Namespace) -> None:
    """Estimate how the latents of real images are distributed, and write the model with the result; its weights do not
    change.

    With OUT, latents=correlated draws samples whose neighbouring patches agree, and tails=student gives likelihoods and
    intervals that also hold for images unlike those of the training.
    """
    from linf.checkpoints.native import load, save
    from linf.coordinates import mean_scale
    from linf.data.cache import ImageCache
    from linf.data.pairs import ScaledImages, collate_pair
    from linf.data.sources import image_folder
    from linf.evaluation.schema import evenly_spaced
    from linf.images.pixels import PixelFormat
    from linf.models.latent_statistics import latent_statistics
    from linf.models.linf import LINF

    if given.out.suffix != ".safetensors":
        raise UsageError(f"a model is saved as .safetensors, not as {given.out.name}")
    check_output(given.out, given.force)
    check_image_folders(given.data, "--data")
    if given.images < 1:
        raise UsageError(f"--images {given.images} is not a whole number from 1 up")
    check_distinct("--scales", sorted(set(given.scales)))
    device = chosen_device(given.device)
    model = load(given.model)
    if not isinstance(model, LINF):
        raise UsageError(f"a {type(model).__name__} has no latents: give a LINF")
    files = image_folder(given.data).hr
    chosen = evenly_spaced(files, given.images)
    known = model.value_range
    pixels = PixelFormat(model.image_channels, 8 if known is None else 16, known)
    degradation = _degradation(given.degradation) if given.degradation else None
    if degradation is not None:
        degradation.check(pixels.channels, pixels.peak)
    cache = ImageCache(chosen, pixels=pixels)
    pairs = ScaledImages(
        cache, sorted(set(given.scales)), crop=768, resize=given.resize, degradation=degradation
    )
    images = (collate_pair([pairs[i]]) for i in range(len(pairs)))
    model.to(device)
    model.correlation, model.tails, covariance = latent_statistics(
        model, ((mean_scale(pair.scale), pair.lr.to(device), pair.hr.to(device)) for pair in images)
    )
    save(model.cpu(), given.out, half=given.half)
    print(f"{given.out}, from {len(cache)} images:")
    for scale, found in covariance.items():
        n = found.shape[0] // 2
        freedom, width = model.tails[scale]
        print(
            f"×{scale:g}: variance {found[n, n].diagonal().mean():.2f}; Student's t of {freedom:.1f} degrees of "
            f"freedom and scale {width:.2f}"
        )


def _degradation(name: str) -> Any:
    from hydra import compose, initialize_config_dir
    from hydra.utils import instantiate

    with initialize_config_dir(str(CONF), version_base="1.3"):
        return instantiate(compose(f"data/degradation/{name}").data.degradation)
