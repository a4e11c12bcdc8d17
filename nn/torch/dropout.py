"""torch.nn.Dropout with masks that are the same however a batch is split."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.modules.dropout import _DropoutNd

from nn.layers.dropout import mask
from nn.torch.modules import hooked


class Clock:
    """Who counts the steps, in `steps`: what the user said, or else who took the last one.

    It holds no model: a strategy that has copied its part of one can let go of the rest.
    """

    def __init__(self, fixed: Any = None):
        self.fixed = fixed
        self.current: Any = None

    def step(self) -> int:
        """Steps taken so far.

        Raises:
            ValueError: nobody counts.
        """
        counter = self.current if self.fixed is None else self.fixed
        if counter is None:
            raise ValueError(
                "dropout needs to know the step: give the model to a strategy, or "
                "TorchModel(..., clock=optimizer)"
            )
        return counter.steps


class Dropout(torch.nn.Module):
    """In training each unit is 0 with probability p, and else multiplied by 1 / (1 - p).

    Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting" (2014),
    in the inverted form of torch.nn.Dropout.

    Args:
        p: probability of dropping a unit.
        seed, number: of the net, and of this layer in it.
        step: returns the number of steps taken; a function, which copies of the module share.
    """

    def __init__(self, p: float, seed: int, number: int, step: Callable[[], int]):
        super().__init__()
        self.p, self.seed, self.number, self.step = p, seed, number, step

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        if self.p == 1:
            return torch.zeros_like(x)  # and not 0 / 0
        units = math.prod(x.shape[1:])
        kept = mask(self.p, (self.seed, self.number, self.step()), units)
        if len(kept) != len(x):
            raise ValueError(
                f"{self} of {len(x)} rows, where the batch has {len(kept)}: expected the rows of "
                "the batch in the first dimension, e.g. dropout before Flatten(0, 1)"
            )
        return x * torch.from_numpy(kept).to(x.device).view_as(x) / (1 - self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def replace_dropout(net: torch.nn.Module, seed: int, step: Callable[[], int]) -> None:
    """Put `Dropout` in the place of every torch.nn.Dropout in `net`, or one put there before.

    Before a module is looked at, its parent's children have been replaced.

    Raises:
        ValueError: another kind of dropout, inside another module, of whole channels, or one that
            does something else in a subclass or a hook.
    """
    number = 0
    for name, parent in net.named_modules(remove_duplicate=False):
        inside = isinstance(parent, (torch.nn.MultiheadAttention, torch.nn.RNNBase))
        foreign = isinstance(parent, _DropoutNd) and parent.p
        changed = isinstance(parent, Dropout) and hooked(parent)
        if foreign or changed or (inside and parent.dropout):
            raise ValueError(
                f"module {name}, {type(parent).__name__}, drops units by masks of its own, which "
                "depend on how batches are split: use torch.nn.Dropout itself, without hooks"
            )
        for place, child in list(parent._modules.items()):  # named_children() leaves out repeats
            if type(child) in (torch.nn.Dropout, Dropout) and child.p and not hooked(child):
                setattr(parent, place, Dropout(child.p, seed, number, step))
                number += 1
