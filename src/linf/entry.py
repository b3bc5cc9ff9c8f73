"""`train.py` and `eval.py`: what a user mistyped comes back as one line of words, never as a traceback."""

import difflib
import functools
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from linf.errors import UsageError, end


class Mistake(SystemExit):
    """Carries a user's mistake past Hydra, which would report it as an error of the job."""

    def __init__(self, error: Exception) -> None:
        super().__init__(2)
        self.error = error


def job(entry: Callable[[DictConfig], None]) -> Callable[[DictConfig], None]:
    """What stands between `hydra.main` and an entry point: check the settings, and end on mistakes as a `Mistake`."""

    @functools.wraps(entry)
    def checked(cfg: DictConfig) -> None:
        try:
            check_settings(cfg)
            entry(cfg)
        except Exception as error:
            if _mistake(error) is None:
                raise
            raise Mistake(error) from None

    return checked


def run(entry: Callable[[], object], conf: Path) -> None:
    """Run a Hydra entry point; end with status 2 and one line where the user can mend it.

    A defect of ours keeps its traceback, and everything does where HYDRA_FULL_ERROR is set.

    Args:
        entry: what `hydra.main` made.
        conf: the primary config file.
    """
    _leave_out_what_no_user_can_act_on()
    full = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Otherwise Hydra prints and exits by itself.
    try:
        entry()
    except (Exception, Mistake) as error:
        cause = error.error if isinstance(error, Mistake) else error
        mistake = _mistake(cause)
        if full:
            raise cause from None
        if mistake is None:
            raise
        end(_in_words(mistake, conf))


def _mistake(error: BaseException) -> BaseException | None:
    """What in an error's chain of causes the user can mend."""
    # W&B's error about a missing account has the name of ours, and Lightning's about settings speaks in words.
    names = ("UsageError", "MisconfigurationException")
    told = next((e for e in _causes(error) if type(e).__name__ in names), None)
    return told or (error if isinstance(error, HydraException | OmegaConfBaseException) else None)


def _leave_out_what_no_user_can_act_on() -> None:
    """Drop Lightning's advertisements, and its warnings about its own use of torch, a resume and a frozen part."""
    log = logging.getLogger("pytorch_lightning.utilities.rank_zero")
    noise = ("Tip: For seamless", "already configured with model summary callbacks")
    log.addFilter(lambda record: not any(words in record.getMessage() for words in noise))
    warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)`")
    warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode at the start of training")
    warnings.filterwarnings("ignore", message=r"Checkpoint directory .* exists and is not empty")


def check_settings(cfg: DictConfig) -> None:
    """Raise UsageError if a setting was not given, or is a word or lacks its brackets where it must not."""
    missing = [key for key, value in _settings(OmegaConf.to_container(cfg)) if value == "???"]
    if missing:
        raise UsageError(f"not given: {', '.join(missing)}; add {missing[0]}=… to the command")
    if not (isinstance(cfg.seed, int) and 0 <= cfg.seed < 2**32):
        raise UsageError(f"seed is {cfg.seed}: give a whole number from 0 to {2**32 - 1}")
    hydra = HydraConfig.get()
    choices = [
        given for given in hydra.overrides.task if given.lstrip("+").split("=")[0] in hydra.runtime.choices
    ]
    default = dict(_settings(OmegaConf.to_container(compose(hydra.job.config_name, choices))))
    for key, value in _settings(OmegaConf.to_container(cfg, resolve=True)):
        usual = default.get(key)
        if isinstance(usual, list) and isinstance(value, str | int | float):
            raise UsageError(f"{key}={value} wants brackets: '{key}=[{value}]'")
        # Devices may be "auto" or a list of numbers.
        if type(usual) in (int, float) and isinstance(value, str) and key != "trainer.devices":
            raise UsageError(f"{key} is {value!r}, where a number such as {usual} belongs")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _in_words(mistake: BaseException, conf: Path) -> str:
    text = " ".join(str(mistake).split())
    if isinstance(mistake, OverrideParseException):
        return f"cannot read {mistake.override!r} as setting=value; quote a value with any of = , ( ) [ ] {{ }} in it"
    if unknown := re.match(r"Could not override '([^']+)'", text):
        close = difflib.get_close_matches(unknown[1], _keys(conf), n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"see {conf.name} and the groups beside it"
        return f"there is no setting {unknown[1]!r}; {hint}"
    if isinstance(mistake, HydraException | OmegaConfBaseException):
        text = _plain(text)
        root = _plain(" ".join(str([*_causes(mistake)][-1]).split()))
        return text if root in text else f"{text}: {root}"
    return text


def _plain(text: str) -> str:
    """A message of Hydra's without what it says to programmers."""
    text = text.split(" Config search path:")[0]
    text = text.replace(", set env var HYDRA_FULL_ERROR=1 to see chained exception.", "")
    return re.sub(r" ?full_key: ([\w.]+)", r" (setting \1)", text)


def _keys(conf: Path) -> list[str]:
    """All dotted keys of the config as it stands without overrides."""
    with initialize_config_dir(str(conf.parent), version_base="1.3"):
        return [key for key, _ in _settings(OmegaConf.to_container(compose(conf.stem)))]


def _settings(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every dotted key below a node of plain dicts, with its value."""
    for key, value in node.items() if isinstance(node, dict) else ():
        yield f"{prefix}{key}", value
        yield from _settings(value, f"{prefix}{key}.")
