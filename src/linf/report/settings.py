"""The settings of an evaluation and of its model's training, as far as they tell runs of a report apart."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from linf.report.evaluations import EvaluationRun

_PLACES = re.compile(
    r"model\.(usual_deviation|correlation|tails)|(evaluation|training)\.(run_dir|path|name|label|logger"
    r"|callbacks(?!\.ema\b)|trainer(?!\.(max_steps|max_epochs|accumulate_grad_batches|gradient_clip_val|precision)\b)"
    r"|launcher|hydra|shown|save_images|temperatures|init_from|ckpt_path|task\.(folder|checkpoint|label)"
    r"|data\.(num_workers|cache\w*|root))\b"
)
# What says where and how a run was done, or goes with its weights, but not what was set.

_NAMED_DATA = re.compile(r"linf\.data\.sources\.(bundled|div2k|df2k|benchmark)")
# Data sets that are the same in whatever folder they lie.

SEEDS = ("evaluation.seed", "training.seed")
"""The settings in which runs of one recipe may differ."""


def settings(run: EvaluationRun) -> dict[str, Any]:
    """What a run recorded of itself, by dotted names, what says most first: the model, its training, its files, the LR
    images, the evaluation, and at last the commit and the folder.
    """
    about = run.about
    found = dict(_flat(about["model"].get("config") or {}, "model"))
    training = about.get("training") or {}
    found |= dict(_flat(training, "training")) | _training_images(training)
    found |= {name: (about.get(name) or {}).get("path") for name in ("checkpoint", "prior")}
    found |= dict(_flat(about.get("severity") or {}, "severity"))
    recorded = {
        name: about.get(name) for name in ("seed", "samples", "resize", "latents", "tails", "consistency")
    }
    recorded["protocol"] = about["protocol"].get("name")
    if run.config is not None:
        recorded |= yaml.safe_load(run.config) or {}
    found |= dict(_flat(recorded, "evaluation"))
    found |= {
        "commit": str((about.get("git") or {}).get("commit") or "")[:7],
        "folder": str(run.folder.resolve()),
    }
    return {name: value for name, value in found.items() if not _PLACES.match(name)}


def _training_images(training: dict[str, Any]) -> dict[str, str]:
    """The names of the folders of a training's images; nothing where its data set has a name of its own."""
    data = training.get("data") or {}
    if not data.get("root") or _NAMED_DATA.match(str((data.get("train") or {}).get("_target_"))):
        return {}
    # Not the paths, which a job on another machine may have to the same images.
    roots = data["root"] if isinstance(data["root"], list) else [data["root"]]
    return {"training.data.images": ", ".join(Path(str(root)).name for root in roots)}


def _flat(node: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _flat(value, f"{name}.{key}")
    else:
        yield name, node if isinstance(node, int | float | str | None) else str(node)
