"""Checks that a module computes each row by itself, so that a batch may be split anywhere.

Before training, `output_of_a_row` tries the module on rows together and each alone. In
training, `run_watched` refuses what only shows then: random numbers, and state that rows leave.
"""

import copy
import math
import pickle
import random
import warnings
from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.modules.batchnorm import _BatchNorm

from nn.batch import map_arrays, named_arrays
from nn.inputs import has_several, map_inputs, take_rows
from nn.layers import Shape
from nn.torch.dropout import forget_masks
from nn.torch.dropout_calls import DropoutCalls
from nn.torch.modules import call

if TYPE_CHECKING:
    from nn.torch.layer import TorchLayer


# Before training


def output_of_a_row(layer: "TorchLayer", shape: Shape) -> tuple[Shape, int]:
    """Shape of an output row for an input row of `shape`, and how many each input row makes.

    The module is tried in evaluation and in training mode, without dropout; `layer.drops` then says
    whether there was any. Two rows are tried first, and then more, see `MANY`. Under autocast it is
    tried without autocast first, because the rounding of autocast hides much; with it only where
    that fails.

    Raises:
        ValueError: the module fails on such rows, returns anything but one tensor with equally many
            rows for each, or makes something else of a row among others than of the row alone; or
            dropout meets a tensor whose first dimension is not the batch's rows.
    """
    layer.refresh()
    module = _for_trial(layer.module)  # the trial may change it
    precisions = [None, layer.compute] if layer.compute else [None]
    failures: dict[str, str] = {}
    for compute, (kinds, rows) in product(precisions, _two_rows(layer, module, shape)):
        try:
            with layer.autocast(compute):
                trials = [_trial(layer, module.train(mode), rows) for mode in (False, True)]
            break
        except _WrongDropout as error:
            raise ValueError(
                f"{layer} drops units of a tensor of shape {error} made of two rows: expected the "
                "batch's rows in its first dimension (or equally many places for each), so that "
                "masks belong to rows"
            ) from None
        except Exception as error:
            failures.setdefault(str(error), _said(kinds))
    else:
        _raise_untaken(layer, shape, failures)
    for y, alone in trials:
        if not isinstance(y, torch.Tensor) or not y.ndim or not len(y) or len(y) % 2:
            tensor = isinstance(y, torch.Tensor)
            what = f"shape {tuple(y.shape)}" if tensor else type(y).__name__
            raise ValueError(
                f"{layer} makes {what} of two rows: expected one tensor with a row for each, or "
                "equally many rows for each"
            )
        tolerance = torch.finfo(compute or getattr(torch, layer.dtype)).eps ** 0.5
        if not all(_same(a, b, layer.dtype, tolerance) for a, b in zip(alone, y.chunk(2))):
            raise _mixed(layer, shape, "two")
    made = [y, *alone]
    if alone:
        with layer.autocast(compute), _NoDropout():
            made += _try_many(layer, module, shape, rows, kinds == "f", tolerance)
    _note_gradients(layer, module, made)
    return tuple(y.shape[1:]), len(y) // 2


def _mixed(layer: "TorchLayer", shape: Any, many: str) -> ValueError:
    return ValueError(
        f"{layer} mixes rows of shape {shape}: of {many} it makes something else than of each "
        "alone, so that the result would depend on how a batch is split; expected the rows in the "
        "first dimension (batch_first=True), and each computed by itself"
    )


MANY = {7: [0, 2, 1, 3, 3, 0, 2], 33: [2] * 30 + [0, 1, 3]}
"""Number of rows -> which of four rows they are: in mixed order, and most of them the same."""

LARGE = 4096
"""Numbers in a row beyond which 33 rows would take too long to try."""


def _try_many(
    layer: "TorchLayer",
    module: torch.nn.Module,
    shape: Any,
    rows: Any,
    floats: bool,
    tolerance: float,
) -> list[torch.Tensor]:
    """Try more rows than two, which may meet where two do not, in training mode.

    Some modules choose by the mean of all rows, or have room for a number of rows only, as a
    mixture of experts may have. So of floats two more rows are shifted, one up and one down.

    Returns:
        The outputs for these four rows, each alone.

    Raises:
        ValueError: of some rows it makes something else than of each alone.
    """
    first, second = (take_rows(rows, slice(i, i + 1)) for i in range(2))
    four = [first, second, first + 2, second / 2 - 2] if floats else [first, second] * 2
    try:
        alone = [_evaluate(layer, module, row) for row in four]
    except Exception:  # shifted rows may be none that the module takes, e.g. numbers of words
        four = [first, second] * 2
        alone = [_evaluate(layer, module, row) for row in four]
    for count, which in MANY.items():
        if count == max(MANY) and sum(array.size for _, array in named_arrays(rows, "x")) > LARGE:
            continue
        together = map_arrays(
            lambda _, name: np.concatenate(
                [dict(named_arrays(four[i], "x"))[name] for i in which]  # noqa: B023
            ),
            rows,
            "x",
        )
        y = _evaluate(layer, module, together if has_several(shape) else together[0])
        if not all(
            _same(alone[i], part, layer.dtype, tolerance) for i, part in zip(which, y.chunk(count))
        ):
            raise _mixed(layer, shape, str(count))
    return alone


def _note_gradients(
    layer: "TorchLayer", module: torch.nn.Module, outputs: list[torch.Tensor]
) -> None:
    """Tell the layer what some outputs of `module`, or all, do not depend on.

    A module that leaves out some parameters for some rows may leave out others for other rows.
    """
    reached = [_reached(layer, y) for y in outputs]
    weights = {id(weight): name for name, weight in zip(layer.all_names, module.parameters())}
    never = [name for key, name in weights.items() if not any(key in each for each in reached)]
    leaves_out = any(key not in each for key in weights for each in reached)
    layer.note_gradients(never=never, sometimes=list(weights.values()) if leaves_out else ())
    from_input = [bool(each - set(weights)) for each in reached]
    layer.cuts, layer.may_cut = not any(from_input), not all(from_input)


def _reached(layer: "TorchLayer", y: torch.Tensor) -> set[int]:
    """The ids of the parameters and inputs that are part of the graph of y.

    Raises:
        ValueError: a part of the graph would be computed again by reentrant backward:
            `torch.autograd.grad` does not reach its parameters, which would never train.
    """
    seen, nodes, reached = set(), [y.grad_fn], set()
    if y.requires_grad and y.is_leaf:  # the module returns its input
        return {id(y)}
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if "CheckpointFunctionBackward" in type(node).__name__:
            raise ValueError(
                f"{layer} has a reentrant checkpoint, whose parameters have no gradient here: "
                "expected torch.utils.checkpoint.checkpoint(..., use_reentrant=False)"
            )
        if hasattr(node, "variable"):
            reached.add(id(node.variable))
        nodes += [each for each, _ in node.next_functions]
    return reached


def check_no_rows(layer: "TorchLayer", shape: Shape) -> None:
    """Check that the module makes 0 rows of 0 rows of `shape`.

    Raises:
        ValueError: it fails, or makes an output of another shape.
    """
    expected = (0, *layer.row_shape(shape))
    module = _for_trial(layer.module).eval()
    try:
        with layer.autocast(layer.compute):
            made = tuple(_evaluate(layer, module, np.empty((0, *shape), layer.dtype)).shape)
        failed = None if made == expected else f"it makes {made}"
    except Exception as error:
        failed = str(error)
    if failed:
        raise ValueError(
            f"{layer} cannot take 0 rows of shape {shape}: {failed}; with sync_batch_norm a "
            "rank without rows computes too, expected e.g. torch.flatten(x, 1) in the place "
            "of x.view(len(x), -1)"
        )


KINDS = {"f": "floats", "w": "floats of 0 and 1", "i": "whole numbers", "b": "bools"}


def _two_rows(
    layer: "TorchLayer", module: torch.nn.Module, shape: Any
) -> Iterator[tuple[Any, Any]]:
    """Yield kinds of numbers, and two rows that differ.

    Of one input each kind. Of several the first combination of kinds that the module takes.

    Raises:
        ValueError: it takes none.
    """
    if not has_several(shape):
        for kind in KINDS:
            yield kind, _rows_of(shape, kind, layer.dtype)
        return
    names = list(shape) if isinstance(shape, dict) else list(range(len(shape)))

    def rows_of_kinds(chosen: dict[Any, str]) -> Any:
        rows = {name: _rows_of(shape[name], chosen[name], layer.dtype) for name in names}
        return rows if isinstance(shape, dict) else tuple(rows.values())

    module.eval()
    failures: dict[str, str] = {}
    for combination in product("wib", repeat=len(names)):
        kinds = dict(zip(names, combination))
        try:
            _evaluate(layer, module, rows_of_kinds(kinds))
            break
        except Exception as error:
            failures.setdefault(str(error), _said(kinds))
    else:
        _raise_untaken(layer, shape, failures)
    for name in names:  # normal floats tell more than 0 and 1
        if kinds[name] == "w":
            try:
                _evaluate(layer, module, rows_of_kinds({**kinds, name: "f"}))
                kinds[name] = "f"
            except Exception:
                continue
    yield kinds, rows_of_kinds(kinds)


def _raise_untaken(layer: "TorchLayer", shape: Any, failures: dict[str, str]) -> NoReturn:
    """Raise ValueError with what failed, each error once."""
    tried = "; ".join(f"of {kinds}: {text}" for text, kinds in failures.items())
    raise ValueError(f"{layer} cannot take rows of shape {shape}, {tried}")


def _rows_of(shape: Shape, kind: str, dtype: str) -> NDArray:
    rng = np.random.default_rng(0)
    if kind == "f":  # normal numbers, and 0 for some
        row, other = rng.standard_normal((2, *shape))
        return np.stack([row, np.maximum(other, 0)]).astype(dtype)
    row = rng.integers(0, 2, shape)
    return np.stack([row, 1 - row]).astype({"w": dtype, "i": "int64", "b": "bool"}[kind])


def _said(kinds: Any) -> str:
    if isinstance(kinds, str):
        return KINDS[kinds]
    each = kinds.items() if isinstance(kinds, dict) else enumerate(kinds)
    return ", ".join(f"x[{name!r}] {KINDS[kind]}" for name, kind in each)


def kinds_taken(layer: "TorchLayer", shape: Any) -> Any:
    """Kinds of numbers that a first module takes, see `nn.inputs`; of several, of each input.

    A module takes a kind if it makes floats of its dtype from it. What is no float then stays what
    it is, as in a plain loop of torch. A module without parameters is given floats.
    """
    if not layer.shapes and not has_several(shape):
        return "f"
    module = _for_trial(layer.module).eval()

    def works(rows: Any) -> bool:
        try:
            with layer.autocast(layer.compute):
                y = _evaluate(layer, module, rows)
        except Exception:
            return False
        made = {getattr(torch, layer.dtype), layer.compute} if layer.shapes else {y.dtype}
        return y.dtype in made

    found = ((kinds, rows) for kinds, rows in _two_rows(layer, module, shape) if works(rows))
    kinds, rows = next(found, (None, None))
    if kinds is None:  # the trial has refused it, or its dtype shows in training only
        return map_inputs(lambda _: "f", shape) if has_several(shape) else "f"
    if not has_several(shape):
        takes = works(_rows_of(shape, "i", layer.dtype))
        return {"f": "f" + "i" * takes, "w": "i" * takes + "f"}.get(kinds, kinds)
    taken = {}
    for name in shape if isinstance(shape, dict) else range(len(shape)):
        first = kinds[name]
        others = [
            kind
            for kind in ("i", "b", "f")
            if kind != first and works(_with(rows, name, _rows_of(shape[name], kind, layer.dtype)))
        ]
        order = [*others, "f"] if first == "w" else [first, *others]
        taken[name] = "".join(dict.fromkeys(order))
    return map_inputs(lambda kind: kind, taken if isinstance(shape, dict) else taken.values())


def _with(rows: Any, name: Any, other: NDArray) -> Any:
    """Several inputs, one of them replaced."""
    if isinstance(rows, dict):
        return {**rows, name: other}
    return tuple(other if i == name else each for i, each in enumerate(rows))


def _for_trial(module: torch.nn.Module) -> torch.nn.Module:
    """A copy of the module in which no parameter is (nearly) 0 and hides what it multiplies.

    Gates of blocks begin like that (Bachlechner et al., "ReZero is all you need", 2020), and so do
    the last layers of some nets.
    """
    module = copy.deepcopy(module)
    forget_masks(module)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in module.parameters():
            if (weight.abs() < 1e-3).all():
                # A gate has to be open, and a bias must not outweigh the rest: both are vectors.
                scale = max(math.prod(weight.shape[1:]), 1) ** -0.5 if weight.ndim > 1 else 0.1
                weight.copy_(scale * torch.randn(weight.shape, generator=generator))
    return module


def _trial(
    layer: "TorchLayer", module: torch.nn.Module, rows: NDArray
) -> tuple[Any, list[torch.Tensor]]:
    """Output for two rows together, and outputs for each alone where the two must agree.

    They need not agree for batch norm without running statistics, which mixes rows by design, nor
    for modules that `run_watched` refuses: random numbers, and statistics that rows leave.
    """
    for part in module.modules():
        if isinstance(part, _BatchNorm):
            part.eval()
    before = _hidden_state(module, layer.device)
    with _NoDropout() as together:
        y = _evaluate(layer, module, rows)
    layer.drops |= bool(together.inputs)
    if not all(norm.track_running_stats for norm in layer.norms):
        return y, []
    alone, dropped = [], []
    for i in range(2):
        with _NoDropout() as calls:
            alone.append(_evaluate(layer, module, take_rows(rows, slice(i, i + 1))))
        dropped.append(calls.inputs)
    if _hidden_state(module, layer.device) != before:
        return y, []
    tolerance = torch.finfo(getattr(torch, layer.dtype)).eps ** 0.5
    for i, x in enumerate(together.inputs):
        own = [calls[i] for calls in dropped if i < len(calls)]
        tolerance = max(tolerance, torch.finfo(x.dtype).eps ** 0.5)
        parts = x.chunk(2) if len(x) else ()
        if len(own) != len(parts) or not all(
            _same(a, b, layer.dtype, tolerance) for a, b in zip(own, parts)
        ):
            raise _WrongDropout(tuple(x.shape))
    return y, alone


class _NoDropout(DropoutCalls):
    """Keeps all units, and the input of each dropout."""

    def __init__(self):
        super().__init__()
        self.inputs: list[torch.Tensor] = []

    def kept(self, x, p, units):
        self.inputs.append(x.detach().clone())
        return None


class _WrongDropout(Exception):
    """Dropout meets a tensor whose first dimension is not the batch's rows."""


def _evaluate(layer: "TorchLayer", module: torch.nn.Module, rows: NDArray) -> Any:
    """Output for rows. A module that writes into its input is given copies from now on."""
    x = layer.enter(copy.deepcopy(rows))
    if isinstance(x, torch.Tensor) and x.is_floating_point():
        x.requires_grad_(module.training)
    tensors = [x] if isinstance(x, torch.Tensor) else x.values() if isinstance(x, dict) else x
    versions = [each._version for each in tensors]
    with torch.set_grad_enabled(module.training), warnings.catch_warnings():
        # Of a reentrant checkpoint in evaluation mode; `_without_gradient` refuses it.
        warnings.filterwarnings("ignore", "None of the inputs have requires_grad")
        y = call(module, x)
    if [each._version for each in tensors] != versions:
        for each in (module, layer.module):
            each.register_forward_pre_hook(_copy_rows, with_kwargs=True)
    return y


def _copy_rows(
    module: torch.nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return tuple(each.clone() for each in inputs), {k: each.clone() for k, each in named.items()}


def _same(a: torch.Tensor, b: torch.Tensor, dtype: str, tolerance: float) -> bool:
    """Whether a and b agree up to rounding. Values that are not finite prove nothing."""
    if a.shape != b.shape:
        return False
    a, b = (each.detach().to(getattr(torch, dtype)) for each in (a, b))
    return not torch.dist(a, b) > tolerance * b.norm()


# In training


def run_watched(layer: "TorchLayer", x: torch.Tensor) -> tuple[Any, bool]:
    """Run the module on x; return its output, and whether the check is complete.

    It is not complete after a run without rows, or if a buffer was made in this run: whether the
    buffer then stays the same shows in the next one.

    Raises:
        ValueError: the module draws random numbers, keeps statistics of rows, or changes its
            parameters, so that results would depend on how rows are split.
    """
    before = _hidden_state(layer.module, layer.device)
    y = layer.run(x)
    after = _hidden_state(layer.module, layer.device)
    changed = [name for name in before if after.get(name) != before[name]]
    if changed:
        raise ValueError(
            f"{layer} changes {', '.join(changed)} as it computes, which depends on how rows "
            "are split; among such modules those of dropout and BatchNorm1d to 3d can be used"
        )
    return y, len(x) > 0 and before.keys() == after.keys()


def _hidden_state(module: torch.nn.Module, device: torch.device) -> dict[str, Any]:
    """Random generators, and how often each tensor was written, except batch norm's statistics."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    known = {id(buffer) for norm in norms for buffer in norm.buffers()}
    state: dict[str, Any] = dict(generator_states(device))
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if id(tensor) not in known:
            state[name] = id(tensor), tensor._version
    return state


def generator_states(device: torch.device) -> dict[str, Any]:
    """The states of all random generators that a module on `device` may draw from, by name."""
    states = {
        "python's": random.getstate(),
        # As bytes, which can be compared for every kind of generator.
        "numpy's": pickle.dumps(np.random.get_state(legacy=False)),  # noqa: NPY002
        "torch's": torch.get_rng_state().numpy().tobytes(),
    }
    if device.type == "cuda":
        states["the device's"] = torch.cuda.get_rng_state(device).numpy().tobytes()
    elif device.type == "mps":
        states["the device's"] = torch.mps.get_rng_state().numpy().tobytes()
    return {f"{whose} random generator": state for whose, state in states.items()}
