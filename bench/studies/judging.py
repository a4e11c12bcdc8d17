"""How good weights are on a data set: what studies of whole trainings plot against time."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from nn import Batch
from nn.data import Dataset
from nn.model import Model


def judge(data: Dataset, model: Model, rows: int) -> Callable[[NDArray], dict[str, float]]:
    """Make a function that finds the loss over some training rows, and accuracies on test rows.

    Args:
        data: its first training rows are those of the loss.
        model: takes the weights, so no strategy may train it.
        rows: of the loss, at most.

    Returns:
        weights -> "loss", "accuracy", and "class 0", "class 1", ... with the share of the test rows
        of each class that are right.
    """
    some = Batch(data.x[:rows], data.y[:rows])

    def evaluate(weights: NDArray) -> dict[str, float]:
        model.params[:] = weights
        right = model.predict(data.x_test) == data.y_test
        found = {"loss": model.loss_of(some), "accuracy": float(np.mean(right))}
        of_class = [float(np.mean(right[data.y_test == k])) for k in range(data.classes)]
        return found | {f"class {k}": share for k, share in enumerate(of_class)}

    return evaluate
