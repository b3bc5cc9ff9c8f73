"""The folder of a report: one page that needs nothing else, its figures and tables as files beside."""

import base64
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

import linf.report.findings as findings
from linf.errors import UsageError
from linf.report.crops import places
from linf.report.evaluations import Run, told_apart
from linf.report.figures import all_figures
from linf.report.style import STYLE
from linf.report.tables import METRICS, all_tables, datasets, headline, safe
from linf.report.typesetting import groups, latex, markdown, marks, pieces, shown, title

MARK = '<meta name="generator" content="linf report"/>'
"""What tells a report of ours from a folder that must be left alone."""


def write(runs: Sequence[Run], out: str | Path, *, force: bool = False) -> Path:
    """Write ``index.html``, ``figures/`` and ``tables/``.

    They are made beside ``out`` and moved there when complete; an older report is removed only then.

    Args:
        runs: from `linf.report.evaluations.find_runs` or `read_run`.
        out: a new folder, an empty one, or with ``force`` an older report.
        force: replace an older report.

    Returns:
        The page.

    Raises:
        UsageError: ``out`` is something else, or cannot be written.
    """
    out, runs = Path(out), told_apart(runs)
    _check(out, force, runs)
    figures, tables = all_figures(runs), all_tables(runs)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as aside:
            new, old = Path(aside) / "new", Path(aside) / "old"
            images = _write_figures(figures, new / "figures")
            _write_tables(tables, new / "tables")
            (new / "index.html").write_text(page(runs, images, tables), encoding="utf-8")
            if out.exists():
                os.rename(out, old)
            try:
                os.rename(new, out)
            except OSError:
                if old.exists():
                    os.rename(old, out)
                raise
    except OSError as error:
        raise UsageError(f"cannot write {out}: {error.strerror or error}") from error
    return out / "index.html"


def _check(out: Path, force: bool, runs: Sequence[Run]) -> None:
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file: choose another --out")
    if not out.exists() or not any(out.iterdir()):
        return
    index = out / "index.html"
    ours = index.is_file() and MARK in index.read_text(encoding="utf-8", errors="replace")[:2000]
    inside = [run.folder for run in runs if run.folder.resolve().is_relative_to(out.resolve())]
    if not ours or inside:
        raise UsageError(f"{out} holds something other than a report: choose another --out")
    if not force:
        raise UsageError(f"{out} holds a report: choose another --out, or --force to replace it")


def _write_figures(figures: dict[str, Figure], folder: Path) -> dict[str, str]:
    """PNG and SVG of each; returns what a page shows, as data: addresses."""
    folder.mkdir(parents=True)
    images = {}
    for name, figure in figures.items():
        kinds = {"svg": "svg+xml", "png": "png"}
        with rc_context(STYLE):
            for kind in kinds:
                figure.savefig(folder / f"{name}.{kind}", metadata={"Date": None} if kind == "svg" else None)
                figure.set_layout_engine("none")  # What is laid out once stays so.
        # Photographs in SVG are no smaller, and many readers blur them.
        kind = "png" if name.startswith("details_") else "svg"
        content = base64.b64encode((folder / f"{name}.{kind}").read_bytes()).decode()
        images[name] = f"data:image/{kinds[kind]};base64,{content}"
    return images


def _write_tables(tables: dict[str, pd.DataFrame], folder: Path) -> None:
    folder.mkdir(parents=True)
    for name, table in tables.items():
        written = {"csv": table.to_csv(index=False), "md": markdown(name, table), "tex": latex(name, table)}
        for kind, text in written.items():
            (folder / f"{name}.{kind}").write_text(text, encoding="utf-8")


PARTS: dict[str, tuple[str, Callable[[Sequence[Run], str], list[str]], str]] = {
    "temperature": (
        "What temperature buys",
        findings.temperature,
        "Means over images against τ. Level lines have no temperature; the thin black line is the closed form.",
    ),
    "plane": (
        "Perception and distortion",
        findings.plane,
        "Each run's path over τ. Up and to the right is better.",
    ),
    "scale": (
        "Over scales",
        findings.scale,
        "Each run at its lowest temperature, and the same less bicubic.",
    ),
    "calibration": (
        "Calibration",
        findings.calibration,
        "Shares within central intervals; above the diagonal they are too wide, below it too narrow.",
    ),
}
"""Of each data set: a figure's title, what it shows, and how to read it."""


def page(runs: Sequence[Run], images: dict[str, str], tables: dict[str, pd.DataFrame]) -> str:
    """The page as HTML.

    Args:
        runs: with labels that differ.
        images: of `all_figures`, as addresses.
        tables: of `all_tables`.
    """
    sections = []
    for dataset in datasets(runs):
        results = f"results_{safe(dataset)}"
        parts = [
            {
                "title": title,
                "told": tell(runs, dataset),
                "image": images.get(f"{kind}_{safe(dataset)}"),
                "caption": caption,
            }
            for kind, (title, tell, caption) in PARTS.items()
        ]
        sections.append({"title": dataset, "results": _printed(results, tables[results]), "parts": parts})
    shown_too = [name for name in ("distribution", "calibration", "published") if name in tables]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("linf.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        mark=MARK,
        headline=METRICS[headline(runs)].title,
        notes=findings.notes(runs),
        sections=sections,
        details={place: images[place.name] for place in places(runs)},
        on_details=findings.details(runs),
        tables={name: _printed(name, tables[name]) for name in shown_too},
        runs=[_described(run) for run in runs],
    )


def _printed(name: str, table: pd.DataFrame) -> list[dict[str, Any]]:
    """Tables for the template: scales and titles over columns; each cell's words, whether bold, whether a number."""
    printed = []
    for piece in pieces(table):
        number = [pd.api.types.is_numeric_dtype(piece[column]) for column in piece]
        lines = zip(shown(piece).values.tolist(), marks(name, piece).values.tolist(), strict=True)
        printed.append(
            {
                "groups": [(scale, len(columns)) for scale, columns in groups(piece)],
                "titles": list(zip(map(title, piece), number, strict=True)),
                "lines": [list(zip(*line, number, strict=True)) for line in lines],
            }
        )
    return printed


def _described(run: Run) -> dict[str, Any]:
    """How a run came about, in words."""
    about = run.about
    parameters, trained = about["model"].get("parameters"), about.get("max_trained_scale")
    protocol, git = {"name": "?", "border": "?"} | about["protocol"], about.get("git") or {}
    temperatures = run.metrics["temperature"].dropna().unique()
    facts = {"folder": run.folder, "model": about["model"]["name"]}
    if isinstance(parameters, int):
        facts["model"] += f", {parameters:,} parameters"
    for name in ("checkpoint", "prior"):
        if about.get(name):
            facts |= {name: about[name].get("path"), f"sha256 of {name}": about[name].get("sha256")}
    facts |= {
        "protocol": f"{protocol['name']}: {METRICS[run.headline].title}, border {protocol['border']}",
        "temperatures": ", ".join(f"{t:g}" for t in temperatures) or "none",
        "trained up to": f"×{trained:g}" if trained else "not known",
        "commit": git.get("commit", "not known") + ", with changes" * bool(git.get("dirty")),
        "versions": ", ".join(f"{name} {version}" for name, version in (about.get("versions") or {}).items()),
    }
    facts |= {name: about[name] for name in ("samples", "seed", "device") if name in about}
    settings = json.dumps(about["model"].get("config") or {}, indent=2, ensure_ascii=False)
    skipped = about.get("skipped") or {}
    return {"label": run.label, "facts": facts, "skipped": skipped, "config": run.config, "model": settings}
