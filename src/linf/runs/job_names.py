"""Short names for the jobs of a sweep, by the settings that differ; jobs that differ in the seed alone share one."""

from collections.abc import Mapping
from pathlib import Path

from linf.runs.record import JobRecord

_TRIAL = "callbacks.pruning.trial"
# The setting by which a search tells a trial its number.


def pooled_jobs(jobs: Mapping[str, JobRecord]) -> tuple[str, dict[str, list[str]]]:
    """Group the jobs that differ in nothing but the seed, and name each group by the settings that differ.

    Args:
        jobs: The records of a sweep's jobs by folder name.

    Returns:
        The names of these settings, such as ``encoder``, ``patch_size, width``, or ``trial: lr, width`` in a search,
        and the folders of each group by their values, such as ``swinir``, ``3, 64`` or ``7: 0.0003, 64``. A job that
        recorded no settings has its folder's name. Where nothing but the seed differs, so has every job, and the names
        of settings are empty.
    """
    groups: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for folder, job in jobs.items():
        groups.setdefault(tuple(_settings(job).items()) or (("", folder),), []).append(folder)
    settings = [dict(key) for key in groups]
    known = [each for each in settings if "" not in each]
    keys = [key for key in dict.fromkeys(key for each in known for key in each) if key != _TRIAL]
    keys = [key for key in keys if len({each.get(key) for each in known}) > 1]
    if len(groups) == 1 or not (keys or _TRIAL in settings[0]):
        return "", {folder: [folder] for folder in jobs}
    short = [key.rpartition(".")[2] for key in keys]
    title = ", ".join(short if len(set(short)) == len(short) else keys)
    title = f"trial: {title}".rstrip(": ") if any(_TRIAL in each for each in known) else title
    names = [
        folders[0] if "" in each else _name(each, keys)
        for each, folders in zip(settings, groups.values(), strict=True)
    ]
    if len(set(names)) < len(names):  # For instance two paths that end alike.
        title, names = "", [folders[0] for folders in groups.values()]
    return title, dict(zip(names, groups.values(), strict=True))


def _settings(job: JobRecord) -> dict[str, str]:
    """Return the settings of a job's command, without the seed and what a search adds for its own use."""
    pairs = (override.partition("=") for override in job.overrides)
    settings = {key.lstrip("+"): value for key, _, value in pairs}
    return {
        key: value
        for key, value in settings.items()
        if key != "seed" and (key == _TRIAL or not key.startswith(("hydra.", "callbacks.pruning.")))
    }


def _name(settings: Mapping[str, str], keys: list[str]) -> str:
    words = ", ".join(_short(settings[key]) if key in settings else "–" for key in keys)
    return f"{settings[_TRIAL]}: {words}".rstrip(": ") if _TRIAL in settings else words


def _short(value: str) -> str:
    """Return a setting's value to three digits if it is a number, and without its folders if it is a path."""
    try:
        return f"{float(value):.3g}" if "." in value or "e" in value.lower() else value
    except ValueError:
        return Path(value).name if "/" in value else value.strip("'\"")
