"""`UserOptimizer`: an optimizer of the user's own, and what a proof with it alone would hide."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.user_code import UserCodeError
from bench.user_code.conversion import kind_of
from bench.user_code.files import blamed, seeded
from bench.user_code.nets import Net
from nn import Model, mlp
from strategies import Sequential

STEPS = 3
"""Steps of the trial: a schedule that warms up may begin at a learning rate of 0."""


@dataclass(frozen=True)
class UserOptimizer:
    """Makes a new optimizer at each call.

    Attributes:
        given: where it came from, for messages.
        name: what tests and tables call it.
        make: the user's function.
    """

    given: str
    name: str
    make: Callable[[], Any]

    def __call__(self) -> Any:
        """Make a new optimizer.

        Raises:
            UserCodeError: the user's function fails, or returns something else.
        """
        with blamed(self.given), seeded():
            made = self.make()
        torch = sys.modules.get("torch")
        if torch and isinstance(made, torch.optim.Optimizer):
            kind = type(made).__name__
            raise UserCodeError(
                f"{self.given} returned an optimizer of torch.optim, which moves tensors: expected "
                f"nn.torch.TorchOptimizer(lambda params: torch.optim.{kind}(params, ...))"
            )
        if not callable(getattr(made, "step", None)):
            raise UserCodeError(
                f"{self.given} returned {kind_of(made)}; expected an optimizer of nn, such as "
                "nn.SGD(0.1)"
            )
        return made

    def hides_scale(self, net: Net) -> bool:
        """Try it on a few steps: does it move parameters as far for a gradient of twice the size?

        Adam does, and so does a clip that every gradient exceeds. A proof with such an optimizer
        alone does not show a gradient that is summed twice, or divided by another count.

        Raises:
            UserCodeError: it makes one optimizer twice, fails, or moves no parameter.
        """
        if self() is self():
            raise UserCodeError(
                f"{self.given} returns the same optimizer at each call, so a strategy and the "
                "plain training that it is compared with would share its state; make it in the "
                "function"
            )
        with blamed(f"{self.given}: {STEPS} steps with it"):
            once, twice = (self._moved(net, factor) for factor in (1.0, 2.0))
        if not np.isfinite(once).all() or not once.any():
            raise UserCodeError(
                f"{self.given}: in {STEPS} steps it moved "
                + ("parameters to infinity" if once.any() else "no parameter")
                + "; expected another learning rate, or schedule"
            )
        return bool(np.linalg.norm(twice - once) < 0.1 * np.linalg.norm(once))

    def _moved(self, net: Net, factor: float) -> NDArray:
        """How far the first steps move each parameter, with gradients multiplied by `factor`."""
        strategy = _Scaled(net.build("float64"), self(), factor)
        before = strategy.weights()
        for batch in net.batches([min(4, net.largest_batch)] * STEPS):
            strategy.step(batch)
        return strategy.weights() - before


class _Scaled(Sequential):
    """Plain training in which each gradient is multiplied by a factor."""

    def __init__(self, model: Model, optimizer: Any, factor: float):
        super().__init__(model, optimizer)
        self._factor = factor

    def reduce(self, loss: float) -> float:
        self.model.grads[:] *= self._factor
        return super().reduce(loss)


SMALL = Net("mlp", lambda dtype: mlp([4, 5, 3], dtype=dtype))
"""The net that an optimizer is tried with if there is no model of the user's own."""
