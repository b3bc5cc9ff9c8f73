"""The lines of a table: bicubic, then a model at each temperature, by its prior and by its self-ensemble."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from linf.images.resize import bicubic
from linf.models.baselines import Bicubic
from linf.models.consistency import Projection
from linf.models.correlation import LatentChoice
from linf.models.distribution import Distribution
from linf.models.self_ensemble import self_ensemble
from linf.models.super_resolver import SuperResolver
from linf.models.tiling import Tile


class System(NamedTuple):
    """What a table shows of an image in one line."""

    name: str
    temperature: float | None
    """Of a model's samples."""
    images: Tensor
    """(S,B,C,H,W), not clamped; S is 1 where nothing is random."""


def systems(
    model: SuperResolver,
    lr: Tensor,
    size: tuple[int, int],
    temperatures: Sequence[float],
    *,
    seed: int | None = None,
    known: Distribution | None = None,
    features: Sequence[Tile] | None = None,
    peak: int = 255,
    projection: Projection | None = None,
    ensemble: bool = False,
) -> Iterator[System]:
    """Bicubic, then the model, at each temperature if it is random, by its prior and by its self-ensemble; made one by
    one.

    Args:
        model: any.
        lr: (B,C,h,w) in [0, 1].
        size: (H, W).
        temperatures: of the samples, which share their latents.
        seed: of those latents.
        known: the model's distribution of these images, where it has been computed already.
        features: of ``lr``, from the model's `encode`, likewise.
        peak: the value of white of the whole numbers that bicubic takes, see `linf.images.resize.bicubic`.
        projection: makes the model's images consistent with ``lr``; bicubic's stay as they are.
        ensemble: whether there is a line of the self-ensemble, see `self_ensemble`.
    """
    features = model.encode(lr) if features is None else features
    if known is None:
        known = model.distribution(lr, size, seed=seed, highest=max(temperatures), features=features)
    if known is not None and projection is not None:
        known = projection.of_distribution(known, lr)
    for name, tau in system_temperatures(model, temperatures, ensemble).items():
        if tau is not None:
            assert known is not None
            yield System(name, tau, known.at(tau))
        else:
            image = system_image(model, name, lr, size, features=features, peak=peak)
            image = projection(image, lr) if projection and name != "bicubic" else image
            yield System(name, None, image[None])


def system_image(
    model: SuperResolver,
    name: str,
    lr: Tensor,
    size: tuple[int, int],
    *,
    temperature: float = 0.0,
    latents: LatentChoice = "independent",
    features: Sequence[Tile] | None = None,
    peak: int = 255,
) -> Tensor:
    """The images (B,C,H,W) by one of `systems`, of its name; temperature and latents count for a random model."""
    if name == "bicubic":
        return bicubic(lr, size, peak)
    if name == "prior":
        return model.sample_prior(lr, size, features=features)
    if name == "self-ensemble":
        return self_ensemble(model, lr, size)
    return model.sample(lr, size, temperature=temperature, seed=0, latents=latents, features=features)


def system_temperatures(
    model: SuperResolver, temperatures: Sequence[float], ensemble: bool = False
) -> dict[str, float | None]:
    """Temperature, or None, of each of `systems` by its name, in their order."""
    found: dict[str, float | None] = {"bicubic": None}
    if model.dim:
        found |= {f"τ={tau:g}": tau for tau in temperatures}
        found |= {} if model.prior is None else {"prior": None}
    elif not isinstance(model, Bicubic):
        found[model.name] = None
    if ensemble and not isinstance(model, Bicubic):
        found["self-ensemble"] = None
    return found


def systems_in_words(temperatures: Mapping[str, float | None], samples: int) -> str:
    """What `system_temperatures` found, and how many samples there are of each temperature above 0."""
    several = samples > 1 and any(temperatures.values())
    return ", ".join(temperatures) + f"; {samples:,} samples at each τ above 0" * several


def model_label(model: SuperResolver) -> str:
    """A model's name for legends: its name, patch size and encoder."""
    config = getattr(model, "config", {})
    patch = f" P={config['flow']['patch_size']}" if "flow" in config else ""
    encoder = f", {config['encoder']['name']}" if "encoder" in config else ""
    return f"{model.name}{patch}{encoder}"
