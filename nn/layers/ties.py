"""Tied weights: parameters that several layers have, in one place of the flat vector."""

from collections.abc import Sequence

from nn.layers.base import Layer


def tie(layers: Sequence[Layer]) -> None:
    """Let each parameter belong to the first layer that has it; later ones borrow it.

    Backward goes from the last layer to the first. So of the layers that have a parameter the last
    one writes its gradient, the others add to it, and it is complete behind its owner.
    """
    users: dict[str, list[Layer]] = {}
    for layer in layers:
        for name in layer.shareable:
            users.setdefault(name, []).append(layer)
    for layer in layers:
        if layer.shareable:
            layer.share(
                {name for name in layer.shareable if users[name][0] is not layer},
                {name for name in layer.shareable if users[name][-1] is not layer},
            )


def lend(layers: Sequence[Layer]) -> None:
    """Give the layers that borrow parameters views of them, after all layers have been bound."""
    if any(layer.borrowed for layer in layers):
        views = {
            name: (param, grad)
            for layer in layers
            if layer.shareable
            for name, param, grad in zip(layer.names, layer.params, layer.grads)
        }
        for layer in layers:
            layer.borrow([views[name] for name in layer.borrowed])
