"""The settings of the training that a checkpoint comes from."""

import json
from pathlib import Path

import pytest
import torch

from helpers.commands import Command
from helpers.runs import TINY
from linf.evaluation.origin import describe_file, training_settings


@pytest.mark.slow
def test_an_evaluation_records_how_its_model_was_trained(
    command: Command, photos: Path, tmp_path: Path
) -> None:
    assert command("train", *TINY, "seed=3", "hydra.run.dir=run").status == 0
    for checkpoint, step in (("run/model.safetensors", None), ("run/checkpoints/last.ckpt", 2)):
        given = (f"ckpt_path={checkpoint}", "data=folder", f"data.root={photos}", "data.test_scales=[2]")
        done = command("eval", *given, "temperatures=[0]", "metrics=fidelity", "hydra.run.dir=evaluated")
        assert done.status == 0, done.err
        about = json.loads((tmp_path / "evaluated" / "run.json").read_text())
        assert about["training"]["seed"] == 3
        assert about["checkpoint"].get("step") == step
        assert about["training"]["task"]["_target_"].startswith("linf.training.")
        for file in (tmp_path / "evaluated" / "units").iterdir():
            file.unlink()  # For the other checkpoint, whose weights are those before averaging or not.
    # An evaluation's own folder is no training.
    assert training_settings(tmp_path / "evaluated" / "copied.safetensors") is None


@pytest.mark.parametrize("text", [None, "task: [", "- a list", "task: {_target_: other.Task}"])
def test_no_training_is_found_beside_a_copied_file(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / ".hydra").mkdir()
        (tmp_path / ".hydra" / "config.yaml").write_text(text)
    assert training_settings(tmp_path / "model.safetensors") is None
    assert training_settings(None) is None


@pytest.mark.skipif(not Path("/proc/self/io").is_file(), reason="only Linux counts what a process reads")
def test_of_a_checkpoint_only_its_digest_needs_all_of_it(tmp_path: Path) -> None:
    def read() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    content = {"state_dict": {"weight": torch.zeros(10**6)}, "global_step": 7}
    for zipped, times in ((True, 1.1), (False, 3)):
        file = tmp_path / f"{zipped}.ckpt"
        torch.save(content, file, _use_new_zipfile_serialization=zipped)
        before = read()
        assert (describe_file(file) or {})["step"] == 7
        assert read() - before < times * file.stat().st_size
