"""The command ``linf completion``, and what a shell asks for when TAB is pressed."""

import os
from argparse import ArgumentParser, Namespace
from typing import Any

from linf.cli.options import add_command


def add_completion(commands: Any) -> None:
    parser = add_command(commands, "completion", _completion, "set up completion of commands with TAB")
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))


def complete(parser: ArgumentParser) -> None:
    """Answer a shell that asks how a command may go on, and end; otherwise do nothing."""
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(parser)


def _completion(given: Namespace) -> None:
    """Print what a shell needs to complete commands and settings; put in ~/.bashrc: eval "$(linf completion bash)"."""
    import argcomplete

    print(argcomplete.shellcode(["linf"], shell=given.shell))
