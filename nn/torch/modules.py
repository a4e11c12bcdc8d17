"""The modules that a user gives, turned into layers that a flat vector can hold."""

import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from nn.layers import Shape
from nn.model import DTYPES


def hooked(module: torch.nn.Module) -> bool:
    """Whether calling the module does more than, or something other than, what its class says."""
    hooks = module._forward_pre_hooks, module._forward_hooks
    patched = "forward" in vars(module)
    return patched or any((*hooks, module._backward_pre_hooks, module._backward_hooks))


def call(module: torch.nn.Module, x: Any) -> Any:
    """Call a module with one tensor, or with a tuple or dict of several."""
    if isinstance(x, torch.Tensor):
        return module(x)
    if type(module) is torch.nn.Sequential:  # which takes one tensor only
        first, *others = module
        y = call(first, x)
        for each in others:
            y = each(y)
        return y
    return module(**x) if isinstance(x, dict) else module(*x)


def copied_layers(
    modules: Any, seed: int | None
) -> tuple[list[torch.nn.Module], list[tuple[str, ...]]]:
    """Copies of the modules that become the layers of a model, and their parameters' names.

    The names are those in the module that was given; in a list of modules, "1.weight" for module 1.

    Args:
        modules: what `TorchModel` takes.
        seed: seed of torch's generator while a function builds the modules; None leaves it alone.

    Raises:
        TypeError: `modules` is of no kind that `TorchModel` takes.
        ValueError: no modules, lazy modules, or modules that cannot be copied; two parameters lie
            in the same memory.
    """
    if not isinstance(modules, torch.nn.Module) and callable(modules):
        with _seeded(seed):
            modules = modules()
    given = [modules] if isinstance(modules, torch.nn.Module) else modules
    if not isinstance(given, (list, tuple)) or not all(
        isinstance(module, torch.nn.Module) for module in given
    ):
        raise TypeError(
            f"modules is {type(given).__name__}: expected a torch.nn.Sequential or other module, "
            "a list of modules, or a function that builds one of these"
        )
    for module in given:
        for name, tensor in _tensors(module):
            if torch.nn.parameter.is_lazy(tensor):
                raise ValueError(f"{name} has no shape yet: call the lazy module on rows first")
    _check_memory(given)
    # Copied together, so that what they share stays shared.
    try:
        copies = copy.deepcopy(list(given))
    except RuntimeError as error:  # parameters that a hook computes, as old weight norm does
        raise ValueError(
            f"modules that cannot be copied: {error}; expected those of "
            "torch.nn.utils.parametrizations in the place of torch.nn.utils.weight_norm"
        ) from error
    layers = list(_opened(copies))
    if not layers:
        raise ValueError("a model of no layers: expected at least one module")
    for i, layer in enumerate(layers):
        if layer in layers[:i]:  # dropout that stands twice needs two masks
            layers[i] = copy.deepcopy(layer, {id(each): each for _, each in _tensors(layer)})
    whole = modules if isinstance(modules, torch.nn.Module) else torch.nn.ModuleList(given)
    paths = [name for name, _ in whole.named_parameters()]
    whole = torch.nn.ModuleList(copies)
    names = dict(zip(map(id, whole.parameters()), paths, strict=True))
    return layers, [tuple(names[id(each)] for each in layer.parameters()) for layer in layers]


def _check_memory(modules: Sequence[torch.nn.Module]) -> None:
    """Raise ValueError if two parameters have the same memory, which copies would not share."""
    found: dict[int, str] = {}
    for name, weight in torch.nn.ModuleList(modules).named_parameters():
        if weight.numel() and found.setdefault(weight.data_ptr(), name) is not name:
            raise ValueError(
                f"{name} and {found[weight.data_ptr()]} are two parameters in the same memory: "
                "expected one, as in head.weight = embedding.weight"
            )


def _opened(modules: Iterable[torch.nn.Module]) -> Iterator[torch.nn.Module]:
    """The modules, with the children of each plain Sequential in its place."""
    for module in modules:
        plain = type(module).forward is torch.nn.Sequential.forward and not hooked(module)
        if isinstance(module, torch.nn.Sequential) and plain:
            yield from _opened(module)  # not its children(), which leave out repeats
        else:
            yield module


def _tensors(layer: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """The parameters and then the buffers of a module, by name."""
    yield from layer.named_parameters()
    yield from layer.named_buffers()


def dtype_of(layers: Sequence[torch.nn.Module], dtype: Any) -> str:
    """Name of the dtype that is asked for, or else of the one that all parameters have.

    Raises:
        ValueError: it is not in `DTYPES`, or parameters have several and none is asked for.
    """
    kinds = {
        str(weight.dtype).removeprefix("torch.")
        for layer in layers
        for weight in layer.parameters()
    }
    if dtype is not None:
        name = str(dtype).removeprefix("torch.")
        if name not in DTYPES:
            raise ValueError(f"dtype={dtype!r}: expected one of {', '.join(DTYPES)}")
        return name
    if len(kinds) > 1 or not kinds <= set(DTYPES):
        raise ValueError(
            f"parameters are {', '.join(sorted(kinds))}: expected all {' or all '.join(DTYPES)}; "
            "dtype=... converts them"
        )
    return kinds.pop() if kinds else "float32"


def check_parameters(net: torch.nn.Sequential) -> None:
    """Refuse buffers that layers cannot have to themselves.

    Raises:
        ValueError: layers share a buffer.
    """
    owners: dict[int, str] = {}
    for i, layer in enumerate(net):
        weights = {id(weight) for weight in layer.parameters()}
        for name, tensor in _tensors(layer):
            here = f"{name} of layer {i}"
            if id(tensor) not in weights and id(tensor) in owners:
                raise ValueError(
                    f"{here} is {owners[id(tensor)]}: layers share no buffers, which each would "
                    "change in its turn; make them one module"
                )
            owners[id(tensor)] = here


def draw_parameters(net: torch.nn.Sequential, seed: int) -> None:
    """Draw new initial parameters, as `TorchModel` says under `seed`. Frozen ones are kept.

    Raises:
        ValueError: a module with parameters has no `reset_parameters`.
    """
    rng = np.random.default_rng(seed)
    modules = [module for _, module in net.named_modules(remove_duplicate=False)]
    leaves = [module for module in modules if not any(module.children())]
    before_relu = {id(a) for a, b in pairwise(leaves) if isinstance(b, torch.nn.ReLU)}
    kinds = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
    frozen = [(w, w.detach().clone()) for w in net.parameters() if not w.requires_grad]
    with _seeded(seed), torch.no_grad():
        for module in modules:
            own = dict(module.named_parameters(recurse=False))
            if own and not any(weight.requires_grad for weight in own.values()):
                continue  # a frozen batch norm keeps its statistics too
            reset = getattr(module, "reset_parameters", getattr(module, "_reset_parameters", None))
            if isinstance(module, kinds) and "weight" in own:
                weight = own["weight"]
                inputs = max(weight[:1].numel(), 1)
                if isinstance(module, torch.nn.Linear):  # rounded as `nn` does
                    std = (math.sqrt(2) if id(module) in before_relu else 1.0) / math.sqrt(inputs)
                else:
                    std = math.sqrt(2 / inputs)
                weight.copy_(torch.from_numpy(rng.normal(0, std, tuple(weight.shape))))
                if "bias" in own:
                    own["bias"].zero_()
            elif reset:
                reset()
            elif own:
                raise ValueError(
                    f"{type(module).__name__} has no reset_parameters() to draw its parameters "
                    "anew: give a function that builds the module instead, or seed=None to keep "
                    "their values"
                )
        for weight, value in frozen:
            weight.copy_(value)


@contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    """Let torch's CPU generator begin at `seed`, and restore its state afterwards."""
    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.random.default_generator.manual_seed(seed)
        yield


def input_shape_of(net: torch.nn.Sequential) -> Shape | None:
    """Shape of one input row if a Linear comes first (behind Flatten at most), else None."""
    first = next((layer for layer in net if not isinstance(layer, torch.nn.Flatten)), None)
    return (first.in_features,) if isinstance(first, torch.nn.Linear) else None
