"""The settings in a command, as a user writes them, in the form that Hydra's grammar reads.

What the grammar reads already stays as it is, letter for letter, but for three things: ``~`` is the home folder, a
value that is the path of an existing file or folder is that path whatever characters it has, and a dict with a
``_target_`` replaces what it names, where Hydra would merge the two.
"""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, OverrideType, Quote, QuotedString
from hydra.errors import HydraException

from linf.errors import UsageError
from linf.files import expand_home

_PLAIN = re.compile(r"[\w./:@%+|?*-]*", re.ASCII)
"""A value without characters of the grammar's, or unknown to it."""

_PATH = re.compile(r"(dir|folder|root|path|file|weights|_from)$")
"""The end of a setting's name whose value is a path."""


def readable_settings(arguments: Sequence[str], conf: Path) -> list[str]:
    """Return the arguments of a command with every setting in the form that Hydra reads.

    Args:
        arguments: As the user gave them.
        conf: The folder of the config groups.

    Raises:
        UsageError: An option is unknown; there is a ``~``, but the user has no home; or a group's choice is a number,
            true or false.
    """
    given, unknown = get_args_parser().parse_known_intermixed_args(arguments)
    if unknown:
        name = unknown[0].partition("=")[0]
        raise UsageError(f"there is no option {name}: a setting has no dashes, as in {name.lstrip('-')}=…")
    # People put options among settings, which Hydra takes in one stretch only, and --info takes what follows it.
    options = [argument for argument in arguments if argument not in given.overrides]
    if given.config_path is not None:  # Hydra would look for it in the package.
        options.append(f"--config-path={os.path.abspath(given.config_path)}")
    return [*(setting for argument in given.overrides for setting in _readable(argument, conf)), *options]


def quoted(value: str) -> str:
    """Return text as a value in Hydra's grammar, in quotes."""
    return QuotedString(text=value, quote=Quote.single).with_quotes()


def _readable(argument: str, conf: Path) -> Iterator[str]:
    key, equal, given = argument.partition("=")
    if not equal or key[:1] == "~":
        yield argument
        return
    value = given if os.path.exists(given) and given[0] != "~" else expand_home(given)
    _check_choice(key, value, conf)
    if _PLAIN.fullmatch(value):
        yield f"{key}={value}"
        return
    listed = value[0] == "[" and value[-1] == "]" and not os.path.exists(value)
    paths = [value] if os.path.exists(value) else _paths(value[1:-1] if listed else value)
    if paths == [value] or any("," in path for path in paths):
        value = ",".join(map(quoted, paths))
        value = f"[{value}]" if listed else value
    parsed = _parsed(key, value)
    if parsed is None:
        value = next((other for other in _quotings(key, value) if _parsed(key, other)), value)
        parsed = _parsed(key, value)
    if (
        "_target_" in value
        and parsed is not None
        and parsed.type == OverrideType.CHANGE
        and _is_whole(parsed)
    ):
        # First it is taken away: a choice of a group from the list of these, anything else by its value.
        yield f"~{key}" if (conf / key).is_dir() else f"{key}=null"
        key = f"++{key}"
    yield f"{key}={value}"


def _paths(listed: str) -> list[str]:
    """Return the existing paths in a list with commas between and perhaps in them; none if anything else is in it."""
    pieces = listed.split(",")
    for count in range(1, len(pieces) + 1):
        first, rest = ",".join(pieces[:count]), pieces[count:]
        others = _paths(",".join(rest)) if rest and os.path.exists(first) else []
        if others or (not rest and os.path.exists(first)):
            return [first, *others]
    return []


def _parsed(key: str, value: str) -> Override | None:
    try:
        return OverridesParser.create().parse_override(f"{key}={value}")
    except HydraException:
        return None


def _check_choice(key: str, value: str, conf: Path) -> None:
    """Raise UsageError if a choice of a group is a number, true or false, where Hydra takes text alone."""
    folder = conf / (group := key.lstrip("+").partition("@")[0])
    parsed = _parsed(key, value) if folder.is_dir() else None
    value_or_sweep = None if parsed is None else parsed.value()
    each_value = value_or_sweep.list if isinstance(value_or_sweep, ChoiceSweep) else [value_or_sweep]
    if any(isinstance(each, int | float) for each in each_value):
        choices = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
        raise UsageError(
            f"{key}={value} is no choice of {group}, but a number, true or false: give one of {choices}"
        )


def _is_whole(override: Override) -> bool:
    """Tell whether a value, or each of those to sweep over, is a dict with a ``_target_``."""
    values = list(override.sweep_iterator()) if override.is_sweep_override() else [override.value()]
    return all(isinstance(value, dict) and "_target_" in value for value in values)


def _quotings(key: str, value: str) -> Iterator[str]:
    """Yield what a value may have been meant as that the grammar cannot read, the likeliest first."""
    if paths := _paths(value):  # To sweep over.
        yield ",".join(map(quoted, paths))
    if not re.search(r"""['"()=]""", value):
        # Text of other characters, alone or in the items of a list or dict.
        listed = value[0] in "[{"
        if listed or not re.search(r"[\[\]{}]", value):
            yield re.sub(r"[^\[\]{},:]+" if listed else "[^,]+", _quote_item, value)
    # A path, also one that is only to be made; a list is none.
    if ("/" in value or _PATH.search(key)) and value[0] not in "[{('\"":
        # Commas within brackets are in a folder's name.
        parts = re.split(r",(?![^\[({]*[\])}])", value)
        several = len(parts) > 1 and all("/" in part for part in parts)
        yield ",".join(map(quoted, parts)) if several else quoted(value)


def _quote_item(found: re.Match[str]) -> str:
    text = found[0].strip()
    return found[0] if _PLAIN.fullmatch(text.replace(" ", "")) else quoted(text)
