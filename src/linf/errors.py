"""What the commands print in one line, without a traceback."""

import sys
from typing import NoReturn


class UsageError(ValueError):
    """A mistake of the user's that one line can mend: what was given, what is allowed, what to do."""


def end(mistake: object, status: int = 2) -> NoReturn:
    """End the command: the mistake as one line on stderr, and a status."""
    print(f"error: {' '.join(str(mistake).split())}", file=sys.stderr)
    raise SystemExit(status)
