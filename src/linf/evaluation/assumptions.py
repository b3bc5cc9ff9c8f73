"""What an evaluation takes a model's latents for, beyond independent Gaussians."""

from typing import NamedTuple, get_args

from linf.coordinates import Scale, mean_scale
from linf.errors import UsageError
from linf.models.correlation import LatentChoice, check_latents, chosen_correlation
from linf.models.super_resolver import SuperResolver
from linf.models.tails import TailChoice, Tails, tails_at


class Assumptions(NamedTuple):
    """How latents are drawn and measured."""

    latents: LatentChoice = "independent"
    """Of neighbouring patches, in samples."""
    tails: TailChoice = "gaussian"
    """Of a patch, in likelihood and calibration."""

    def check(self, model: SuperResolver) -> None:
        """Raise an error unless they are possible, and the model knows what they need."""
        check_latents(self.latents)
        if self.tails not in get_args(TailChoice):
            raise UsageError(f"tails are {self.tails!r}: give one of {', '.join(get_args(TailChoice))}")
        if not model.dim and self.record():
            given = " and ".join(f"{name}={value}" for name, value in self.record().items())
            raise UsageError(f"{type(model).__name__} has no latents: leave out {given}")
        chosen_correlation(model.correlation, self.latents)
        if self.tails == "student":
            tails_at(model.tails, 1)

    def tails_of(self, model: SuperResolver, scale: Scale) -> Tails | None:
        """The tails of a model at a scale; None for a Gaussian's."""
        return tails_at(model.tails, mean_scale(scale)) if self.tails == "student" else None

    def record(self) -> dict[str, str]:
        """What differs from independent Gaussians, for ``run.json``."""
        return {name: value for name, value in self._asdict().items() if value != self._field_defaults[name]}

    def label(self) -> str:
        """The same in words, for a model's label."""
        return "".join(f", {value} {name}" for name, value in self.record().items())
