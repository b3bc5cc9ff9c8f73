"""Evaluate a checkpoint: ``python eval.py ckpt_path=… [key=value …]``; see ``conf/eval.yaml``."""

from pathlib import Path

import hydra
import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from linf import entry


@hydra.main(version_base="1.3", config_path="conf", config_name="eval")
@entry.job
def evaluate(cfg: DictConfig) -> None:
    """Compose → instantiate → test."""
    pl.seed_everything(cfg.seed, workers=True)
    data, task, trainer = instantiate(cfg.data), instantiate(cfg.task), instantiate(cfg.trainer)
    for logger in trainer.loggers:
        logger.log_hyperparams(OmegaConf.to_container(cfg, resolve=True))
    try:
        trainer.test(task, data, verbose=False)
    except SystemExit as stop:  # Lightning's answer to an interrupt and to SIGTERM.
        words = (
            f"stopped: the same command with hydra.run.dir={cfg.run_dir} goes on from what is finished there"
        )
        raise SystemExit(words) from stop
    if trainer.is_global_zero:
        print(task.report())


if __name__ == "__main__":
    entry.run(evaluate, Path(__file__).with_name("conf") / "eval.yaml")
