"""The parameters of a model by name, and where each lies in the flat vector."""

import math
from typing import NamedTuple

NO_GRADIENT = -0.0
"""What the gradient of a parameter is filled with in a step in which it has none.

-0.0 + -0.0 is -0.0, and -0.0 + a is a for every other a. So a sum over parts of a batch, in any
order and on any slice, says by itself whether one of them had a gradient. (`sum` and `np.sum` begin
with 0.0, and lose the mark.) A layer that may write it adds 0.0 to its other gradients, which turns
their negative zeros into 0.
"""


class Parameter(NamedTuple):
    """One parameter tensor of a model.

    Attributes:
        name: its name, unique in the model.
        start: its first element in the flat vector.
        shape: its shape.
        may_lack_gradient: whether there may be steps in which the loss does not depend on it. Its
            gradient is then `NO_GRADIENT`.
    """

    name: str
    start: int
    shape: tuple[int, ...]
    may_lack_gradient: bool = False

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def stop(self) -> int:
        return self.start + self.size
