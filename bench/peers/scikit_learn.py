"""scikit-learn's `MLPClassifier`, which is timed beside the strategies."""

from collections.abc import Callable, Sequence

import numpy as np
from sklearn.neural_network import MLPClassifier

from nn import Batch


def partial_fit_step(sizes: Sequence[int], lr: float) -> Callable[[Batch], None]:
    """Make a step of SGD with momentum 0.9 on a net of these layer sizes: one `partial_fit`.

    It draws its own weights and returns no loss, so only its time can be compared.
    """
    net = MLPClassifier(
        tuple(sizes[1:-1]),
        solver="sgd",
        alpha=0,
        learning_rate_init=lr,
        nesterovs_momentum=False,
    )
    labels = np.arange(sizes[-1])

    def step(batch: Batch) -> None:
        net.batch_size = len(batch)
        net.partial_fit(batch.x, batch.y, classes=labels)

    return step
