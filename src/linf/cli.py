"""Command lines: what a user mistyped comes back as one line of words, never as a traceback."""

import difflib
import os
import re
import sys
from collections.abc import Callable, Iterator

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from linf.errors import UsageError


def run(entry: Callable[[], object]) -> None:
    """Run a Hydra entry point; end with status 2 and one line where the user can mend it.

    Anything else is a defect of ours and keeps its traceback.
    """
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    try:
        entry()
    except Exception as error:
        chain = list(_causes(error))
        mistake = next((e for e in chain if isinstance(e, UsageError)), None)
        if mistake is None and isinstance(error, HydraException | OmegaConfBaseException):
            # Failing to construct something is only the user's mistake where the constructor said so.
            mistake = None if any("instantiat" in str(e) for e in chain) else chain[-1]
        if mistake is None:
            raise
        print(f"error: {_one_line(mistake, error)}", file=sys.stderr)
        raise SystemExit(2) from None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _one_line(mistake: BaseException, error: BaseException) -> str:
    text = " ".join((str(error) if mistake is not error and isinstance(error, HydraException) and not isinstance(mistake, UsageError) else str(mistake)).split())
    return text
