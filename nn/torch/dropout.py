"""Dropout for torch, with masks that do not depend on how a batch is split."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from numpy.typing import NDArray

from nn.layers.dropout import hashed, mask, row_ids
from nn.torch.dropout_calls import DropoutCalls


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


class _Masks(DropoutCalls):
    """Masks for the rows with these numbers.

    The number of a dropout call within its layer is drawn from torch's generator, which `_Layer`
    seeds. So a checkpointed part of a layer (torch.utils.checkpoint) has the same masks when it is
    computed again in backward, because a checkpoint restores the generator.
    """

    def __init__(self, rows: NDArray):
        super().__init__()
        self.rows, self.calls = rows, 0

    def kept(self, x, p, units):
        rows = len(self.rows)
        each, left = divmod(len(x), rows) if rows else (1, len(x))
        if left:
            raise ValueError(
                f"dropout of {len(x)} rows, where the batch has {rows}: expected the batch's rows "
                "in the first dimension"
            )
        seed = torch.initial_seed()
        if seed == _UNKNOWN:
            raise ValueError(
                "dropout in a checkpoint that does not restore torch's random generator, so that "
                "backward would drop other units than forward: expected "
                "checkpoint(..., preserve_rng_state=True)"
            )
        self.calls += 1
        kept = mask(p, (seed, _draw()), each * math.prod(units), self.rows)
        return torch.from_numpy(kept).to(x.device).view(len(x), *units)


_UNKNOWN = 0
"""Seed of torch's generator in a backward; a `_Layer` never has it."""


def _draw() -> int:
    """A number of 63 bits from torch's generator."""
    return int(torch.empty((), dtype=torch.int64, device="cpu").random_())


class _Layer:
    """The hooks that let a layer of a model draw masks of its own.

    Args:
        key: seed of the net, number of the layer.
        step: returns the number of steps taken; a function, because copies of the layer share it.
    """

    def __init__(self, key: tuple[int, int], step: Callable[[], int]):
        self.key, self.step = key, step
        self._running: list[tuple[_Masks, int, torch.Tensor]] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Layer":
        return self

    def begin(self, module: torch.nn.Module, inputs: Any) -> None:
        """Seed torch's generator for this layer and step, and let dropout draw masks."""
        if not module.training:
            return
        seed = hashed(*self.key, self.step()) | 1  # not _UNKNOWN
        masks = _Masks(row_ids())
        generator = torch.random.default_generator
        self._running.append((masks, seed, generator.get_state()))
        generator.manual_seed(seed)
        masks.__enter__()

    def end(self, module: torch.nn.Module, inputs: Any, output: Any) -> None:
        """Leave torch's generator as it was.

        Raises:
            ValueError: the layer has drawn other random numbers than masks.
        """
        if not self._running:  # evaluation, or an error in `begin`
            return
        masks, seed, before = self._running.pop()
        masks.__exit__(None, None, None)
        generator = torch.random.default_generator
        after = generator.get_state()
        generator.manual_seed(seed)
        for _ in range(masks.calls):
            _draw()
        only_masks = torch.equal(generator.get_state(), after)
        generator.set_state(before)
        if not only_masks:
            raise ValueError(
                f"{type(module).__name__} changes torch's random generator as it computes, which "
                "depends on how rows are split: expected no random numbers but those of dropout"
            )


def draw_masks(layer: torch.nn.Module, key: tuple[int, int], step: Callable[[], int]) -> None:
    """Let dropout in this layer have masks of (key, step, number of the call, row, unit).

    Args:
        layer: the module of a layer.
        key: seed of the net, number of the layer in the net.
        step: returns the number of steps taken.
    """
    hooks = _Layer(key, step)
    layer.register_forward_pre_hook(hooks.begin)
    layer.register_forward_hook(hooks.end, always_call=True)


def forget_masks(net: torch.nn.Module) -> None:
    """Undo `draw_masks` in every module of `net`."""
    for module in net.modules():
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for number in [n for n, hook in hooks.items() if _is_ours(hook)]:
                del hooks[number]
                module._forward_hooks_always_called.pop(number, None)


def draws_masks(net: torch.nn.Module) -> bool:
    """Whether `draw_masks` was applied to `net`, a layer, or to a child of it."""
    layers = (net, *net.children())
    return any(_is_ours(hook) for layer in layers for hook in layer._forward_pre_hooks.values())


def _is_ours(hook: Any) -> bool:
    return isinstance(getattr(hook, "__self__", None), _Layer)


@contextmanager
def masks_again(rows: NDArray | None) -> Iterator[None]:
    """Let the checkpointed parts of layers have the masks that they had in forward.

    Args:
        rows: numbers of the rows; None for layers without dropout.
    """
    if rows is None:
        yield
        return
    with torch.random.fork_rng(devices=[]), _Masks(rows):
        torch.random.default_generator.manual_seed(_UNKNOWN)
        yield
