"""Tables of a report: how they are printed, in HTML, Markdown and LaTeX."""

import math
import re
from itertools import groupby

import pandas as pd
from tabulate import tabulate

from linf.report.tables import BY_TITLE, METRICS

WIDEST = 12
"""Columns of figures side by side."""


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """The same as words: digits as usual for each metric, ∞ and – where there is no number."""
    digits = {"scale": None, "temperature": None, "psnr": 2, "ssim": 4, "images": 0} | {
        name: metric.digits for name, metric in METRICS.items()
    }
    words = table.astype(object)
    for column in table:
        title = column.split(" ", 1)[1] if column.startswith("×") else column
        places = BY_TITLE[title].digits if title in BY_TITLE else digits.get(title, 3)
        words[column] = [_word(value, places) for value in table[column]]
    return words


def _word(value: object, digits: int | None) -> str:
    if not isinstance(value, int | float):
        return str(value)
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return (f"{value:g}" if digits is None else f"{value:.{digits}f}").replace("-", "−")


def best(table: pd.DataFrame) -> pd.DataFrame:
    """Where a run's best temperature stands, to the digits that are shown; of a table of `results`."""
    marked = pd.DataFrame(False, index=table.index, columns=table.columns)
    words = shown(table)
    for column in table.columns.difference(["run", "system"]):
        metric = BY_TITLE.get(column.split(" ", 1)[-1])
        for _, of in table[table["system"].str.startswith("τ=")].groupby("run"):
            values = of[column].dropna()
            if metric and metric.better and len(of) > 1 and len(values):
                first = (values * metric.better).idxmax()
                marked.loc[of.index, column] = words.loc[of.index, column] == words.loc[first, column]
    return marked


def groups(table: pd.DataFrame) -> list[tuple[str, list[str]]]:
    """Its columns, those of one scale together under its name, such as ``×4``; others under none."""
    named = groupby(table, lambda column: column.split(" ")[0] if column.startswith("×") else "")
    return [(name, list(columns)) for name, columns in named]


def title(column: str) -> str:
    """What stands over a column, under its scale."""
    return column.split(" ", 1)[1] if column.startswith("×") else column


def pieces(table: pd.DataFrame) -> list[pd.DataFrame]:
    """A table of many scales as several that a page is wide enough for."""
    (_, first), *of_scales = groups(table)
    parts: list[list[str]] = []
    for _, columns in of_scales:
        if not parts or len(parts[-1]) + len(columns) > WIDEST:
            parts.append([])
        parts[-1] += columns
    return [table[first + part] for part in parts] or [table]


def marks(name: str, table: pd.DataFrame) -> pd.DataFrame:
    """What is printed bold in a table of `all_tables`."""
    return (
        best(table)
        if name.startswith("results_")
        else pd.DataFrame(False, index=table.index, columns=table.columns)
    )


def markdown(name: str, table: pd.DataFrame) -> str:
    """A pipe table; the best temperatures in bold."""
    words = shown(table).map(lambda word: re.sub(r"([|*_`<\\])", r"\\\1", word))
    words = words.mask(marks(name, table), "**" + words + "**")
    sides = ["right" if pd.api.types.is_numeric_dtype(table[column]) else "left" for column in table]
    return tabulate(words.values.tolist(), list(words), "pipe", disable_numparse=True, colalign=sides) + "\n"


SPECIAL = {c: rf"\{c}" for c in "&%$#_{}"} | {
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
    "–": "--",
    "§": r"\S{}",
}


def escaped(text: str) -> str:
    """Words as LaTeX prints them."""
    return "".join(SPECIAL.get(character, character) for character in text)


def latex(name: str, table: pd.DataFrame) -> str:
    """Tabulars with booktabs; columns of one scale stand under its name, the best temperatures in bold."""
    tabulars = "\n\n\\bigskip\n".join(_tabular(name, piece) for piece in pieces(table))
    return f"% \\usepackage{{booktabs,graphicx}}\n{tabulars}\n"


def _tabular(name: str, table: pd.DataFrame) -> str:
    words = shown(table).map(escaped)
    words = words.mask(marks(name, table), r"\textbf{" + words + "}")
    sides = "".join("r" if pd.api.types.is_numeric_dtype(table[column]) else "l" for column in table)
    lines = [r"\begin{tabular}{" + sides + "}", r"\toprule"]
    if len(groups(table)) > 1:
        spans, rules, at = [], [], 1
        for scale, columns in groups(table):
            n = len(columns)
            spans.append(rf"\multicolumn{{{n}}}{{c}}{{{escaped(scale)}}}")
            rules += [rf"\cmidrule(lr){{{at}-{at + n - 1}}}"] * bool(scale)
            at += n
        lines += [" & ".join(spans) + r" \\", "".join(rules)]
    lines += [" & ".join(escaped(title(column)) for column in table) + r" \\", r"\midrule"]
    lines += [" & ".join(line) + r" \\" for line in words.values.tolist()]
    tabular = "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])
    wide = len(table.columns) > WIDEST
    return f"\\resizebox{{\\textwidth}}{{!}}{{%\n{tabular}}}" if wide else tabular
