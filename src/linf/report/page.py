"""Folder of a report: a self-contained page, with its figures and tables also as files beside it."""

import base64
import json
import os
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jinja2
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from linf.errors import UsageError
from linf.evaluation.fonts import save_figure
from linf.evaluation.schema import METRICS
from linf.files import file_errors
from linf.report.caveats import caveats, cost_finding, metric_sentences, source_findings
from linf.report.collection import member_seeds, with_distinct_labels
from linf.report.crops import detail_figures, detail_findings
from linf.report.details import Detail, read_details
from linf.report.evaluations import EvaluationRun
from linf.report.sections import SECTIONS, section_figures
from linf.report.selection import common_headline, datasets
from linf.report.sliders import Slider, detail_sliders
from linf.report.story import story
from linf.report.style import STYLE
from linf.report.tables import all_tables, safe_name
from linf.report.typesetting import html_tables, latex, markdown

GENERATOR_TAG = '<meta name="generator" content="linf report"/>'
"""It distinguishes a report, which may be replaced, from any other folder, which may not."""


def write_report(runs: Sequence[EvaluationRun], out: str | Path, *, force: bool = False) -> Path:
    """Write ``index.html``, ``figures/``, ``crops/`` and ``tables/``. They are written beside ``out`` and moved there
    when complete; an older report is removed only then.

    Args:
        runs: from `linf.report.find_runs` or `linf.report.read_run`.
        out: a new folder, an empty one, or with ``force`` an older report.
        force: whether to replace an older report.

    Returns:
        The page's path.

    Raises:
        UsageError: ``out`` is something else, or cannot be written to.
    """
    out, runs = Path(out), with_distinct_labels(runs)
    _check_out(out, force, runs)
    details, tables = read_details(runs), all_tables(runs)
    figures, sliders = section_figures(runs) | detail_figures(details), detail_sliders(details)
    with file_errors(f"cannot write {out}"):
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as aside:
            new, old = Path(aside) / "new", Path(aside) / "old"
            images = _write_figures(figures, new / "figures")
            (new / "crops").mkdir()
            for name, slider in sliders.items():
                for file, content in slider.files(name).items():
                    (new / "crops" / file).write_bytes(content)
            (new / "tables").mkdir()
            for name, table in tables.items():
                written = {"csv": table.to_csv(index=False), "md": markdown(table), "tex": latex(table)}
                for kind, text in written.items():
                    (new / "tables" / f"{name}.{kind}").write_text(text, encoding="utf-8")
            (new / "index.html").write_text(
                render_page(runs, images, tables, details, sliders), encoding="utf-8"
            )
            if out.exists():
                os.rename(out, old)
            try:
                os.rename(new, out)
            except BaseException:  # Ctrl-C, too.
                if old.exists():
                    os.rename(old, out)
                raise
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
                dated = {"Date": None} if kind == "svg" else None
                save_figure(figure, folder / f"{name}.{kind}", metadata=dated)
                figure.set_layout_engine("none")  # Both files have the same layout.
        # Photographs are no smaller in SVG, and many viewers blur them there.
        kind = "png" if name.startswith("details_") else "svg"
        content = base64.b64encode((folder / f"{name}.{kind}").read_bytes()).decode()
        images[name] = f"data:image/{kinds[kind]};base64,{content}"
    return images


def render_page(
    runs: Sequence[EvaluationRun],
    images: dict[str, str],
    tables: dict[str, pd.DataFrame],
    details: Sequence[Detail],
    sliders: dict[str, Slider],
) -> str:
    """Render the page as HTML.

    Args:
        runs: with distinct labels.
        images: the figures by their names, as URLs.
        tables: from `all_tables`.
        details: from `read_details`.
        sliders: from `detail_sliders`.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("linf.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        generator=GENERATOR_TAG,
        runs=runs,
        steps=story(runs),
        sections=SECTIONS,
        images=images,
        tables={name: partial(html_tables, name, table) for name, table in tables.items()},
        source_findings=source_findings,
        detail_findings=detail_findings(runs, details),
        caveats=caveats,
        metric_sentences=metric_sentences(runs),
        member_seeds=member_seeds,
        cost=cost_finding(runs),
        metrics=METRICS,
        headline=common_headline(runs),
        datasets=datasets(runs),
        details=[detail.shown for detail in details],
        sliders=sliders,
        safe_name=safe_name,
        json=partial(json.dumps, indent=2, ensure_ascii=False),
    )
