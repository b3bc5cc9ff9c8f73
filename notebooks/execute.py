"""Execute the notebooks and keep their outputs in them, with small figures: make notebooks."""

import base64
import hashlib
import io
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

QUALITIES = (70, 50, 35)
"""Of a figure that becomes JPEG: the first at which it has no more than `LARGEST` bytes, or the last."""

LARGEST = 60_000

MOST_COLOURS = 4096
"""Of what is no photograph."""


def execute(notebook: NotebookNode, folder: Path) -> None:
    """Run a notebook from top to bottom in a folder, so that it holds its outputs.

    Raises:
        CellExecutionError: a cell fails.
    """
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources=resources, record_timing=False
    ).execute()


def digest(notebook: NotebookNode) -> str:
    """What the code cells are, in 16 digits, by which outputs are known to be theirs."""
    code = "\0".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256(code.encode()).hexdigest()[:16]


def tidy(notebook: NotebookNode) -> None:
    """Make the figures of an executed notebook small, take out what differs from run to run, and note the `digest`."""
    for cell in notebook.cells:
        cell.metadata = {}
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", {}):
                kind, content = _small(base64.b64decode(output.data.pop("image/png")))
                # Viewers that show no image show this.
                output.data = {f"image/{kind}": base64.b64encode(content).decode(), "text/plain": "<Figure>"}
                output.metadata = {}
            if "execution_count" in output:
                output.execution_count = None
        if cell.cell_type == "code":
            cell.execution_count = None
    notebook.metadata = {"executed": digest(notebook), "kernelspec": notebook.metadata.kernelspec}


def _small(content: bytes) -> tuple[str, bytes]:
    """A PNG as the kind of file that suits it: lines stay PNG, which keeps them sharp, and photographs become JPEG."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    if image.getcolors(MOST_COLOURS):
        png = io.BytesIO()  # A palette that has the colours of thin lines, too.
        image.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
            png, "PNG", optimize=True
        )
        return "png", png.getvalue()
    for quality in QUALITIES:
        jpeg = io.BytesIO()
        image.save(jpeg, "JPEG", quality=quality, optimize=True)
        if len(jpeg.getvalue()) <= LARGEST:
            break
    return "jpeg", jpeg.getvalue()


def main(paths: list[str]) -> None:
    """Execute and write each notebook."""
    for path in map(Path, paths):
        notebook = nbformat.read(path, nbformat.NO_CONVERT)
        with tempfile.TemporaryDirectory() as folder:
            execute(notebook, Path(folder))
        tidy(notebook)
        nbformat.write(notebook, path)
        print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
