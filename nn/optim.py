"""Optimizers on flat vectors; one arithmetic serves numpy arrays and torch tensors."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from nn.arguments import as_float

Vector = Any
"""A flat float vector: a numpy array or a torch tensor."""

Schedule = Callable[[int], float]
"""A function from the number of steps taken to a learning rate; see `nn.lr_schedules`."""


def zeros_like(vector: Vector) -> Vector:
    """A vector of zeros of the same kind, length and dtype."""
    return (
        np.zeros_like(vector) if isinstance(vector, np.ndarray) else vector.new_zeros(len(vector))
    )


def multiply(vector: Vector, factor: float, out: Vector) -> None:
    """Write vector * factor into `out`, without allocating memory."""
    if isinstance(vector, np.ndarray):
        np.multiply(vector, factor, out=out)
    else:
        out.copy_(vector).mul_(factor)


class Part(NamedTuple):
    """A piece of a parameter in the vector that an optimizer is given."""

    name: str
    size: int
    shape: tuple[int, ...] | None


def why_not_elementwise(optimizer: Any) -> str | None:
    return None


class Optimizer:
    """Base class: update a flat vector of parameters in place from a gradient of equal length.

    An optimizer keeps state for the vector that it is first given, which may be a slice of a
    model's parameters: a strategy that shards the update passes the same slice every time. One
    optimizer object serves one strategy.

    A new optimizer names its state vectors in `slots` and implements `apply`.

    Attributes:
        lr: the learning rate, or a schedule.
        state: name -> vector, allocated by the first step.
        steps: number of steps taken. A schedule is called with it, beginning at 0.
    """

    slots: tuple[str, ...] = ()
    """Names of the state vectors."""

    clip_norm: float | None = None
    norm_type = 2.0
    keeps_gradient = True

    def assign(self, parts: Sequence[Part]) -> None: ...

    def __init__(self, lr: float | Schedule):
        if not callable(lr):
            as_float("lr", lr, 0.0)
        self.lr = lr
        self.state: dict[str, Vector] = {}
        self.steps = 0

    def step(self, params: Vector, grads: Vector, norm: float | None = None) -> None:
        """Update `params` in place; `grads` may be overwritten.

        Raises:
            ValueError: params, grads and the state of earlier steps are not of equal length.
        """
        if len(params) != len(grads):
            raise ValueError(
                f"{len(params)} parameters and {len(grads)} gradients: expected equally many"
            )
        for name in self.slots:
            if name not in self.state:
                self.state[name] = zeros_like(params)
            elif len(self.state[name]) != len(params):
                raise ValueError(
                    f"{name} was kept for {len(self.state[name])} parameters and {len(params)} "
                    "are given: one optimizer object serves one slice of one model"
                )
        lr = self.lr(self.steps) if callable(self.lr) else self.lr
        self.steps += 1
        if len(params):
            self.apply(params, grads, float(lr))

    def apply(self, params: Vector, grads: Vector, lr: float) -> None:
        """Update `params` in place. `steps` already counts this step, and `state` has all slots."""
        raise NotImplementedError


class SGD(Optimizer):
    """Stochastic gradient descent with momentum, Nesterov momentum and L2 weight decay.

    g <- g + weight_decay p;  v <- momentum v + g;  p <- p - lr v, or with Nesterov
    p <- p - lr (g + momentum v). The form of Sutskever et al., "On the importance of
    initialization and momentum in deep learning" (2013), section 2, with the learning rate
    outside the velocity, as in torch.optim.SGD.

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
    ):
        super().__init__(lr)
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


class Adam(Optimizer):
    """Adam: Kingma and Ba, "Adam: a method for stochastic optimization" (2015), algorithm 1.

    Weight decay is L2 regularisation: weight_decay p is added to the gradient.

    Raises:
        TypeError: an argument is not a number, or betas is not a pair.
        ValueError: a beta is not in [0, 1), or eps or weight_decay is negative.
    """

    slots = ("mean", "square")

    def __init__(
        self,
        lr: float | Schedule = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
    ):
        super().__init__(lr)
        if not isinstance(betas, Sequence) or len(betas) != 2:
            raise TypeError(f"betas={betas!r}: expected two numbers, e.g. (0.9, 0.999)")
        self.betas = (as_float("beta1", betas[0], 0.0, 1.0), as_float("beta2", betas[1], 0.0, 1.0))
        self.eps = as_float("eps", eps, 0.0)
        self.weight_decay = as_float("weight_decay", weight_decay, 0.0)

    def apply(self, params: Vector, grads: Vector, lr: float) -> None:
        beta1, beta2 = self.betas
        mean, square = self.state["mean"], self.state["square"]
        if self.weight_decay:
            grads += self.weight_decay * params
        mean *= beta1
        mean += (1 - beta1) * grads
        square *= beta2
        square += (1 - beta2) * grads * grads
        root = (square / (1 - beta2**self.steps)) ** 0.5
        root += self.eps
        params -= lr / (1 - beta1**self.steps) * mean / root


class AdaGrad(Optimizer):
    """AdaGrad: Duchi, Hazan, Singer, "Adaptive subgradient methods" (2011), figure 1, diagonal.

    Weight decay is L2 regularisation: weight_decay p is added to the gradient.

    Raises:
        TypeError: an argument is not a number.
        ValueError: eps or weight_decay is negative.
    """

    slots = ("square",)

    def __init__(self, lr: float | Schedule = 1e-2, eps: float = 1e-10, weight_decay: float = 0):
        super().__init__(lr)
        self.eps = as_float("eps", eps, 0.0)
        self.weight_decay = as_float("weight_decay", weight_decay, 0.0)

    def apply(self, params: Vector, grads: Vector, lr: float) -> None:
        square = self.state["square"]
        if self.weight_decay:
            grads += self.weight_decay * params
        square += grads * grads
        params -= lr * grads / (square**0.5 + self.eps)
