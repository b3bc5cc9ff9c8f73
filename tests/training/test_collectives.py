"""What ranks send each other in a step that does not log: their gradients, and nothing else."""

import multiprocessing
import os
import socket
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from benchmarks.gpu.runs import Collectives
from linf.data.crops import SRBatch
from linf.losses.flow import Finetune, LikelihoodL1
from linf.models.conditioner import FourierConditioner
from linf.models.encoders import EDSR
from linf.models.flow import ConditionalFlow
from linf.models.linf import LINF
from linf.runs.progress import ProgressFile
from linf.training import Finetuning, Training
from linf.training.callbacks import EMA, Forecast, LastCheckpoint, ProgressBar, StopAtNonFinite, Throughput

STEPS = 16
"""One more than are counted: what follows the last is the end of the run."""


def _steps(task: str, log_every: int, folder: Path, port: int, found: Connection) -> None:
    """Train under DDP in this process, with the callbacks that could ask other ranks."""
    node = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": "0", "LOCAL_RANK": "0"}
    os.environ.update(node | {"WORLD_SIZE": "1", "GROUP_RANK": "0", "LOCAL_WORLD_SIZE": "1"})
    os.environ["TORCHELASTIC_RUN_ID"] = "test"
    model = LINF(EDSR(1, 8), partial(FourierConditioner, width=8), ConditionalFlow(1, steps=2))
    model.flow.whiten(torch.randn(model.dim, 200))
    adam = partial(torch.optim.Adam, lr=1e-4)
    module = (
        Finetuning(model, Finetune(perceptual=0.0), adam)
        if task == "finetune"
        else Training(model, LikelihoodL1(), adam, whitening_batches=0)
    )
    lr, hr, coord = torch.rand(2, 3, 12, 12), torch.rand(2, 3, 8, 8), torch.rand(2, 8, 8, 2)
    data: Any = DataLoader([SRBatch(lr, hr, coord, torch.full((2, 2), 0.05))] * STEPS, batch_size=None)  # type: ignore[arg-type]
    count = Collectives()
    for name in Collectives.NAMES:
        mock.patch(f"torch.distributed.{name}", count.counted(name)).start()
    pl.Trainer(
        accelerator="cpu",
        strategy="ddp",
        devices=1,
        max_steps=STEPS,
        gradient_clip_val=1.0,
        log_every_n_steps=log_every,
        logger=pl.loggers.CSVLogger(folder),
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
        callbacks=[
            count,
            EMA(),
            StopAtNonFinite(str(folder)),
            LastCheckpoint(str(folder)),
            ProgressBar(refresh_rate=5),
            Throughput(log_every),
            Forecast(after=2),
            ProgressFile(str(folder), seconds=1e-6),
        ],
    ).fit(module, data)
    found.send(dict(count.calls))


@pytest.mark.slow
@pytest.mark.parametrize("task", ["nll", "finetune"])
def test_a_step_that_does_not_log_sends_only_gradients(task: str, tmp_path: Path) -> None:
    context, calls = multiprocessing.get_context("forkserver"), []
    for log_every in (100, 1):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_steps, args=(task, log_every, tmp_path, port, sender))
        process.start()
        sender.close()
        calls.append(receiver.recv())
        process.join()
    quiet, logging = calls
    assert not any(quiet.values()), quiet
    assert logging["all_reduce"] >= 10, "a step that logs reduces its losses"
