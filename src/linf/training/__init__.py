"""The LightningModules that train a model: stage 1, stage 2 and the learned prior."""

from linf.training.prior import PriorTraining
from linf.training.stage1 import Training
from linf.training.stage2 import Finetuning

__all__ = ["Finetuning", "PriorTraining", "Training"]
