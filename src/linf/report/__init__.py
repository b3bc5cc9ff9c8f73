"""Evaluations → tables, figures and one page: `runs` reads, `tables` and `figures` make, `page` writes."""

from linf.report.page import write
from linf.report.runs import find_runs, read_run

__all__ = ["find_runs", "read_run", "write"]
