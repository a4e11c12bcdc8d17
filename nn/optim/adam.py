"""Adam, with L2 regularisation or with decoupled weight decay."""

from collections.abc import Sequence
from typing import Unpack

from nn.arguments import as_float
from nn.optim.base import Optimizer, Options, keeps_gradient
from nn.optim.vector import Schedule, Vector


class Adam(Optimizer):
    """Adam: Kingma and Ba, "Adam: a method for stochastic optimization" (2015), algorithm 1.

    Weight decay is L2 regularisation: weight_decay p is added to the gradient. Further arguments
    are in `Optimizer`.

    Raises:
        TypeError: an argument is not a number, or betas is not a pair.
        ValueError: a beta is not in [0, 1), or eps or weight_decay is negative.
    """

    slots = ("mean", "square")
    corrects_by_steps = True

    def __init__(
        self,
        lr: float | Schedule = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        **options: Unpack[Options],
    ):
        super().__init__(lr, **options)
        if not isinstance(betas, Sequence) or len(betas) != 2:
            raise TypeError(f"betas={betas!r}: expected two numbers, e.g. (0.9, 0.999)")
        self.betas = (as_float("beta1", betas[0], 0.0, 1.0), as_float("beta2", betas[1], 0.0, 1.0))
        self.eps = as_float("eps", eps, 0.0)
        self.weight_decay = as_float("weight_decay", weight_decay, 0.0)

    @keeps_gradient
    def apply(self, params: Vector, grads: Vector, lr: float) -> None:
        if self.weight_decay:
            decayed = self.weight_decay * params
            decayed += grads
            grads = decayed
        self._move(params, grads, lr)

    def _move(self, params: Vector, grads: Vector, lr: float) -> None:
        beta1, beta2 = self.betas
        mean, square = self.state["mean"], self.state["square"]
        mean *= beta1
        mean += (1 - beta1) * grads
        square *= beta2
        square += (1 - beta2) * grads * grads
        root = (square / (1 - beta2**self.steps)) ** 0.5
        root += self.eps
        params -= lr / (1 - beta1**self.steps) * mean / root


class AdamW(Adam):
    """Adam with decoupled weight decay: p <- p - lr weight_decay p, and then Adam's step.

    Loshchilov and Hutter, "Decoupled weight decay regularization" (2019), algorithm 2, with the
    learning rate in the place of the schedule multiplier, as in torch.optim.AdamW. Further
    arguments are in `Optimizer`.

    Raises:
        TypeError: an argument is not a number, or betas is not a pair.
        ValueError: a beta is not in [0, 1), or eps or weight_decay is negative.
    """

    def __init__(
        self,
        lr: float | Schedule = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        **options: Unpack[Options],
    ):
        super().__init__(lr, betas, eps, weight_decay, **options)

    @keeps_gradient
    def apply(self, params: Vector, grads: Vector, lr: float) -> None:
        params *= 1 - lr * self.weight_decay
        self._move(params, grads, lr)
