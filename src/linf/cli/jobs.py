"""The commands ``linf train`` and ``linf eval``, whose arguments are Hydra's."""

import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from linf.files import search_working_folder
from linf.runs import CONF

JOBS = {
    "train": "train a model with the given settings: linf train encoder=rdn seed=1",
    "eval": "evaluate a checkpoint with the given settings: linf eval ckpt_path=default seed=1",
}
"""The commands, by the names of their config files."""


def add_jobs(commands: Any) -> None:
    """Add the commands to the help and to completion; `run_job` runs them."""
    for name, about in JOBS.items():
        parser = commands.add_parser(name, help=about)
        parser.add_argument("--config-dir", metavar="DIR")
        parser.add_argument("--multirun", "-m", action="store_true")
        parser.add_argument("--cfg", choices=("job", "hydra", "all"))
        settings: Any = parser.add_argument("settings", nargs="*")
        settings.completer = complete_setting


def complete_setting(prefix: str, parsed_args: Namespace, **_: Any) -> list[str]:
    """Return the groups of configs, or the choices of one, that begin as a user has begun to type."""
    folders = [CONF, *([Path(parsed_args.config_dir)] if parsed_args.config_dir else [])]
    files = [file.relative_to(folder) for folder in folders for file in folder.glob("*/**/*.yaml")]
    known = {f"{file.parent}={file.stem}" for file in files if file.parts[0] != "hydra"}
    if "=" not in prefix:
        known = {f"{choice.partition('=')[0]}=" for choice in known}
    return sorted(choice for choice in known if choice.startswith(prefix))


def run_job(name: str, *arguments: str) -> None:
    """Run ``linf train`` or ``linf eval`` to the end of the program, as ``train.py`` and ``eval.py`` do."""
    # Hydra reads the arguments from here, and names the program by it in its messages.
    sys.argv = [f"linf {name}", *arguments]
    search_working_folder()  # For a user's own classes, by the _target_ in a config.
    from linf.runs.entry import run

    if name == "train":
        from linf.runs.train import train as job
    else:
        from linf.runs.eval import evaluate as job
    run(job, name)
