"""torch.nn.Dropout with masks that are the same however a batch is split."""

import math
from collections.abc import Callable

import torch

from nn.dropout import mask

ELSEWHERE = (
    torch.nn.Dropout1d,
    torch.nn.Dropout2d,
    torch.nn.Dropout3d,
    torch.nn.AlphaDropout,
    torch.nn.FeatureAlphaDropout,
)


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
        return x * torch.from_numpy(kept).to(x.device).view_as(x) / (1 - self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def replace_dropout(net: torch.nn.Module, seed: int, step: Callable[[], int]) -> None:
    """Put `Dropout` in the place of every torch.nn.Dropout in `net`, or one put there before.

    Raises:
        ValueError: another kind of dropout, inside another module or of whole channels.
    """
    number = 0
    for name, parent in net.named_modules(remove_duplicate=False):
        hidden = isinstance(parent, (torch.nn.MultiheadAttention, torch.nn.RNNBase))
        if isinstance(parent, ELSEWHERE) or (hidden and parent.dropout):
            raise ValueError(
                f"module {name}, {type(parent).__name__}, drops units by masks of its own, which "
                "depend on how batches are split: use torch.nn.Dropout"
            )
        for place, child in list(parent._modules.items()):  # named_children() leaves out repeats
            if isinstance(child, (torch.nn.Dropout, Dropout)) and child.p:
                setattr(parent, place, Dropout(child.p, seed, number, step))
                number += 1
