"""The Lightning shell: trainings fit a model, `Evaluation` fills a table. Only here the model meets a trainer."""

from linf.task.evaluation import Evaluation
from linf.task.finetuning import Finetuning
from linf.task.prior_training import PriorTraining
from linf.task.training import Training

__all__ = ["Evaluation", "Finetuning", "PriorTraining", "Training"]
