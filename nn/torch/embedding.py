"""Embeddings that take row numbers as floats, because all rows of a batch are floats."""

from typing import Any

import torch

EMBEDDINGS = (torch.nn.Embedding, torch.nn.EmbeddingBag)


def take_floats(net: torch.nn.Module) -> None:
    """Let every embedding in `net` take whole numbers of any dtype, and check them.

    Gradients become dense, because they are written into a dense vector.

    Raises:
        ValueError: an embedding changes its table as it computes, or scales gradients by how often
            the batch holds each number.
    """
    for module in net.modules():
        if not isinstance(module, EMBEDDINGS):
            continue
        if module.max_norm is not None:
            raise ValueError(
                f"{module} rewrites the rows that it reads, and each rank reads other rows: "
                "expected max_norm=None"
            )
        if module.scale_grad_by_freq:
            raise ValueError(
                f"{module} divides gradients by how often a batch holds each number, but a rank "
                "sees only a part of the batch: expected scale_grad_by_freq=False"
            )
        module.sparse = False
        if (
            _to_numbers not in module._forward_pre_hooks.values()
        ):  # else the modules of a model are wrapped again
            module.register_forward_pre_hook(_to_numbers, with_kwargs=True)


def _to_numbers(
    module: Any, inputs: tuple[torch.Tensor, ...], named: dict[str, Any]
) -> tuple[tuple[torch.Tensor, ...], dict[str, Any]]:
    """Turn the input of an embedding into whole numbers, before its `forward`.

    Raises:
        ValueError: a number is not whole, or the table has no such row; or it is a float of which
            nobody knows whether it was rounded: from 2**24 on in float32.
    """
    given, *others = inputs or (named["input"],)
    numbers, rows = given.long(), module.num_embeddings
    wrong = given[(numbers != given) | (numbers < 0) | (numbers >= rows)]
    if len(wrong):
        raise ValueError(
            f"{wrong[0].item():.9g} is no row of {module}: expected whole numbers from 0 to "
            f"{rows - 1}"
        )
    if given.is_floating_point() and (numbers >= 2 / torch.finfo(given.dtype).eps).any():
        raise ValueError(
            f"numbers of rows reach {module} as {given.dtype}, the dtype of the model, which "
            f"rounds those as large as {numbers.max()}: expected x of an integer dtype"
        )
    return (numbers, *others), {name: value for name, value in named.items() if name != "input"}
