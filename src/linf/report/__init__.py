"""Evaluations → tables, figures and one page: `runs` reads, `tables` and `figures` make, `page` writes."""

from linf.report.evaluations import find_runs, read_run
from linf.report.page import write

__all__ = ["find_runs", "read_run", "write"]
