"""What ``train.py`` and ``linf train`` run: compose → instantiate → fit; see ``conf/train.yaml``."""

import logging
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

from linf.errors import UsageError
from linf.runs import CONF
from linf.runs.job import Result, job

log = logging.getLogger(__name__)

SHORTAGE = (
    "lower data.batch_size (and raise trainer.accumulate_grad_batches), or add encoder.checkpoint=true, or on a GPU "
    "trainer.precision=bf16-mixed"
)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
@job
def train(cfg: DictConfig) -> Result | None:
    """Compose → instantiate → fit."""
    # Imported only now, so that a misspelt setting is reported without waiting for torch.
    import pytorch_lightning as pl
    from hydra.core.hydra_config import HydraConfig
    from hydra.utils import instantiate
    from pytorch_lightning.utilities.exceptions import MisconfigurationException

    import linf
    from linf.checkpoints.start import (
        next_start,
        prepare_resume,
        start_encoder_from,
        start_from,
        steps_of,
        to_resume,
    )
    from linf.data.workers import lost_worker_advice
    from linf.machine import keep_freed_memory, shortage_advice
    from linf.runs import launch
    from linf.training.resume import reached_limits
    from linf.training.usual import learn_usual_deviation

    keep_freed_memory()
    pl.seed_everything(cfg.seed, workers=True, verbose=False)
    trainer = instantiate(cfg.trainer)
    if launch.needs_ranks(trainer):
        return launch.run_in_ranks(trainer, __file__)
    data, task = (instantiate(of, _convert_="all") for of in (cfg.data, cfg.task))
    folder, command = Path(cfg.run_dir) / "checkpoints", list(HydraConfig.get().overrides.task)
    checkpoint = to_resume(cfg.ckpt_path, folder, command)
    task.start = (next_start(folder), command)
    start = 0
    if checkpoint is not None:
        prepare_resume(checkpoint, task.model)
        start = steps_of(checkpoint)
        log.info("resumed from: %s", checkpoint)
    else:
        if cfg.init_from is not None:
            start_from(cfg.init_from, task.model)
        if cfg.encoder_from is not None:
            start_encoder_from(cfg.encoder_from, task.model.encoder)
    for logger in trainer.loggers:
        logger.log_hyperparams(OmegaConf.to_container(cfg, resolve=True))
    try:
        with shortage_advice(SHORTAGE), lost_worker_advice():
            trainer.fit(task, data, ckpt_path=checkpoint)
    except MisconfigurationException as error:
        if "restored a checkpoint with current_epoch" not in str(error):
            raise
        most = f"trainer.max_epochs={trainer.max_epochs}"
        raise UsageError(f"{checkpoint} is of a later epoch than {most}: raise it to train on") from error
    except ValueError as error:
        if "`val_check_interval`" not in str(error):
            raise
        raise UsageError(
            f"trainer.val_check_interval is {trainer.val_check_interval}, and an epoch has "
            f"{trainer.num_training_batches} batches: give no more, or trainer.check_val_every_n_epoch=null, with "
            "which epochs do not count"
        ) from error
    if trainer.global_step == start:
        log.warning(
            "no step was taken: at step %d, %s is reached; raise it to train on",
            trainer.global_step,
            reached_limits(trainer),
        )
    if trainer.is_global_zero:
        weights = Path(cfg.run_dir) / "model.safetensors"
        linf.save(task.model, weights)
        if learn_usual_deviation(task.model, data, trainer.global_step, trainer.strategy.root_device):
            linf.save(task.model, weights)
        best = getattr(trainer.checkpoint_callback, "best", None)
        log.info("trained model: %s", weights)
        if best:
            log.info("best by validation: %s", best)
    return {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
