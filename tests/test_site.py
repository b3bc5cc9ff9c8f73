"""The site of docs/: strict, whole without a network, each thing said on one page only."""

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from helpers.paths import ROOT

PAGES = [ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def said(path: Path) -> set[str]:
    """The sentences and rows of tables of eight words or more, without code blocks."""
    text = re.sub(r"```.*?```", "\n\n", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    blocks = re.split(r"\n\s*\n|\n(?=[|#-])", text)
    sentences = (part for block in blocks for part in re.split(r"(?<=[.:!?])\s+", " ".join(block.split())))
    return {each for each in sentences if len(re.findall(r"[^\W\d]{2,}", each)) >= 8}


def test_no_page_repeats_another() -> None:
    pages = defaultdict(list)
    for path in PAGES:
        for each in said(path):
            pages[each].append(path.name)
    assert len(pages) > 300
    assert {each: names for each, names in pages.items() if len(names) > 1} == {}


def broken_links(site: Path, pages: dict[str, str]) -> list[tuple[str, str]]:
    """The links and images of a site's pages that lead to no file, by the page; those of 404.html are absolute."""
    found = (
        (name, target)
        for name, text in pages.items()
        for target in set(re.findall(r'(?:href|src)="([^"#]+)', text))
        if name != "404.html" and not re.match(r"\w+:", target)
    )
    return [(name, target) for name, target in found if not (site / name).parent.joinpath(target).exists()]


@pytest.mark.slow
def test_links_between_notebooks_lead_to_their_pages(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# Start\n")
    (tmp_path / "mkdocs.yml").write_text(
        "site_name: a\nuse_directory_urls: false\ntheme: mkdocs\nnav: [index.md]\n"
        f"hooks: [{ROOT / 'docs' / '_hooks.py'}]\nplugins: [mkdocs-jupyter]\n"
    )
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (page, *_) = (tmp_path / "site" / "notebooks").glob("01_*.html")
    assert ".ipynb" not in "".join(re.findall(r'href="([^"]+)"', page.read_text()))


@pytest.mark.thorough  # CI builds it as strictly.
def test_the_site_is_built_strictly_and_fetches_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {path.relative_to(tmp_path).as_posix(): path.read_text() for path in tmp_path.rglob("*.html")}
    fetched = re.compile(
        r"<(?:script|img|link|iframe)\b[^>]*(?:src|href)=\"(?:https?:)?//[^\"]*|import\(\"http[^\"]*"
    )
    assert {name: found for name, text in pages.items() if (found := fetched.findall(text))} == {}
    assert (tmp_path / "STIXTwoMath-Regular.ttf").stat().st_size > 1e5
    assert pages["method.html"].count("<math") > 20
    assert pages["notebooks/02_flow_by_hand.html"].count("<math") > 20
    assert not [
        name for name, text in pages.items() if r"\tau" in re.sub(r"<pre.*?</pre>", "", text, flags=re.DOTALL)
    ]
    assert 'method.html#4-flow">METHOD §4</a>' in pages["api/linf.models.html"]
    assert broken_links(tmp_path, pages) == []
    for name in ("linf.models.linf.LINF", "linf.models.flow.ConditionalFlow"):
        assert f'id="{name}"' in pages["api/linf.models.html"]
