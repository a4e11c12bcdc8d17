"""An averaged copy of the weights."""

from collections.abc import Iterable
from typing import Any

from nn.arguments import as_float
from nn.optim.base import Optimizer
from nn.optim.groups import Part
from nn.optim.vector import Vector


def _of_the_inner(name: str) -> Any:
    """A property that is the same attribute of the optimizer inside."""
    return property(
        lambda self: getattr(self.optimizer, name),
        lambda self, value: setattr(self.optimizer, name, value),
    )


class EMA(Optimizer):
    """An optimizer that also keeps an exponential moving average of the weights.

    Weights move as the optimizer inside moves them. The state vector "average" begins as the first
    updated weights, and is then decay * average + (1 - decay) * weights, as in
    torch.optim.swa_utils.AveragedModel with get_ema_multi_avg_fn (Polyak and Juditsky,
    "Acceleration of stochastic approximation by averaging", 1992, with exponential weights).
    `Strategy.averaged_weights` returns it. Settings, state and steps are the inner optimizer's.

    Args:
        optimizer: the optimizer inside, which must have taken no step.
        decay: weight of the old average, in [0, 1).

    Raises:
        TypeError: optimizer is not an `nn.optim.Optimizer`, or decay is not a number.
        ValueError: decay is not in [0, 1).
    """

    lr = _of_the_inner("lr")
    clip_norm = _of_the_inner("clip_norm")
    norm_type = _of_the_inner("norm_type")
    clip_value = _of_the_inner("clip_value")
    groups = _of_the_inner("groups")
    state = _of_the_inner("state")
    steps = _of_the_inner("steps")

    def __init__(self, optimizer: Optimizer, decay: float = 0.999):
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer is {type(optimizer).__name__}: expected nn.SGD or its like")
        self.optimizer = optimizer
        self.decay = as_float("decay", decay, 0.0, 1.0)

    @property
    def slots(self) -> tuple[str, ...]:  # type: ignore[override]
        return (*self.optimizer.slots, "average")

    @property
    def keeps_gradient(self) -> bool:
        return self.optimizer.keeps_gradient

    def assign(self, parts: Iterable[Part], names: Iterable[str] | None = None) -> None:
        self.optimizer.assign(parts, names)

    def variants(self) -> list[Any]:
        return self.optimizer.variants()

    def step(self, params: Vector, grads: Vector, norm: float | None = None) -> None:
        if norm is None:
            self.optimizer.step(params, grads)
        else:
            self.optimizer.step(params, grads, norm)
        if "average" in self.state:
            average = self.state["average"]
            average *= self.decay
            average += (1 - self.decay) * params
        else:
            self.state["average"] = params * 1
