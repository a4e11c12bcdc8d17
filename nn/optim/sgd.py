"""Stochastic gradient descent."""

from typing import Unpack

from nn.arguments import as_float
from nn.optim.base import Optimizer, Options
from nn.optim.vector import Schedule, Vector, multiply


class SGD(Optimizer):
    """Stochastic gradient descent with momentum, Nesterov momentum and L2 weight decay.

    g <- g + weight_decay p;  v <- momentum v + g;  p <- p - lr v, or with Nesterov
    p <- p - lr (g + momentum v). The form of Sutskever et al., "On the importance of
    initialization and momentum in deep learning" (2013), section 2, with the learning rate
    outside the velocity, as in torch.optim.SGD.

    Further arguments are in `Optimizer`.

    Raises:
        TypeError: an argument is not a number.
        ValueError: an argument is negative, momentum is not in [0, 1), or Nesterov momentum is
            asked for with momentum 0.
    """

    def __init__(
        self,
        lr: float | Schedule,
        momentum: float = 0,
        nesterov: bool = False,
        weight_decay: float = 0,
        **options: Unpack[Options],
    ):
        super().__init__(lr, **options)
        self.momentum = as_float("momentum", momentum, 0.0, 1.0)
        self.weight_decay = as_float("weight_decay", weight_decay, 0.0)
        self.nesterov = bool(nesterov)
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov=True: expected momentum > 0")
        self.slots = ("velocity",) if self.momentum else ()

    def apply(self, params: Vector, grads: Vector, lr: float) -> None:
        if self.weight_decay:
            grads += self.weight_decay * params
        if self.momentum:
            velocity = self.state["velocity"]
            velocity *= self.momentum
            velocity += grads
            if self.nesterov:
                grads += self.momentum * velocity
                velocity = grads
            # The gradient is used up: the product goes into its memory, without an allocation.
            multiply(velocity, lr, out=grads)
        else:
            grads *= lr
        params -= grads
