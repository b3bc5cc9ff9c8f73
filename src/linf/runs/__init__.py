"""What surrounds a run: its folder, ranks, signals, record, sweep and search."""

from pathlib import Path

CONF = (Path(__file__).parents[1] / "conf").resolve()
"""The config groups: in a wheel a folder of the package, in a checkout its top-level ``conf`` by a link."""
