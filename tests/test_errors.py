"""What counts as a user's mistake, and how a program ends."""

import errno
import signal

import numpy as np
import pytest
from hydra.errors import InstantiationException

from linf.errors import Stopped, UsageError, end, find_mistake, stop_signals_to

CODE = {
    "core": "raise ValueError('patch size 2')",
    "python below the core": "import textwrap; textwrap.wrap('a', 0)",
    "C below the core": "int('a')",
    "NumPy below the core": "import numpy; numpy.zeros(2).reshape(3)",
    "unpacking": "a, b = [1]",
}


def raised(code: str, module: str) -> BaseException:
    try:
        exec(code, {"__name__": module})
    except ValueError as error:
        return error
    raise AssertionError


@pytest.mark.parametrize(
    "module", ["linf.models.flow", "linf.losses", "linf.metrics.metric", "linf.coordinates"]
)
def test_a_value_error_of_the_core_is_a_mistake(module: str) -> None:
    error = raised(CODE["core"], module)
    assert find_mistake(error) is error
    wrapped = InstantiationException("Error in call to target")
    wrapped.__cause__ = error
    assert find_mistake(wrapped) is error


@pytest.mark.parametrize("code", [name for name in CODE if name != "core"])
def test_a_value_error_from_elsewhere_is_a_defect(code: str) -> None:
    assert find_mistake(raised(CODE[code], "linf.models.flow")) is None


@pytest.mark.parametrize("module", ["linf.data.pairs", "linf.modelsx", "torch", "__main__"])
def test_a_value_error_of_other_modules_is_a_defect(module: str) -> None:
    assert find_mistake(raised(CODE["core"], module)) is None


def test_other_mistakes() -> None:
    assert find_mistake(ZeroDivisionError()) is None
    assert find_mistake(np.exceptions.AxisError("axis")) is None
    assert find_mistake(OSError(errno.ENOENT, "no such file")) is None
    for error in (UsageError("a"), OSError(errno.ENOSPC, "full"), InstantiationException("a")):
        assert find_mistake(error) is error


def test_ends(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        end(UsageError("two\nlines"))
    with pytest.raises(SystemExit, match="1"):
        end(OSError(errno.ENOSPC, "No space left", "a.ckpt"), 1)
    assert capsys.readouterr().err.splitlines() == [
        "error: two lines",
        "error: cannot write a.ckpt: No space left; files written before are intact",
    ]
    assert Stopped(signal.SIGTERM).code == 143


def test_signals_that_are_ignored_stay_ignored() -> None:
    before, other = signal.signal(signal.SIGHUP, signal.SIG_IGN), signal.getsignal(signal.SIGUSR2)

    def handler(signum: int, _: object) -> None: ...

    try:
        with stop_signals_to(handler):
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # As below `nohup`.
            assert signal.getsignal(signal.SIGUSR2) is handler
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGUSR2) is other
    finally:
        signal.signal(signal.SIGHUP, before)


def test_signals_that_another_handles_by_then_stay_with_it() -> None:
    before = signal.getsignal(signal.SIGUSR2)

    def handler(signum: int, _: object) -> None: ...

    def another(signum: int, _: object) -> None: ...

    try:
        with stop_signals_to(handler):
            signal.signal(signal.SIGUSR2, another)
        assert signal.getsignal(signal.SIGUSR2) is another
    finally:
        signal.signal(signal.SIGUSR2, before)
