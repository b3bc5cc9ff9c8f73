"""What ``eval.py`` and ``linf eval`` run: compose → instantiate → test; see ``conf/eval.yaml``."""

import logging

import hydra
from omegaconf import DictConfig, OmegaConf

from linf.runs import CONF
from linf.runs.job import Result, job

log = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="eval")
@job
def evaluate(cfg: DictConfig) -> Result | None:
    """Compose → instantiate → test."""
    # Imported only now, so that a misspelt setting is reported without waiting for torch.
    import pytorch_lightning as pl
    import torch
    from hydra.utils import instantiate

    from linf.data.workers import lost_worker_advice
    from linf.evaluation.systems import system_temperatures, systems_in_words
    from linf.machine import shortage_advice
    from linf.runs import launch

    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    torch.backends.cudnn.allow_tf32 = False  # Figures in full precision, on every device.
    trainer = instantiate(cfg.trainer)
    if launch.needs_ranks(trainer):
        return launch.run_in_ranks(trainer, __file__)
    data, task = (instantiate(of, _convert_="all") for of in (cfg.data, cfg.task))
    if trainer.is_global_zero:
        systems = system_temperatures(task.model, task.temperatures, task.self_ensemble)
        log.info("systems: %s", systems_in_words(systems, task.samples))
    for logger in trainer.loggers:
        logger.log_hyperparams(OmegaConf.to_container(cfg, resolve=True))
    smaller = "give fewer samples or temperatures, or smaller test images"
    with shortage_advice(smaller), lost_worker_advice():
        trainer.test(task, data, verbose=False)
    if not trainer.is_global_zero:
        return None
    log.info("%s", task.report())
    return task.merits()
