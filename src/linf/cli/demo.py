"""The command ``linf demo``: the page, served on this machine until a signal."""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
import threading
from argparse import Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from linf.cli.options import LINF_FILE, add_command, chosen_device
from linf.errors import Stopped, UsageError, raise_stopped

if TYPE_CHECKING:
    from linf.models.super_resolver import SuperResolver


def add_demo(commands: Any) -> None:
    parser = add_command(commands, "demo", _demo, "serve a web page on which to try a model")
    parser.add_argument("--model", default="photo", metavar="FILE", help=LINF_FILE)
    parser.add_argument(
        "--against",
        nargs="+",
        default=["photo", "default"],
        metavar="FILE",
        help="models that the page can compare with (default: photo default)",
    )
    parser.add_argument(
        "--port", type=int, metavar="N", help="port of the page (default: the first free one from 7860 up)"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to listen on; 0.0.0.0 lets other machines in (default: 127.0.0.1)",
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, … (default: auto)")
    parser.add_argument("--open", action="store_true", help="also open the page in the browser")


def _demo(given: Namespace) -> NoReturn:
    """Serve a web page on this machine: drop an image, choose a scale, move the temperature."""
    from linf.checkpoints.native import load
    from linf.models.linf import LINF

    if given.port is not None and not 1 <= given.port <= 65535:
        raise UsageError(f"--port {given.port} is not a number from 1 to 65535")
    device = chosen_device(given.device)
    model = load(given.model)
    if model.image_channels != 3:
        raise UsageError(
            f"{given.model} is for images of {model.image_channels} channels, and the page is for RGB: use linf upscale"
        )
    if not isinstance(model, LINF):
        raise UsageError(
            f"{given.model} holds a {type(model).__name__}, which has no temperature: give a LINF"
        )
    others = _others(given)
    # What is still being enlarged at the end may write there while it is removed.
    with tempfile.TemporaryDirectory(prefix="linf-demo-", ignore_cleanup_errors=True) as folder:
        # Gradio reads these as it is imported.
        os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False"}
        try:
            from linf.demo.page import CSS, THEME, demo_page
        except ModuleNotFoundError as error:
            if error.name != "gradio":
                raise
            raise UsageError("linf demo needs Gradio: pip install 'linf[demo]'") from error
        blocks = demo_page(model.to(device), others)
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, raise_stopped)
        address = _serve(blocks, given, theme=THEME, css=CSS)
        print(f"{address}, until Ctrl-C", flush=True)
        try:
            threading.Event().wait()
        except Stopped as stop:
            status = 128 + stop.signum
            # Jobs that lose their folder now have nothing to tell.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    os._exit(status)  # Without waiting for images that are being enlarged.


def _serve(blocks: Any, given: Namespace, **look: Any) -> str:
    """Serve a page from now on, and return its address; raise UsageError if it cannot be served there."""
    try:
        # Gradio would try port after port at an address that is not this machine's.
        family = socket.AF_INET6 if ":" in given.host else socket.AF_INET
        socket.create_server((given.host, given.port or 0), family=family).close()
        _, address, _ = blocks.launch(
            server_name=given.host,
            server_port=given.port,
            inbrowser=given.open,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            footer_links=[],
            run_history=False,
            ssr_mode=False,
            mcp_server=False,
            max_file_size="200mb",
            **look,
        )
    except (OSError, ValueError) as error:
        asked = given.host if given.port is None else f"{given.host}, port {given.port}"
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot serve at {asked}: {reason}; give another --port or --host") from error
    return address


def _others(given: Namespace) -> dict[str, Callable[[], SuperResolver]]:
    """What loads the models to compare with, by the names of their files; raise UsageError if one cannot be used."""
    from linf.checkpoints.native import load
    from linf.checkpoints.shipped import SHIPPED

    others: dict[str, Callable[[], SuperResolver]] = {}
    for path in given.against:
        if path == given.model:
            continue
        name = path if path in SHIPPED else Path(path).stem
        if name in others:
            raise UsageError(f"--against has two models called {name}: rename one of the files")
        if path in SHIPPED:  # Half a second that not everybody needs.
            others[name] = partial(load, path)
            continue
        model = load(path)
        if model.image_channels != 3:
            raise UsageError(
                f"--against {path} holds a {type(model).__name__} of {model.image_channels} channels: the page "
                "compares with models for RGB; linf upscale takes others, too"
            )
        others[name] = partial(_same, model)
    return others


def _same(model: SuperResolver) -> SuperResolver:
    return model
