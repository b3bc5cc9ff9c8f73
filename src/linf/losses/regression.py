"""Loss box of the figure: the loss of LIIF and LTE (METHOD §8)."""

from torch import Tensor

from linf.data.crops import SRBatch
from linf.models.baselines import Regression


class RegressionL1:
    """Mean absolute error of the colours, in [-1, 1] units (METHOD §8)."""

    def __call__(self, model: Regression, batch: SRBatch) -> dict[str, Tensor]:
        """The error as ``loss``.

        Raises:
            ValueError: the model is no regression.
        """
        if not isinstance(model, Regression):
            raise ValueError(f"{type(model).__name__} is no regression: task=regression is for LIIF and LTE")
        return {"loss": 2 * (model.predict(batch.lr, batch.coord, batch.cell) - batch.hr).abs().mean()}
