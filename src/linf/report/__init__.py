"""Reports: `evaluations` reads, `tables` and `figures` present, `findings` words, and `page` writes it all."""

from linf.report.evaluations import find_runs, read_run
from linf.report.page import write_report

__all__ = ["find_runs", "read_run", "write_report"]
