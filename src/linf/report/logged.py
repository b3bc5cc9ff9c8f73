"""What a run has logged to its CSV files, over all its starts."""

import logging
from pathlib import Path

import pandas as pd

log = logging.getLogger(__name__)


def logged_rows(run: Path) -> pd.DataFrame:
    """Read the rows in the order in which they were logged; ``step`` is Lightning's, which counts from 0.

    A file that cannot be read is left out, as one that is empty since it was just created, or that a kill cut short.

    Args:
        run: The run's folder.
    """
    # By number, since a copied file has the date of its copy.
    files = sorted(run.glob("csv/version_*/metrics.csv"), key=lambda path: (len(path.parent.name), path))
    frames = []
    for file in files:
        try:
            frames.append(pd.read_csv(file))
        except OSError as error:
            log.warning("%s is left out: %s", file, error.strerror)
        except ValueError:
            continue
    frames = [frame for frame in frames if "step" in frame]  # Not with half a line at its beginning.
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame({"step": []})
