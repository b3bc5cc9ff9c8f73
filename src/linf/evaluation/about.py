"""What ``run.json`` says of an evaluation, checked before it is taken at its word."""

from typing import Any

from linf.evaluation.schema import HEADLINES

_TYPES: dict[str, Any] = {
    "label": str,
    "model": dict,
    "model.name": str,
    "protocol": dict,
    "metrics": list,
    "temperatures": list,
    "max_trained_scale": int | float | None,
}
_OPTIONAL = {
    dict | None: "checkpoint prior skipped git versions conventions measured_by severity lr model.config "
    "model.config.flow training training.trainer training.data training.data.train",
    str | None: "weights checkpoint.path prior.path device",
    int | None: "checkpoint.step prior.step samples seed",
}
_TYPES |= {key: kind for kind, keys in _OPTIONAL.items() for key in keys.split()}
"""The types of entries, which have a dot where one stands in another."""


def wrong_entries(about: Any) -> list[str]:
    """The entries of a ``run.json`` that are not as ``linf eval`` writes them."""
    about = about if isinstance(about, dict) else {}
    wrong = [key for key, kind in _TYPES.items() if not isinstance(_inside(about, key), kind)]
    if not wrong:
        wrong = ["protocol.headline"] * (about["protocol"].get("headline") not in HEADLINES)
        wrong += [key for key in ("checkpoint", "prior") if about.get(key) and "path" not in about[key]]
        wrong += ["lr"] * (not all(_says_where_from(of) for of in (about.get("lr") or {}).values()))
    # Of what is wrong within another, the other is said.
    return [key for key in wrong if key.rpartition(".")[0] not in wrong]


def _says_where_from(lr: Any) -> bool:
    """Whether that is said of LR images, by scale."""
    return isinstance(lr, dict) and all(isinstance(of, dict) and "from" in of for of in lr.values())


def _inside(about: Any, key: str) -> Any:
    """What a dict holds by a key with dots; None where there is none."""
    for part in key.split("."):
        about = about.get(part) if isinstance(about, dict) else None
    return about
