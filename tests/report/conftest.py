"""Reports of which a test looks at the page alone."""

from pathlib import Path

import pytest


@pytest.fixture
def unsaved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw a report's figures and leave their files empty: to save them takes most of the time."""

    def save(figure: object, file: Path, **given: object) -> None:
        file.touch()

    monkeypatch.setattr("linf.report.page.save_figure", save)
