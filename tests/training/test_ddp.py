"""Several ranks are one process with the whole batch: step by step, for each task, however they start."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

import linf
from helpers.commands import Command, finish
from helpers.paths import ROOT
from helpers.runs import WITH_CURVES, column
from linf.runs.record import read_record

pytestmark = pytest.mark.slow
STEPS = 20
SMALL = (
    *WITH_CURVES,
    f"trainer.max_steps={STEPS}",
    "trainer.max_epochs=-1",
    f"data.batches_per_epoch={STEPS}",
    "data.val_limit=2",
    "callbacks.panels.every_n_validations=100",
)
RANKS = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")

TASKS: dict[str, tuple[str, ...]] = {
    "nll": (),
    "mixture": ("task=mixture",),
    "swinir": ("encoder=swinir_tiny", "encoder.depths=[4]", "encoder.drop_path=0.9"),
    "regression": ("model=liif", "task=regression", "data.patch_size=1"),
    "finetune": ("task=finetune",),
    "finetune_joint": ("task=finetune_joint",),
    "prior": (
        "task=prior",
        "model.prior.width=8",
        "model.prior.depth=1",
        "task.loss.perceptual=0",
        "task.loss.l1=1",
    ),
}


REPEATED = ("prior", "mixture", "regression", "finetune_joint")


def train(folder: Path, *arguments: str) -> None:
    done = finish(*SMALL, *arguments, f"hydra.run.dir={folder}", cwd=folder.parent)
    assert done.status == 0, done.err


@pytest.mark.parametrize(
    "task",
    ["finetune", *(pytest.param(t, marks=pytest.mark.thorough) for t in ("nll", "swinir", *REPEATED))],
)
def test_two_ranks_take_the_steps_of_one_process(
    command: Command, checkpoint: Path, tmp_path: Path, task: str
) -> None:
    given = list(TASKS[task])
    if task.startswith(("finetune", "prior")):
        config = linf.load(checkpoint).config
        given += [
            f"encoder.blocks={config['encoder']['blocks']}",
            f"encoder.channels={config['encoder']['channels']}",
            f"model.conditioner.width={config['conditioner']['width']}",
            f"model.conditioner.depth={config['conditioner']['depth']}",
            f"model.flow.steps={config['flow']['steps']}",
            f"init_from={checkpoint}",
        ]
    whole = command("train", *SMALL, *given, "data.batch_size=4", f"hydra.run.dir={tmp_path / 'whole'}")
    assert whole.status == 0, whole.err
    train(tmp_path / "ranks", *given, *RANKS, "data.batch_size=2")
    one, two = (column(tmp_path / run, "train/loss") for run in ("whole", "ranks"))
    assert len(one) == len(two) == STEPS
    assert two == pytest.approx(one, abs=1e-5)
    expected = read_record(tmp_path / "whole").result
    assert "val/psnr" in expected
    assert read_record(tmp_path / "ranks").result == pytest.approx(expected, abs=1e-4)


def test_ranks_break_off_a_validation_together_though_one_has_an_image_more(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shared = (*SMALL, *RANKS, "data.batch_size=2", "trainer.max_steps=9", "data.batches_per_epoch=3")
    shared = (*shared, "data.val_scales=[2,2.5,3,3.5,4]", "data.val_limit=1", f"hydra.run.dir={run}")
    signalled = ("+callbacks.cut._target_=helpers.runs.SignalAtImage", "+callbacks.cut.step=6")
    signalled = (*signalled, "+callbacks.cut.image=0", "+callbacks.cut.rank=1")
    tests = {"PYTHONPATH": str(ROOT / "tests")}
    stopped = finish(*shared, *signalled, cwd=tmp_path, env=tests)
    assert stopped.status == 128 + signal.SIGTERM, stopped.err
    words = stopped.err.rstrip().splitlines()[-1]
    assert words.startswith(
        "stopped by SIGTERM in the validation after step 6, which is saved; the same command"
    )
    assert len(column(run, "val/psnr")) == 1
    again = finish(*shared, cwd=tmp_path)
    assert again.status == 0, again.err
    assert len(column(run, "val/psnr")) == 3
    assert len(column(run, "train/loss")) == 9


def test_two_agents_of_torchrun_are_two_nodes_with_one_folder(tmp_path: Path) -> None:
    recipe = (
        (ROOT / "docs" / "clusters.md")
        .read_text()
        .split("## torchrun")[1]
        .split("```bash\n")[1]
        .split("```")[0]
    )
    words = recipe.replace("\\\n", " ").split()
    words[words.index("torchrun") : words.index("torchrun") + 1] = [
        sys.executable,
        "-m",
        "torch.distributed.run",
    ]
    local = {
        "--nproc-per-node=4": "--nproc-per-node=1",
        "--rdzv-endpoint=NODE1:29400": "--rdzv-endpoint=127.0.0.1:29417",
        "train.py": str(ROOT / "train.py"),
        "trainer.devices=4": "trainer.devices=1",
    }
    assert local.keys() <= set(words)
    command = [local.get(word, word) for word in words]
    command += [*SMALL, "trainer.accelerator=cpu", "data.batch_size=2"]
    agents = [
        subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    errors = [agent.communicate(timeout=300)[1] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], "\n".join(errors)
    (run,) = (tmp_path / "outputs" / "smoke").iterdir()
    train(tmp_path / "whole", "data.batch_size=4")
    assert column(run, "train/loss") == pytest.approx(column(tmp_path / "whole", "train/loss"), abs=1e-5)
    assert len(list(run.glob("csv/*"))) == 1
