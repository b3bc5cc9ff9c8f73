"""Where the tests find their data: the arrays beside them, and data sets that a clone does not have."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "tests" / "reference"
"""Small arrays of the published code; its README says where each is from."""
SHARED = ROOT.parent / "shared"
"""A folder beside the clone with what is too large for git; tests that need it are skipped without it."""
DATA = Path(os.environ.get("LINF_TEST_DATA") or SHARED / "data")
