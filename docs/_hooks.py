"""What the site adds to the pages of docs/: files from elsewhere in the repository, and equations without a script."""

import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from markdown.extensions.toc import slugify
from math_core import LatexToMathML
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

DOCS = Path(__file__).parent
ROOT = DOCS.parent
ROOT_PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Pages of the site that lie at the root of the repository, where a forge looks for them."""

LINK = re.compile(
    r"```.*?```|\[(?P<text>[^\[\]]+)\]\((?!\w+:|#)(?P<target>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)", re.DOTALL
)
VERBATIM = r"<(?P<tag>pre|code|script|style|svg)\b.*?</(?P=tag)>"
MARKED = re.compile(VERBATIM + r"|\\\[(?P<display>.+?)\\\]|\\\((?P<inline>.+?)\\\)", re.DOTALL)
SECTION = re.compile(VERBATIM + r"|METHOD §(?P<number>\d+)", re.DOTALL)
NOTEBOOK = re.compile(r'(?<=href=")(?!\w+:)([^"#]+)\.ipynb(?=[#"])')
DOLLARS = re.compile(VERBATIM + r"|\$\$(?P<display>.+?)\$\$|\$(?P<inline>[^$]+?)\$", re.DOTALL)

FETCHED = re.compile(
    r'<script src="">.*?<!-- End of mathjax configuration -->|<script type="module">.*?</script>', re.DOTALL
)
SECTIONS = {
    number: slugify(f"{number}. {title}", "-")
    for number, title in re.findall(
        r"^## (\d+)\. (.*)", (DOCS / "method.md").read_text(encoding="utf-8"), re.MULTILINE
    )
}
"""The anchors of the sections of the method, by number."""


@event_priority(100)
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages at the root, the notebooks, a font, and a page of the API for each package in the nav. This comes
    before mkdocs-jupyter looks for notebooks.
    """
    for source, uri in ROOT_PAGES.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / source)))
    files.append(File.generated(config, "STIXTwoMath-Regular.ttf", abs_src_path=str(_font())))
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        files.append(File(f"notebooks/{path.name}", str(ROOT), config.site_dir, config.use_directory_urls))
    for uri in _uris(config.nav):
        if uri.startswith("api/") and not files.get_file_from_path(uri):
            name = uri.removeprefix("api/").removesuffix(".md")
            files.append(File.generated(config, uri, content=f"# {name}\n\n::: {name}\n"))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Keep the links between pages, and the text alone of links to files that are no part of the site."""
    home = ROOT if page.file.src_uri in ROOT_PAGES.values() else DOCS

    def link(found: re.Match[str]) -> str:
        if found["target"] is None or (home == DOCS and files.get_file_from_path(found["target"])):
            return found[0]
        path = (home / found["target"]).resolve().relative_to(ROOT).as_posix()
        uri = ROOT_PAGES.get(path, path.removeprefix("docs/"))
        if files.get_file_from_path(uri):
            return f"[{found['text']}]({uri}{found['anchor'] or ''})"
        return found["text"]

    return LINK.sub(link, markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Set equations as MathML, which every browser shows by itself: ``$…$`` of notebooks, and what arithmatex marked.
    References to sections of the method become links, and a notebook loses the scripts that would fetch others; its
    links to other notebooks lead to their pages.
    """
    pattern = MARKED
    if page.file.src_uri.endswith(".ipynb"):
        html, pattern = NOTEBOOK.sub(r"\1.html", FETCHED.sub("", html)), DOLLARS
    converter = LatexToMathML()

    def equation(found: re.Match[str]) -> str:
        if found["tag"]:
            return found[0]
        display = found["display"] is not None
        tex = (found["display"] if display else found["inline"]).replace("&amp;", "&")
        tex = tex.replace("&lt;", "<").replace("&gt;", ">")
        return converter.convert_with_local_state(tex, displaystyle=display)

    def section(found: re.Match[str]) -> str:
        if found["tag"]:
            return found[0]
        url = get_relative_url(f"method.html#{SECTIONS[found['number']]}", page.url)
        return f'<a href="{url}">{found[0]}</a>'

    return SECTION.sub(section, pattern.sub(equation, html))


def _uris(nav: Any) -> Iterator[str]:
    """Every page that the nav names."""
    if isinstance(nav, str):
        yield nav
    else:
        for part in nav.values() if isinstance(nav, dict) else nav:
            yield from _uris(part)


def _font() -> Path:
    """STIX Two Math, by which browsers set equations where the machine has no such font: ziamath holds it."""
    spec = find_spec("ziamath")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "fonts" / "STIXTwoMath-Regular.ttf"
