"""Embeddings whose row numbers come as floats, as all rows do."""

from typing import Any

import torch

EMBEDDINGS = (torch.nn.Embedding, torch.nn.EmbeddingBag)


def take_floats(net: torch.nn.Module) -> None:
    """Let every embedding in `net` take whole numbers of any dtype, and name one it cannot take.

    Floats hold them exactly up to 2**24 (float32) or 2**53 (float64).
    """
    for module in net.modules():
        if isinstance(module, EMBEDDINGS) and not _numbered(module):
            module.register_forward_pre_hook(_to_numbers)


def _numbered(module: torch.nn.Module) -> bool:
    return _to_numbers in module._forward_pre_hooks.values()


def _to_numbers(module: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """
    Raises:
        ValueError: a number that is not whole, or of no row of the table.
    """
    given, *others = inputs
    numbers, rows = given.long(), module.num_embeddings
    wrong = given[(numbers != given) | (numbers < 0) | (numbers >= rows)]
    if len(wrong):
        raise ValueError(
            f"{wrong[0].item():.9g} is no row of {module}: expected whole numbers from 0 to "
            f"{rows - 1}"
        )
    return numbers, *others
