"""Stochastic gradient descent."""

from typing import Unpack

from nn.arguments import as_float
from nn.optim.base import Optimizer, Options, keeps_gradient
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

    @keeps_gradient
    def apply(self, params: Vector, grads: Vector, lr: float) -> None:
        product = self.scratch(params)
        velocity = self.state["velocity"] if self.momentum else grads
        block, length = len(product), len(params)
        if length == block:
            self._move(params, grads, velocity, product, lr)
            return
        for at in range(0, length, block):
            where = slice(at, min(at + block, length))
            size = where.stop - at
            self._move(params[where], grads[where], velocity[where], product[:size], lr)

    def _move(self, p: Vector, g: Vector, velocity: Vector, product: Vector, lr: float) -> None:
        """Move p by the gradient g; `product` is memory to use, without allocating more."""
        if self.weight_decay:
            multiply(p, self.weight_decay, out=product)
            product += g
            g = product
        if self.momentum:
            velocity *= self.momentum
            velocity += g
            if not self.nesterov:
                g = velocity
            elif self.weight_decay:
                product += self.momentum * velocity
            else:
                multiply(velocity, self.momentum, out=product)
                product += g
                g = product
        multiply(g, lr, out=product)
        p -= product
