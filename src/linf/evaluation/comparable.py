"""Which settings two evaluations must share for their figures to stand in one table."""

from collections.abc import Mapping
from typing import Any

DECISIVE = (
    "model",
    "weights",
    "protocol",
    "metrics",
    "skipped",
    "temperatures",
    "samples",
    "seed",
    "self_ensemble",
    "latents",
    "consistency",
    "tails",
    "resize",
    "pixels",
)
"""What in ``run.json`` must be equal."""


def decisive_differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Each decisive difference between two evaluations in words, by the content of their ``run.json``.

    A metric or an LR image that only one of them has makes no difference, nor one that an earlier version did not
    describe.
    """
    old, new = _decisive(there), _decisive(here)
    found = [
        f"{key} is {_short(old[key])} there and {_short(new[key])} here"
        for key in DECISIVE
        if old[key] != new[key]
    ]
    by, now_by = (about.get("measured_by") or {} for about in (there, here))
    found += [
        f"{metric} is measured by {by[metric]} there and by {now_by[metric]} here"
        for metric in by
        if metric in now_by and by[metric] != now_by[metric]
    ]
    for dataset, scales in (there.get("lr") or {}).items():
        now = (here.get("lr") or {}).get(dataset, {})
        found += [
            f"LR of {dataset} at ×{scale} is from {lr['from']} there and {now[scale]['from']} here"
            for scale, lr in scales.items()
            if scale in now and now[scale]["from"] != lr["from"]
        ]
    return found


def _decisive(about: Mapping[str, Any]) -> dict[str, Any]:
    # Which metrics were skipped decides, not the words that say why.
    return {key: about.get(key) for key in DECISIVE} | {"skipped": sorted(about.get("skipped") or ())}


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
