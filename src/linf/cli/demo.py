"""The command ``linf demo``: the page, served on this machine until Ctrl-C."""

import contextlib
import os
import signal
import socket
import tempfile
import threading
from argparse import ArgumentParser, Namespace

from linf.checkpoints.native import load
from linf.cli.options import chosen_device
from linf.errors import UsageError
from linf.models.linf import LINF


def options(parser: ArgumentParser) -> None:
    """Add the options of ``linf demo``."""
    parser.add_argument(
        "--model",
        default="default",
        metavar="FILE",
        help="a .ckpt, .safetensors or published .pth of a LINF (default: the one that comes with linf)",
    )
    parser.add_argument("--port", type=int, metavar="N", help="default: the first free one from 7860 up")
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="0.0.0.0 lets other machines in (default: 127.0.0.1)",
    )
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, … (default: auto)")
    parser.add_argument("--open", action="store_true", help="show it in the browser")


def demo(given: Namespace) -> None:
    """Run the command as parsed.

    Raises:
        UsageError: Gradio is missing, the model has no flow, or the address cannot be had.
    """
    if given.port is not None and not 1 <= given.port <= 65535:
        raise UsageError(f"--port {given.port} is not a number from 1 to 65535")
    device = chosen_device(given.device)
    model = load(given.model)
    if not isinstance(model, LINF):
        raise UsageError(
            f"{given.model} holds a {type(model).__name__}, which has no temperature: give a LINF"
        )
    with tempfile.TemporaryDirectory(prefix="linf-demo-") as folder:
        # Gradio reads these as it is imported.
        os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False"}
        try:
            from linf.demo.page import CSS, THEME, demo_page
        except ModuleNotFoundError as error:
            if error.name != "gradio":
                raise
            raise UsageError("linf demo needs Gradio: pip install 'linf[demo]'") from error
        blocks = demo_page(model.to(device))
        signal.signal(signal.SIGTERM, signal.default_int_handler)
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
                theme=THEME,
                css=CSS,
            )
        except (OSError, ValueError) as error:
            asked = given.host if given.port is None else f"{given.host}, port {given.port}"
            reason = getattr(error, "strerror", None) or error
            raise UsageError(f"cannot serve at {asked}: {reason}; give another --port or --host") from error
        print(f"{address}, until Ctrl-C", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
    os._exit(130)  # As shells report an interrupt, without waiting for images that are being enlarged.
