"""Dropout for torch, with masks that do not depend on how a batch is split."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.modules.dropout import _DropoutNd

from nn.layers.dropout import mask
from nn.torch.modules import hooked


class Clock:
    """The step number that dropout masks depend on, read from whichever object counts the steps.

    A model has one clock, which all its dropout layers read. The clock does not hold the model, so
    that a strategy that has copied its part of the parameters can release the rest.

    Attributes:
        fixed: the counter that the user chose (`TorchModel(..., clock=)`), an object with `steps`.
            While it is not None, it alone counts.
        current: the optimizer of the strategy that steps last. A strategy enters its optimizer here
            at the beginning of every step, so one model may be trained by one strategy after
            another.
    """

    def __init__(self, fixed: Any = None):
        self.fixed = fixed
        self.current: Any = None

    def step(self) -> int:
        """Number of steps taken so far.

        Raises:
            ValueError: there is neither a fixed nor a current counter.
        """
        counter = self.current if self.fixed is None else self.fixed
        if counter is None:
            raise ValueError(
                "dropout needs to know the step: give the model to a strategy, or "
                "TorchModel(..., clock=optimizer)"
            )
        return counter.steps


class Dropout(torch.nn.Module):
    """Dropout: in training a unit is 0 with probability p, and else multiplied by 1 / (1 - p).

    Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting" (2014),
    in the inverted form of torch.nn.Dropout.

    Args:
        p: probability of dropping a unit.
        seed: seed of the net.
        number: number of this layer among the dropout layers of the net.
        step: returns the number of steps taken; a function, because copies of the module share it.
    """

    def __init__(self, p: float, seed: int, number: int, step: Callable[[], int]):
        super().__init__()
        self.p, self.seed, self.number, self.step = p, seed, number, step

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        if self.p == 1:
            return torch.zeros_like(x)  # the formula below would give 0 / 0
        units = math.prod(x.shape[1:])
        kept = mask(self.p, (self.seed, self.number, self.step()), units)
        if len(kept) != len(x):
            raise ValueError(
                f"{self} of {len(x)} rows, where the batch has {len(kept)}: expected the batch's "
                "rows in the first dimension, e.g. dropout before Flatten(0, 1)"
            )
        return x * torch.from_numpy(kept).to(x.device).view_as(x) / (1 - self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def replace_dropout(net: torch.nn.Module, seed: int, step: Callable[[], int]) -> None:
    """Replace every torch.nn.Dropout in `net` by `Dropout`, and any older `Dropout` by a new one.

    Raises:
        ValueError: the net has dropout of another kind: built into another module, of whole
            channels, or changed by a subclass or a hook.
    """
    number = 0
    # A module's parent comes before it, so what is left of torch's dropout here was not replaced.
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
