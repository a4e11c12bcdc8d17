"""The parameters of a model by name, and where each lies in the flat vector."""

import math
from typing import NamedTuple


class Parameter(NamedTuple):
    """One parameter tensor: its `name`, its first element in the flat vector, and its shape."""

    name: str
    start: int
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def stop(self) -> int:
        return self.start + self.size
