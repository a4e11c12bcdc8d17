"""A recipe: everything but the rows' order that decides what a training makes of its model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """A model, the optimizer that moves its parameters, and the loss that they make small.

    A function that returns a recipe makes a new one at each call, so that two trainings share
    nothing.

    Attributes:
        model: an `nn.Model`, an `nn.torch.TorchModel` or a `torch.nn.Module`, with the parameters
            that training begins with.
        optimizer: a function without arguments that makes a new optimizer at each call; None where
            whoever trains chooses one.
        loss: what is trained to be small in place of the model's own loss: one of `nn.loss`, or
            anything that `TorchModel(loss=...)` takes; None keeps the model's own.
        reference: your own training loop, as a function of batches that returns weights; see
            `bench/user_code/README.md`. None if there is none.
        data: the rows to train on, `(x, y)` or an `nn.Batch`, a data set of `nn.data`, or a
            function that returns one of these; None if they are given elsewhere.

    Raises:
        TypeError: optimizer or reference is no function.
    """

    model: Any
    optimizer: Callable[[], Any] | None = None
    loss: Any = None
    reference: Callable[[Any], Any] | None = None
    data: Any = None

    def __post_init__(self) -> None:
        for name, takes in (("optimizer", "without arguments"), ("reference", "of batches")):
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise TypeError(
                    f"{name} is an object of type {type(value).__name__}: expected a function "
                    f"{takes}" + ", e.g. lambda: AdamW(1e-3)" * (name == "optimizer")
                )
