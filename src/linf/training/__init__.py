"""The Lightning shell: trainings fit a model, `Evaluation` fills a table. Only here the model meets a trainer."""

from linf.training.prior import PriorTraining
from linf.training.stage1 import Training
from linf.training.stage2 import Finetuning

__all__ = ["Finetuning", "PriorTraining", "Training"]
