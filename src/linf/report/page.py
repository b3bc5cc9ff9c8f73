"""Folder of a report: a self-contained page, with its figures and tables also as files beside it."""

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
from linf.evaluation.schema import METRICS
from linf.report.crops import shown_images
from linf.report.evaluations import EvaluationRun, with_distinct_labels
from linf.report.figures import all_figures
from linf.report.style import STYLE
from linf.report.tables import all_tables, common_headline, datasets, safe_name
from linf.report.typesetting import html_tables, latex, markdown

GENERATOR_TAG = '<meta name="generator" content="linf report"/>'
"""It distinguishes a report, which may be replaced, from any other folder, which may not."""


def write_report(runs: Sequence[EvaluationRun], out: str | Path, *, force: bool = False) -> Path:
    """Write ``index.html``, ``figures/`` and ``tables/``.

    They are written beside ``out`` and moved there when complete; an older report is removed only then.

    Args:
        runs: from `linf.report.evaluations.find_runs` or `read_run`.
        out: a new folder, an empty one, or with ``force`` an older report.
        force: whether to replace an older report.

    Returns:
        The page's path.

    Raises:
        UsageError: ``out`` is something else, or cannot be written to.
    """
    out, runs = Path(out), with_distinct_labels(runs)
    _check_out(out, force, runs)
    figures, tables = all_figures(runs), all_tables(runs)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as aside:
            new, old = Path(aside) / "new", Path(aside) / "old"
            images = _write_figures(figures, new / "figures")
            _write_tables(tables, new / "tables")
            (new / "index.html").write_text(render_page(runs, images, tables), encoding="utf-8")
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


def _check_out(out: Path, force: bool, runs: Sequence[EvaluationRun]) -> None:
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file: choose another --out")
    if not out.exists() or not any(out.iterdir()):
        return
    index = out / "index.html"
    ours = index.is_file() and GENERATOR_TAG in index.read_text(encoding="utf-8", errors="replace")[:2000]
    inside = [run.folder for run in runs if run.folder.resolve().is_relative_to(out.resolve())]
    if not ours or inside:
        raise UsageError(f"{out} holds something other than a report: choose another --out")
    if not force:
        raise UsageError(f"{out} holds a report: choose another --out, or --force to replace it")


def _write_figures(figures: dict[str, Figure], folder: Path) -> dict[str, str]:
    """Write each figure as PNG and SVG, and return the one that the page shows as a data URL."""
    folder.mkdir(parents=True)
    images = {}
    for name, figure in figures.items():
        kinds = {"svg": "svg+xml", "png": "png"}
        with rc_context(STYLE):
            for kind in kinds:
                figure.savefig(folder / f"{name}.{kind}", metadata={"Date": None} if kind == "svg" else None)
                figure.set_layout_engine("none")  # Both files have the same layout.
        # Photographs are no smaller in SVG, and many viewers blur them there.
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


_PARTS: dict[str, tuple[str, Callable[[Sequence[EvaluationRun], str], list[str]], str]] = {
    "temperature": (
        "Temperature",
        findings.temperature_findings,
        "Means over images against τ. Level lines have no temperature; the thin black line is the closed form.",
    ),
    "plane": (
        "Perception and distortion",
        findings.plane_findings,
        "Each run's path over τ. Up and to the right is better.",
    ),
    "scale": (
        "Scale",
        findings.scale_findings,
        "PSNR of each run, at its lowest temperature, and its gain over bicubic.",
    ),
    "calibration": (
        "Calibration",
        findings.calibration_findings,
        "Share covered by central intervals. Above the diagonal, intervals are too wide; below it, too narrow.",
    ),
}
# For each data set and kind of figure: its title, its findings, and its caption.


def render_page(
    runs: Sequence[EvaluationRun], images: dict[str, str], tables: dict[str, pd.DataFrame]
) -> str:
    """Render the page as HTML.

    Args:
        runs: with distinct labels.
        images: the figures of `all_figures`, as URLs.
        tables: from `all_tables`.
    """
    sections = []
    for dataset in datasets(runs):
        results = f"results_{safe_name(dataset)}"
        parts = [
            {
                "title": title,
                "findings": find(runs, dataset),
                "image": images.get(f"{kind}_{safe_name(dataset)}"),
                "caption": caption,
            }
            for kind, (title, find, caption) in _PARTS.items()
        ]
        sections.append({"title": dataset, "results": html_tables(results, tables[results]), "parts": parts})
    other = [name for name in ("distribution", "calibration", "published") if name in tables]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("linf.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        generator=GENERATOR_TAG,
        headline=METRICS[common_headline(runs)].title,
        caveats=findings.caveats(runs),
        sections=sections,
        details={shown: images[shown.name] for shown in shown_images(runs)},
        detail_findings=findings.detail_findings(runs),
        tables={name: html_tables(name, tables[name]) for name in other},
        runs=[_described(run) for run in runs],
    )


def _described(run: EvaluationRun) -> dict[str, Any]:
    """How a run was made, as text."""
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
        "trained up to": f"×{trained:g}" if trained else "unknown",
        "commit": git.get("commit", "unknown") + ", with uncommitted changes" * bool(git.get("dirty")),
        "versions": ", ".join(f"{name} {version}" for name, version in (about.get("versions") or {}).items()),
    }
    facts |= {name: about[name] for name in ("samples", "seed", "device") if name in about}
    settings = json.dumps(about["model"].get("config") or {}, indent=2, ensure_ascii=False)
    skipped = about.get("skipped") or {}
    return {"label": run.label, "facts": facts, "skipped": skipped, "config": run.config, "model": settings}
