"""The commands ``linf train`` and ``linf eval``, whose arguments are Hydra's."""

import os
import sys
from typing import Any

JOBS = {"train": "train a model", "eval": "evaluate a checkpoint"}
"""The commands, by the names of their config files."""


def add_jobs(commands: Any) -> None:
    """List the commands in the help; `run_job` runs them."""
    for name, about in JOBS.items():
        commands.add_parser(name, help=f"{about}, with settings as in Hydra: linf {name} --help")


def run_job(name: str, *arguments: str) -> None:
    """Run ``linf train`` or ``linf eval`` to the end of the program, as ``train.py`` and ``eval.py`` do."""
    # Hydra reads the arguments from here, and names the program by it in its messages.
    sys.argv = [f"linf {name}", *arguments]
    if os.getcwd() not in sys.path:  # A user's own classes, by the _target_ in a config.
        sys.path.append(os.getcwd())
    from linf.runs.entry import run

    if name == "train":
        from linf.runs.train import train as job
    else:
        from linf.runs.eval import evaluate as job
    run(job, name)
