"""The evaluations of a report: found in folders, seeds pooled to one, and told apart by the settings that differ."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from linf.errors import UsageError
from linf.evaluation.schema import CELL, UNIT
from linf.report.evaluations import EvaluationRun, read_run
from linf.report.settings import SEEDS, settings

_WEIGHTS = (".ckpt", ".safetensors", ".pth", ".pt")


def find_runs(paths: Iterable[Path]) -> list[EvaluationRun]:
    """Read the evaluations in some folders, at any depth, pool those that differ in nothing but seeds, and make the
    labels distinct.

    Raises:
        UsageError: a folder holds none, or an evaluation cannot be read.
    """
    folders: dict[Path, Path] = {}
    for path in paths:
        if not path.is_dir():
            raise UsageError(
                f"{path} is {'a file' if path.exists() else 'missing'}: give an evaluation's folder"
            )
        inside = [path] if (path / "run.json").exists() else _evaluations(path)
        if not inside:
            raise UsageError(
                f"{path} holds no evaluation, for there is no run.json in it or below: make one with "
                "`linf eval ckpt_path=…`"
            )
        for folder in inside:
            folders.setdefault(folder.resolve(), folder)
    return with_distinct_labels(pooled([read_run(folder) for folder in folders.values()]))


def _evaluations(home: Path) -> list[Path]:
    """The folders of evaluations below one, also such as have lost their record: reading them then says so, for a
    report of one model less looks like one of all.
    """
    below = ((Path(folder), set(files)) for folder, _, files in os.walk(home))
    return sorted(at for at, files in below if "run.json" in files or {"metrics.csv", "images.csv"} <= files)


def pooled(runs: Sequence[EvaluationRun]) -> list[EvaluationRun]:
    """Runs that differ in nothing but seeds, of the evaluation or of the training, as one run of their means."""
    groups: dict[Any, dict[EvaluationRun, tuple[Any, Any]]] = {}
    for run in runs:
        of = settings(run)
        trained = run.about.get("training")
        seeds = {*SEEDS, "commit", "folder"} | ({"checkpoint", "prior"} if trained else set())
        same = frozenset((name, str(value)) for name, value in of.items() if name not in seeds)
        table = run.images[[*UNIT, "system"]].astype(str).itertuples(index=False, name=None)
        # With another training seed the weights differ too; without a recorded training they say what the model is.
        weights = _kinds_of_file(run) if trained else run.about.get("weights")
        group = groups.setdefault((run.label, weights, same, frozenset(table), tuple(run.images)), {})
        group[run] = of.get("evaluation.seed"), of.get("training.seed")
    found: list[EvaluationRun] = []
    for group in groups.values():
        drawn, trainings = set(group.values()), {seed for _, seed in group.values()}
        # Two checkpoints of one training are two models, not two seeds of one.
        models = {(seed, run.about.get("weights")) for run, (_, seed) in group.items()}
        alike = len(group) == len(drawn) > 1 and len(models) == len(trainings)
        found += [_mean([*group])] if alike else group
    order = {run: n for n, run in enumerate(runs)}
    return sorted(found, key=lambda run: order[run.members[0] if run.members else run])


def _kinds_of_file(run: EvaluationRun) -> tuple[Any, ...]:
    """Which of the files that each training leaves an evaluation is of: their names, and the step of one that neither
    validation nor a limit of time chose.
    """
    files = [run.about.get(name) or {} for name in ("checkpoint", "prior")]
    names = [Path(str(file.get("path") or "")).name for file in files]
    chosen = names[0].startswith("best") or (run.about["training"].get("trainer") or {}).get("max_time")
    return (*names, None if chosen else files[0].get("step"))


def _mean(runs: Sequence[EvaluationRun]) -> EvaluationRun:
    def mean(name: str, keys: Sequence[str]) -> pd.DataFrame:
        table = pd.concat([getattr(run, name) for run in runs], ignore_index=True)
        if not len(table):
            return table
        words = [
            column
            for column in table
            if column not in keys and not pd.api.types.is_numeric_dtype(table[column])
        ]
        numbers = table.drop(columns=words).groupby(list(keys), sort=False).mean().reset_index()
        first = table[[*keys, *words]].drop_duplicates(list(keys), ignore_index=True)
        return first.merge(numbers, on=list(keys), sort=False)[table.columns.tolist()]

    of_all = replace(
        runs[0],
        metrics=mean("metrics", CELL),
        images=mean("images", (*UNIT, "system")),
        distribution=mean("distribution", UNIT),
        calibration=mean("calibration", (*UNIT, "kind", "nominal")),
        cost=mean("cost", ("scale", "system")),
        deviations=mean("deviations", (*UNIT, "system")),
        members=tuple(runs),
    )
    return replace(of_all, label=of_all.label + _seeds(of_all), model=of_all.model + _seeds(of_all))


def member_seeds(run: EvaluationRun) -> list[tuple[EvaluationRun, str]]:
    """The runs of single seeds behind one, each with the seeds that tell it from the others; itself, and no seed,
    where it is one.
    """
    of = [settings(member) for member in run.members]
    seeds = [name for name in SEEDS if len({each.get(name) for each in of}) > 1]
    words = {"evaluation.seed": "seed", "training.seed": "training seed"}
    labels = [", ".join(f"{words[name]} {each.get(name)}" for name in seeds) for each in of]
    return list(zip(run.members, labels, strict=True)) or [(run, "")]


def with_distinct_labels(runs: Sequence[EvaluationRun]) -> list[EvaluationRun]:
    """Give the runs that share a label, but for the number of their seeds, the settings that tell them apart, as few
    as do.
    """
    labels = [run.label for run in runs]
    apart = []
    for run in runs:
        group = [other for other in runs if _extended(other.label, other) == _extended(run.label, run)]
        if len(group) > 1:
            words, seeds = _differences(group)[group.index(run)], _seeds(run)
            # Degradations are drawn as one model's curve.
            of_model = [word for name, word in words.items() if not name.startswith("severity.")]
            run = replace(
                run,
                label=_extended(run.label, run, *words.values()) + seeds,
                model=_extended(run.model, run, *of_model) + seeds,
            )
            while run.label in labels:  # Another run's own label or words say the same.
                run = replace(run, label=_extended(run.label, run, run.folder.name) + seeds)
            labels.append(run.label)
        apart.append(run)
    return apart


def _seeds(run: EvaluationRun) -> str:
    """What the label of a mean over seeds ends with."""
    return f", {len(run.members)} seeds" if run.members else ""


def _extended(label: str, run: EvaluationRun, *words: str) -> str:
    """A run's label with more words, and without what `_seeds` says."""
    return ", ".join([label.removesuffix(_seeds(run)), *words])


def _differences(group: Sequence[EvaluationRun]) -> list[dict[str, str]]:
    """For each run the settings, by name and in words, that tell it from the others: the first that tell most apart."""
    of = [settings(run) for run in group]
    names = list(dict.fromkeys(name for each in of for name in each))
    # Where something else tells runs apart, their seeds need not; earlier versions recorded less of an evaluation.
    names.sort(key=lambda name: 2 if name in ("commit", "folder") else int(name in SEEDS))
    names = [n for n in names if not n.startswith("evaluation.") or all(n in each for each in of)]
    if any(run.members for run in group):  # A mean over seeds has none of its own.
        names = [n for n in names if n not in SEEDS]
    # How a copied file was trained is not known, which is no setting.
    if not all(run.about.get("training") for run in group):
        names = [n for n in names if not n.startswith("training.")]
    chosen: list[str] = []
    distinct = 1
    for name in names:
        values = {tuple(str(each.get(one)) for one in (*chosen, name)) for each in of}
        if len(values) > distinct:
            chosen, distinct = [*chosen, name], len(values)
        if distinct == len(group):
            break
    return [
        {name: _word(name, [each.get(name) for each in of], n) for name in chosen} for n in range(len(group))
    ]


def _word(name: str, values: Sequence[Any], index: int) -> str:
    """A setting's value for a legend."""
    value, key = values[index], name.rpartition(".")[2]
    if name in ("checkpoint", "prior", "folder"):
        return _distinct_part([str(other or "none") for other in values], index)
    if value is None:
        return f"no {name.removesuffix('._target_').rpartition('.')[2]}"
    if key in ("name", "_target_", "commit"):
        return str(value).rpartition(".")[2]
    # To six digits, unless another run's number is the same to these.
    short = [f"{n:g}" if isinstance(n, int | float) and not isinstance(n, bool) else str(n) for n in values]
    alike = any(text == short[index] and other != value for text, other in zip(short, values, strict=True))
    return f"{key} {value if alike else short[index]}"


def _distinct_part(paths: Sequence[str], index: int) -> str:
    """The last part of a path that no other of these paths has there, without its suffix unless that tells it apart."""
    parts = [Path(path).parts[::-1] for path in paths]
    own = parts[index]
    for n, part in enumerate(own):
        others = {
            other[n] if n < len(other) else "" for m, other in enumerate(parts) if paths[m] != paths[index]
        }
        if part not in others:
            return part if _stem(part) in map(_stem, others) else _stem(part)
    return str(Path(*own[::-1]))


def _stem(name: str) -> str:
    return name.removesuffix(Path(name).suffix) if Path(name).suffix in _WEIGHTS else name
