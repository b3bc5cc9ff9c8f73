"""Reports: `evaluations` reads, `collection` finds and labels, `selection` chooses, `sections` and `tables` present,
`page` writes it all.
"""

from linf.report.collection import find_runs
from linf.report.evaluations import read_run
from linf.report.page import write_report

__all__ = ["find_runs", "read_run", "write_report"]
