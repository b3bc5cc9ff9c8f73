"""Labels of figures in any script: drawn by an installed font, or named as boxes in one line."""

from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager

from helpers.evaluations import evaluation
from linf.evaluation import fonts
from linf.evaluation.panels import panel
from linf.report import find_runs, write_report
from linf.report.sections import all_figures


@pytest.fixture(autouse=True)
def afresh() -> None:
    for known in (fonts.font_families, fonts._letters, fonts._warn):
        known.cache_clear()


@pytest.mark.slow
def test_letters_that_no_font_has_are_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    label = "\U00012000"  # Cuneiform.
    write_report(find_runs([evaluation(tmp_path / "run", f"model {label}")]), tmp_path / "report")
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "figures show boxes for letters that no font here has"
    ]
    assert label in (tmp_path / "report" / "index.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_usual_labels_need_no_other_font(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_report(find_runs([evaluation(tmp_path / "run", "модель é ×2 τ → ±")]), tmp_path / "report")
    assert not caplog.records


def test_figures_ask_for_every_installed_font_that_has_more_letters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Matplotlib's own, which has mathematical letters, stands for a font of another script.
    monkeypatch.setattr(fonts, "_WIDE", ("No Such Sans", "STIXGeneral"))
    assert fonts.font_families() == ["sans-serif", "STIXGeneral"]
    figure = Figure()
    figure.text(0, 0, "𝔸", family=fonts.font_families())
    fonts.save_figure(figure, tmp_path / "a.png")


def test_a_figure_that_a_full_disk_cuts_off_is_named_and_replaces_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.png"
    file.write_text("the one before")
    monkeypatch.setattr("linf.files.secrets.token_hex", lambda size: "part")
    (tmp_path / ".a.png.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device") as error:
        fonts.save_figure(Figure(), file)
    assert error.value.filename == str(file)
    assert [(path, path.read_text()) for path in tmp_path.iterdir()] == [(file, "the one before")]


@pytest.mark.slow
def test_a_report_has_chinese_labels(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    if not {name for name in fonts._WIDE} & set(fontManager.get_font_names()):
        pytest.skip("no font for Chinese here: install fonts-wqy-microhei")
    evaluation(tmp_path / "run", "模型", datasets=("图像",), names=("蝴蝶", "b"), shown=True)
    write_report(find_runs([tmp_path / "run"]), tmp_path / "report")
    image = {"LR": torch.zeros(3, 8, 8)}
    fonts.save_figure(panel([("蝴蝶", image)]), tmp_path / "panel.png")
    assert not caplog.records
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]
    for figure in all_figures(find_runs([tmp_path / "run"])).values():
        for axis in figure.axes:
            assert axis.title.get_fontfamily() == fonts.font_families()
