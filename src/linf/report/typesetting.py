"""Tables of a report in print: HTML, Markdown and LaTeX."""

import html
import re
from collections.abc import Callable
from itertools import accumulate, groupby

import pandas as pd
from pandas.io.formats.style import Styler

from linf.evaluation.schema import COLUMNS, Column

WIDEST = 12
"""Columns of numbers that fit side by side on a page."""

_BY_TITLE = {column.title: column for column in COLUMNS.values()}
_OF_METRIC = ("first", "second", "difference", "mean", "low", "high")
_PUBLISHED = {"psnr": Column("psnr", 2), "ssim": Column("ssim", 4), "lpips": Column("lpips", 3)}


def _column(name: str) -> Column:
    """The schema's column behind one of a report's, whose name may be its title, after a scale."""
    _, title = _split(name.removesuffix(" ±"))
    return _BY_TITLE.get(title) or COLUMNS.get(title) or _PUBLISHED.get(title) or Column(title)


def _split(column: str) -> tuple[str, str]:
    """A column's scale, such as ``×4``, and its title; without a scale, nothing and its name."""
    scale, space, title = column.partition(" ")
    return (scale, title) if column.startswith("×") and space else ("", column)


def formatted(table: pd.DataFrame) -> pd.DataFrame:
    """A table as text: each number to its column's digits, or to those of the metric that its line names. A column of
    deviations, whose name ends in ±, is written into the one before.
    """
    text = table.astype(object)
    metrics = [_column(name) for name in table["metric"]] if "metric" in table else None
    for name in table:
        columns = metrics if metrics and name in _OF_METRIC else [_column(name)] * len(table)
        text[name] = [
            of.format(value) if isinstance(value, int | float) else str(value)
            for of, value in zip(columns, table[name], strict=True)
        ]
    if metrics:
        text["metric"] = [of.title for of in metrics]
    for name in [name for name in table if name.endswith(" ±")]:
        mean = name.removesuffix(" ±")
        text[mean] = text[mean].mask(table[name] > 0, text[mean] + " ± " + text[name])
    return text[_printed(table)]


def _printed(table: pd.DataFrame) -> list[str]:
    """The columns that are printed."""
    return [name for name in table if not name.endswith(" ±")]


def _numeric(table: pd.DataFrame) -> list[bool]:
    """Whether each printed column holds numbers."""
    return [*map(pd.api.types.is_numeric_dtype, table[_printed(table)].dtypes)]


def ranks(table: pd.DataFrame) -> pd.DataFrame:
    """1 where the best value of a printed column stands, 2 for the second, to the printed digits, and 0 elsewhere; only
    in a table of `results_table`. It is over all runs, or within each where their images or LR differ, so that each
    has a line of bicubic.
    """
    ranked = pd.DataFrame(0, index=table.index, columns=_printed(table))
    if table.columns[:2].tolist() != ["run", "system"]:
        return ranked
    alike = (table["system"] == "bicubic").sum() <= 1
    for _, of in [("", table)] if alike else table.groupby("run"):
        for name in ranked.columns.difference(["run", "system"]):
            column = _column(name)
            text = of[name].map(column.format)
            ordered = (of[name] * column.better).dropna().sort_values(ascending=False)
            distinct = list(dict.fromkeys(text[ordered.index]))
            if column.better and len(distinct) > 1:
                ranked.loc[of.index, name] = text.map({distinct[0]: 1, distinct[1]: 2}).fillna(0).astype(int)
    return ranked


def _groups(table: pd.DataFrame) -> list[tuple[str, list[str]]]:
    """Columns by their scale, which is empty for those without."""
    return [(scale, list(names)) for scale, names in groupby(table, lambda name: _split(name)[0])]


def _pieces(table: pd.DataFrame) -> list[pd.DataFrame]:
    """A table of many scales as several, each narrow enough for a page, without the lines that are empty there."""
    (_, first), *scales = _groups(table)
    pieces: list[list[str]] = []
    for _, names in scales:
        if not pieces or len(_printed(table[pieces[-1] + names])) > WIDEST:
            pieces.append([])
        pieces[-1] += names
    return [table[first + names].dropna(how="all", subset=names) for names in pieces] or [table]


def _styler(text: pd.DataFrame, escape: Callable[[str], str]) -> Styler:
    """A table of text, its scales above its titles."""
    headers = [tuple(map(escape, _split(name))) for name in text]
    text = text.map(escape)
    grouped = any(scale for scale, _ in headers)
    text.columns = pd.MultiIndex.from_tuples(headers) if grouped else pd.Index([h[1] for h in headers])
    return text.style.hide(axis="index")


def html_tables(name: str, table: pd.DataFrame) -> str:
    """HTML tables, each narrow enough for a page, with `ranks` and each run's label once.

    Args:
        name: of the table, as in `all_tables`.
        table: numbers as numbers.
    """
    return "\n".join(_html(f"{name}_{n}", of) for n, of in enumerate(_pieces(table)))


def _html(name: str, table: pd.DataFrame) -> str:
    numeric = _numeric(table)
    text, first = formatted(table), table.columns[0]
    repeated = text[first] == text[first].shift()
    text[first] = text[first].mask(repeated, "")
    classes = pd.DataFrame("", index=text.index, columns=text.columns)
    classes.loc[:, numeric] += "number "
    classes += ranks(table).map({0: "", 1: "best ", 2: "second "}.__getitem__)
    classes.loc[~repeated, :] += "first"
    styler = _styler(text, html.escape)
    classes.columns = styler.columns
    heads = [f"th.level{styler.columns.nlevels - 1}.col{n}" for n in range(len(numeric)) if numeric[n]]
    styler.set_table_styles([{"selector": head, "props": "text-align: right"} for head in heads])
    styler.set_td_classes(classes).set_uuid(re.sub(r"\W", "_", name))
    return f'<div class="wide">{styler.to_html()}</div>'


def markdown(table: pd.DataFrame) -> str:
    """A pipe table with the best of each column in bold and the second underlined."""
    text = formatted(table).map(lambda cell: re.sub(r"([|*_`<\\])", r"\\\1", cell))
    of = ranks(table)
    text = text.mask(of == 1, "**" + text + "**").mask(of == 2, "<ins>" + text + "</ins>")
    sides = ["right" if numeric else "left" for numeric in _numeric(table)]
    return text.to_markdown(index=False, tablefmt="pipe", disable_numparse=True, colalign=sides) + "\n"


_LATEX = {c: rf"\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "τ": r"$\tau$",
    "σ": r"$\sigma$",
    "×": r"$\times$",
    "−": r"$-$",
    "∞": r"$\infty$",
    "±": r"$\pm$",
    "–": "--",
    "§": r"\S{}",
    # At the start of a line the end of the one before, \\ or \midrule, would take these for itself.
    "[": "{[}",
    "*": "{*}",
}


def escape_latex(text: str) -> str:
    """Text as LaTeX prints it, with the report's mathematical signs as mathematics."""
    return "".join(_LATEX.get(character, character) for character in text)


def latex(table: pd.DataFrame) -> str:
    """Tabulars for booktabs, with the columns of a scale under its name, the best of each column in bold and the second
    underlined.
    """
    tabulars = "\n\n\\bigskip\n".join(map(_tabular, _pieces(table)))
    return f"% \\usepackage{{booktabs,graphicx}}\n{tabulars}\n"


def _tabular(table: pd.DataFrame) -> str:
    styler = _styler(formatted(table), escape_latex)
    of = ranks(table).set_axis(styler.columns, axis="columns")
    # Styler's name for a command and how it holds the cell.
    commands = {0: "", 1: "textbf: --rwrap;", 2: "underline: --rwrap;"}
    styler.apply(lambda _: of.map(commands.__getitem__), axis=None)
    sides = "".join("r" if numeric else "l" for numeric in _numeric(table))
    tabular = styler.to_latex(column_format=sides, hrules=True, multicol_align="c").rstrip("\n")
    if styler.columns.nlevels > 1:  # Styler draws no rules under groups of columns.
        groups = _groups(table[_printed(table)])
        ends = accumulate(len(names) for _, names in groups)
        rules = [
            rf"\cmidrule(lr){{{end - len(names) + 1}-{end}}}"
            for end, (scale, names) in zip(ends, groups, strict=True)
            if scale
        ]
        tabular = tabular.replace("\\\\\n", f"\\\\\n{''.join(rules)}\n", 1)
    return f"\\resizebox{{\\textwidth}}{{!}}{{%\n{tabular}}}" if len(sides) > WIDEST else tabular
