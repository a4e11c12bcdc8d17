"""AdaGrad."""

from typing import Unpack

from nn.arguments import as_float
from nn.optim.base import Optimizer, Options, keeps_gradient
from nn.optim.vector import Schedule, Vector


class AdaGrad(Optimizer):
    """AdaGrad: Duchi, Hazan, Singer, "Adaptive subgradient methods" (2011), figure 1, diagonal.

    Weight decay is L2 regularisation: weight_decay p is added to the gradient. Further arguments
    are in `Optimizer`.

    Raises:
        TypeError: an argument is not a number.
        ValueError: eps or weight_decay is negative.
    """

    slots = ("square",)

    def __init__(
        self,
        lr: float | Schedule = 1e-2,
        eps: float = 1e-10,
        weight_decay: float = 0,
        **options: Unpack[Options],
    ):
        super().__init__(lr, **options)
        self.eps = as_float("eps", eps, 0.0)
        self.weight_decay = as_float("weight_decay", weight_decay, 0.0)

    @keeps_gradient
    def apply(self, params: Vector, grads: Vector, lr: float) -> None:
        square = self.state["square"]
        if self.weight_decay:
            decayed = self.weight_decay * params
            decayed += grads
            grads = decayed
        square += grads * grads
        params -= lr * grads / (square**0.5 + self.eps)
