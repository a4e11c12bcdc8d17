"""`TorchOptimizer`: an optimizer of torch.optim on the flat vectors of a strategy."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from nn.optim import Optimizer, Options, Part, Schedule, Vector
from nn.optim.groups import as_groups, group_of

Factory = Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]

SHAPES = ((2,), (2, 2), (2, 2, 2, 2))
"""Shapes of the parameters that an optimizer is tried with: some take matrices only."""

EXPECTED = "expected e.g. TorchOptimizer(lambda params: torch.optim.AdamW(params, lr=1e-3))"

COUNTER = "step"
"""What torch's optimizers call their count of the steps in which a parameter had a gradient.

`state` has it for every optimizer with state: 0 means that torch has made none yet.
"""


class TorchOptimizer(Optimizer):
    """Move the parameters as an optimizer of torch.optim, or of its like, moves them.

    The factory is given the parameters, each in its own shape; where a strategy cuts a parameter,
    a piece of it in one dimension. What torch keeps for a parameter lies in `state` under torch's
    name, in vectors as long as the parameters: a number per parameter is repeated, and a smaller
    tensor stands in front. So checkpoints hold it, and a resumed training goes on to the bit.

    Args:
        factory: makes the optimizer of a list of parameters, e.g.
            `lambda params: torch.optim.AdamW(params, lr=1e-3)`. It is called more than once.
        lr: a learning rate or schedule in place of the factory's own rate. A scheduler of
            torch.optim.lr_scheduler cannot be used: `nn.lr_schedules` has them.
        options: as of every `Optimizer`; settings of groups have torch's names.

    Raises:
        TypeError: the factory makes no optimizer of the parameters that it is given, or one that a
            strategy cannot use: it needs a closure or sparse gradients, or keeps something that
            `state` cannot hold.
        ValueError: a group has settings that the optimizer does not have.
    """

    def __init__(
        self, factory: Factory, lr: float | Schedule | None = None, **options: Unpack[Options]
    ):
        self.factory = factory
        trial = _Trial(factory)
        groups = options.pop("groups", ())
        super().__init__(float(trial.settings["lr"]) if lr is None else lr, **options)
        self.groups = as_groups(groups, set(trial.settings))
        self.slots = trial.slots
        self._keeps_gradient = trial.keeps_gradient
        self._torch: torch.optim.Optimizer | None = None
        self._pieces: list[_Piece] = []
        self._bound: dict[str, Vector] = {}
        """The vectors of `state` in which torch's own state lies."""

    def __getstate__(self) -> dict[str, Any]:
        # A copy makes torch's optimizer anew, for the copied vectors of `state`.
        return self.__dict__ | {"_torch": None, "_pieces": [], "_bound": {}}

    @property
    def keeps_gradient(self) -> bool:
        return self._keeps_gradient

    def variants(self) -> list[Any]:
        return [
            TorchOptimizer(_with_settings(self.factory, settings), settings.get("lr", self.lr))
            for _, settings in self.groups
        ]

    def apply_all(self, params: Vector, grads: Vector, lr: float, absent: list[slice]) -> None:
        vector, gradient = _tensor(params), _tensor(grads)
        parts = self._parts_of(len(vector))
        rates = [lr, *self._rates(lr)]
        if [part.size for part in parts] != [piece.size for piece in self._pieces]:
            self._make(parts, vector, rates)
        if self.slots and self._is_behind():
            self._make(parts, vector, rates)
            self._restore()
        for piece in self._pieces:
            piece.parameter.data = piece.of(vector)
            piece.parameter.grad = None if piece.where in absent else piece.of(gradient)
            piece.write_numbers(self._bound)
        assert self._torch is not None
        for group, rate in zip(self._torch.param_groups, rates):
            group["lr"] = rate
        self._torch.step()
        for piece in self._pieces:
            if piece.state and piece.parameter.grad is not None:
                _tensor(self._bound[COUNTER])[piece.where] += 1
            piece.parameter.grad = None
            piece.keep(self._bound)

    def _is_behind(self) -> bool:
        """Whether `state` holds other vectors, or more, than torch's optimizer knows."""
        if any(self.state[name] is not self._bound.get(name) for name in self.slots):
            return True
        counts = _tensor(self._bound[COUNTER])
        return any(not piece.state and counts[piece.where.start] for piece in self._pieces)

    def _parts_of(self, length: int) -> list[Part]:
        """The parts of a vector that are not empty; one if nobody has told them."""
        parts = [part for part in self._parts or [] if part.size]
        known = sum(part.size for part in parts) == length
        return parts if known else [Part("", length, None)]

    def _make(self, parts: list[Part], like: Tensor, rates: list[float]) -> None:
        """Make torch's optimizer, without state."""
        pieces, at = [], 0
        for part in parts:
            shape = (part.size,) if part.shape is None else part.shape
            empty = torch.nn.Parameter(like.new_zeros(shape))
            pieces.append(_Piece(empty, slice(at, at + part.size)))
            at += part.size
        self._torch = self.factory([piece.parameter for piece in pieces])
        (of_all,) = self._torch.param_groups
        settings = [{}, *(settings for _, settings in self.groups)]
        groups = [
            {**of_all, **each, "params": [], "lr": rate} for each, rate in zip(settings, rates)
        ]
        for part, piece in zip(parts, pieces):
            group = group_of(part.name, self.groups)
            groups[0 if group is None else group + 1]["params"].append(piece.parameter)
        self._torch.param_groups[:] = groups
        for piece in pieces:
            piece.optimizer = self._torch
        self._pieces = pieces

    def _restore(self) -> None:
        """Fill torch's state from `state`; a step of 0 makes it in its shapes and dtypes.

        Where there is none yet it is left to torch, whose first one is not 0 for every optimizer.
        """
        for piece in self._pieces:
            piece.parameter.grad = torch.zeros_like(piece.parameter)
        assert self._torch is not None
        self._torch.step()
        self._bound = {name: self.state[name] for name in self.slots}
        for piece in self._pieces:
            piece.load(self._bound)


class _Piece:
    """A parameter that torch's optimizer moves, and its place in the flat vectors."""

    optimizer: torch.optim.Optimizer

    def __init__(self, parameter: torch.nn.Parameter, where: slice):
        self.parameter, self.where = parameter, where
        self.size = where.stop - where.start
        self._views: dict[str, Tensor] = {}

    @property
    def state(self) -> dict[str, Any]:
        """What torch keeps for the parameter; asking makes no entry, as indexing would."""
        return self.optimizer.state.get(self.parameter, {})

    def of(self, vector: Tensor) -> Tensor:
        return vector[self.where].view(self.parameter.shape)

    def _place(self, name: str, value: Tensor, vectors: dict[str, Vector]) -> Tensor:
        """The elements of a vector of `state` that hold a value of torch's."""
        place = _tensor(vectors[name])[self.where]
        return place if value.numel() == 1 else place[: value.numel()]

    def _kept(self) -> list[tuple[str, Tensor]]:
        return [(n, v) for n, v in self.state.items() if n != COUNTER and v is not None]

    def keep(self, vectors: dict[str, Vector]) -> None:
        """Have torch's state lie in the vectors, as far as it does not already."""
        for name, value in self._kept():
            if value is self._views.get(name):
                continue
            place = self._place(name, value, vectors)
            if value.numel() == place.numel() and value.dtype == place.dtype:
                place.copy_(value.reshape(-1))
                self.state[name] = self._views[name] = place.view(value.shape)
            else:
                place.copy_(value.reshape(-1).expand(len(place)))

    def load(self, vectors: dict[str, Vector]) -> None:
        """Take torch's state from the vectors, and have it lie in them."""
        if not _tensor(vectors[COUNTER])[self.where.start]:
            self.optimizer.state.pop(self.parameter, None)
            return
        self.write_numbers(vectors)
        for name, value in self._kept():
            place = self._place(name, value, vectors)
            value.copy_((place if value.numel() > 1 else place[:1]).view(value.shape))
        self.keep(vectors)

    def write_numbers(self, vectors: dict[str, Vector]) -> None:
        """Write what torch keeps outside the vectors: its count of steps, and numbers."""
        if isinstance(count := self.state.get(COUNTER), Tensor):
            count.copy_(_tensor(vectors[COUNTER])[self.where.start])
        elif count is not None:
            self.state[COUNTER] = round(float(_tensor(vectors[COUNTER])[self.where.start]))
        for name, value in self._kept():
            if value is not self._views.get(name):
                value.copy_(self._place(name, value, vectors)[: value.numel()].view(value.shape))


class _Trial:
    """What two steps on small parameters tell of an optimizer.

    Attributes:
        settings: the settings of its group of parameters.
        slots: names of what it keeps for each parameter.
        keeps_gradient: whether a step leaves the gradient as it was.

    Raises:
        TypeError: a strategy cannot use the optimizer.
    """

    def __init__(self, factory: Factory):
        if not callable(factory):
            raise TypeError(f"factory is {type(factory).__name__}: {EXPECTED}")
        kept: list[str] = []
        self.keeps_gradient, self.settings = True, {}
        failures = []
        for shape in SHAPES:
            parameter = torch.nn.Parameter(torch.full(shape, 0.5))
            try:
                made = factory([parameter])
            except Exception as error:
                failures.append(error)
                continue
            self.settings = _settings(made, parameter)
            before = repr(self.settings)
            try:
                for scale in (1.0, -0.5):
                    gradient = torch.full(shape, scale)
                    parameter.grad = gradient.clone()
                    made.step()
                    self.keeps_gradient &= torch.equal(gradient, parameter.grad)
            except Exception as error:
                failures.append(error)
                continue
            if repr(_settings(made, parameter)) != before:
                raise TypeError(
                    f"{type(made).__name__} keeps numbers for all parameters together, in its "
                    "param_groups, where a checkpoint would lose them: expected one that keeps "
                    "what it needs for each parameter"
                )
            kept += _kept_names(made, parameter)
        if len(failures) == len(SHAPES):
            raise TypeError(
                f"the optimizer takes no step on a small parameter ({failures[0]}): {EXPECTED}"
            ) from failures[0]
        self.slots = tuple(dict.fromkeys([*kept, COUNTER] if kept else []))


def _settings(made: Any, parameter: torch.nn.Parameter) -> dict[str, Any]:
    """The settings of an optimizer's only group, which must hold only `parameter`."""
    if not isinstance(made, torch.optim.Optimizer):
        raise TypeError(f"the factory returned {type(made).__name__}: {EXPECTED}")
    kind = type(made).__name__
    closure = inspect.signature(made.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise TypeError(
            f"{kind} calls a closure to compute the loss several times in a step, and a strategy "
            f"computes it once: {EXPECTED}"
        )
    held = [each for group in made.param_groups for each in group["params"]]
    if len(made.param_groups) != 1 or len(held) != 1 or held[0] is not parameter:
        raise TypeError(
            f"the factory gave {kind} other parameters than it was given, or more than one group; "
            f"{EXPECTED}, and settings by parameter as groups=..."
        )
    settings = {name: value for name, value in made.param_groups[0].items() if name != "params"}
    if "lr" not in settings:
        raise TypeError(f"{kind} has no learning rate 'lr' in its param_groups: {EXPECTED}")
    return settings


def _kept_names(made: torch.optim.Optimizer, parameter: torch.nn.Parameter) -> list[str]:
    names = []
    for name, value in made.state.get(parameter, {}).items():
        if value is None:
            continue
        if name != COUNTER and not (
            isinstance(value, Tensor)
            and value.is_floating_point()
            and value.numel() <= parameter.numel()
            and torch.promote_types(value.dtype, parameter.dtype) == parameter.dtype
        ):
            raise TypeError(
                f"{type(made).__name__} keeps {name!r} for each parameter, {_described(value)}: "
                "expected float tensors, no larger and no more exact than the parameter, which "
                "checkpoints can hold"
            )
        names.append(name)
    return names


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of {value.numel()} {str(value.dtype).removeprefix('torch.')}"
    return f"a {type(value).__name__}"


def _with_settings(factory: Factory, settings: Mapping[str, Any]) -> Factory:
    """The factory of an optimizer whose only group has some settings in place of its own."""

    def made(params: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        optimizer = factory(params)
        optimizer.param_groups[0].update(
            {name: value for name, value in settings.items() if name != "lr"}
        )
        return optimizer

    return made


def _tensor(vector: Vector) -> Tensor:
    """The vector as a tensor in the same memory."""
    return torch.from_numpy(vector) if isinstance(vector, np.ndarray) else vector
