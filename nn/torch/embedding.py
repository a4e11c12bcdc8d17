"""Embeddings whose row numbers come as floats, as all rows do."""

from typing import Any

import torch

EMBEDDINGS = (torch.nn.Embedding, torch.nn.EmbeddingBag)


def take_floats(net: torch.nn.Module) -> None:
    """Let every embedding in `net` take whole numbers of any dtype, and name one it cannot take.

    Gradients are dense, as the vector is that they are written into.

    Raises:
        ValueError: an embedding that changes its table as it computes, or whose gradient is of more
            than its own rows; more rows than floats of its dtype count, 2**24 (float32) or 2**53
            (float64).
    """
    for module in net.modules():
        if not isinstance(module, EMBEDDINGS):
            continue
        if module.max_norm is not None:
            raise ValueError(
                f"{module} rewrites the rows that it reads, on each rank others: expected "
                "max_norm=None"
            )
        if module.scale_grad_by_freq:
            raise ValueError(
                f"{module} divides gradients by how often a batch holds each number, of which a "
                "rank sees its part: expected scale_grad_by_freq=False"
            )
        largest = int(2 / torch.finfo(module.weight.dtype).eps)
        if module.num_embeddings > largest:
            raise ValueError(
                f"{module} has more than {largest} rows, which {module.weight.dtype} cannot number"
            )
        module.sparse = False
        if _to_numbers not in module._forward_pre_hooks.values():  # of a model's, given again
            module.register_forward_pre_hook(_to_numbers, with_kwargs=True)


def _to_numbers(
    module: Any, inputs: tuple[torch.Tensor, ...], named: dict[str, Any]
) -> tuple[tuple[torch.Tensor, ...], dict[str, Any]]:
    """
    Raises:
        ValueError: a number that is not whole, or of no row of the table.
    """
    given, *others = inputs or (named["input"],)
    numbers, rows = given.long(), module.num_embeddings
    wrong = given[(numbers != given) | (numbers < 0) | (numbers >= rows)]
    if len(wrong):
        raise ValueError(
            f"{wrong[0].item():.9g} is no row of {module}: expected whole numbers from 0 to "
            f"{rows - 1}"
        )
    return (numbers, *others), {name: value for name, value in named.items() if name != "input"}
