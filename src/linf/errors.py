"""What the entry points print in one line, without a traceback."""


class UsageError(ValueError):
    """A mistake of the user's that one line can mend: what was given, what is allowed, what to do."""
