"""The contract of every strategy: take the step of plain training on several ranks."""

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, Protocol, runtime_checkable

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from nn.arguments import as_int
from nn.batch import Batch
from nn.local_batch import LocalBatch
from nn.optim import Part, why_not_elementwise
from nn.parameters import Parameter
from strategies.accumulation import gradients_in_parts
from strategies.comm.raise_together import raise_together
from strategies.gradient_norm import Places, joined, own_part
from strategies.launchers import check_launch
from strategies.same_arguments import compares_arguments
from strategies.same_batch import check_same_batch, check_targets

COMM_DTYPES = ("float32", "float64")
"""The dtypes that are sent. MPI libraries were seen to reduce others to NaN without an error."""


COMPARED_STEPS = 2
"""Steps in which ranks compare the batches that they were given."""


WANTED_STEPS = 10
"""Steps in which the norm of the gradient is taken after somebody has asked for it."""


SHARED: set[int] = set()
"""Addresses of parameters in memory that ranks share, of strategies that have not been closed."""


class Refused(ValueError, TypeError):
    """A strategy cannot train this model or this batch, or not on these ranks.

    Another strategy may, so a program that tries several can go on to the next. Any other error
    is a fault, of the strategy or of its arguments.
    """


class Communicator(ABC):
    """Ranks that train together: an `MPI.Intracomm`, or a subclass of this class.

    A subclass has the methods of `MPI.Intracomm` that strategies call.
    """

    @property
    @abstractmethod
    def rank(self) -> int: ...
    @property
    @abstractmethod
    def size(self) -> int: ...


Communicator.register(MPI.Intracomm)


class Trainable(Protocol):
    """A model that a strategy can train: two flat vectors, and the gradient of a batch.

    Layer `i` owns elements `offsets[i]` to `offsets[i + 1]`; `ready(i)` is called when its
    gradient is final.
    """

    offsets: list[int]

    @property
    def params(self) -> Any: ...
    @property
    def grads(self) -> Any: ...
    def bind(self, params: Any, grads: Any) -> None: ...
    def gradients(
        self, batch: Batch, add: bool = False, ready: Callable[[int], None] | None = None
    ) -> float: ...


@runtime_checkable
class Statistics(Protocol):
    """What a model has learned of its rows besides its parameters, in its `statistics`.

    Batch norm keeps means and variances (`nn.torch.batch_norm.RunningStatistics`).
    """

    def gather(self, comm: Any) -> None: ...
    def arrays(self) -> dict[str, NDArray]: ...
    def check(self, arrays: dict[str, NDArray]) -> None: ...
    def load(self, arrays: dict[str, NDArray]) -> None: ...


class Strategy:
    """Trains `model` with `optimizer` on the ranks of `comm`.

    A step has three parts, so that strategies compose: `gradients` computes this rank's share of
    the gradient, `reduce` sums the shares, `update` applies the sum. A strategy owns its model
    and optimizer: give each strategy objects of its own, built from the same arguments on every
    rank.

    Args:
        model: `nn.Model`, or anything with its flat `params`, `grads`, `bind` and `gradients`.
        optimizer: `nn.SGD` and its like.
        comm: the ranks that train together; every method is collective over it.

    Raises:
        TypeError: an argument has the wrong type.
        Refused: parameters of a dtype that is not sent; an optimizer whose update of an element
            depends on others, where a rank updates a part of the parameters.
        ValueError: the ranks' arguments differ: on every rank, naming the argument and the ranks;
            parameters that another strategy has in memory that ranks share; a group of the
            optimizer that no parameter belongs to.
        RuntimeError: a launcher started several processes, but each is an MPI world of its own.
    """

    closed = False

    accumulate = 1
    """Number of parts in which a rank computes its rows, to save memory; see `_accumulate`."""

    splits_rows = False
    """Whether each rank trains on rows of its own, so that they may be a `Batch.local`."""

    splits_update = False
    """Whether a rank's optimizer moves only a part of the parameters."""

    steps_together = True
    """Whether all ranks take a step at the same time, so that they can compare their batches."""

    same_arguments = True
    """Whether all ranks must build it from the same arguments, which are compared. A class does not
    inherit it."""

    may_differ: tuple[str, ...] = ()
    """Beginnings of the names of arguments that are not compared, such as "verbose"."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "__init__" in vars(cls):
            cls.__init__ = compares_arguments(cls.__init__)  # type: ignore[method-assign]

    @compares_arguments
    def __init__(self, model: Trainable, optimizer: Any, comm: MPI.Intracomm):
        for name in ("params", "grads", "bind", "gradients"):
            if not hasattr(model, name):
                raise TypeError(f"model is {type(model).__name__}: expected nn.Model or its like")
        if not callable(getattr(optimizer, "step", None)):
            raise TypeError(f"optimizer is {type(optimizer).__name__}: expected nn.SGD or its like")
        if not isinstance(comm, Communicator) or comm == MPI.COMM_NULL:
            raise TypeError(
                f"comm is {comm!r}: expected an MPI intracommunicator, or a TorchComm, not null"
            )
        check_launch(comm)
        if SHARED and _address(model.params) in SHARED:
            raise ValueError(
                "another strategy trains this model, in memory that the ranks share: close() it "
                "first, or give each strategy a model of its own"
            )
        dtype = str(model.params.dtype).removeprefix("torch.")
        if dtype not in COMM_DTYPES:
            raise Refused(f"parameters are {dtype}: expected one of {', '.join(COMM_DTYPES)}")
        if self.splits_update and (reason := why_not_elementwise(optimizer)):
            raise Refused(
                f"{type(self).__name__} lets a rank update a part of the parameters, and this "
                f"optimizer cannot: {reason}; settings by parameter are given as groups=..., and a "
                "limit of the gradient's norm as clip_norm=..."
            )
        self.model, self.optimizer, self.comm = model, optimizer, comm
        self.parameters: list[Parameter] = self._named(model)
        """The parameters of the whole model by name."""
        if hasattr(optimizer, "assign"):  # finds a group that no parameter belongs to
            names = (
                [p.name for p in self.parameters] if any(p.name for p in self.parameters) else None
            )
            optimizer.assign(list(Strategy._own_parts(self)), names)
        if comm.rank == 0 and (unused := getattr(model, "unused", ())):
            _say_unused(", ".join(unused))
        self._is_assigned = False
        self._grad_norm: float | None = None
        self._own_norm: NDArray | None = None
        self.want_grad_norm()
        self._loss: Any = getattr(model, "loss", None)
        self._clock = getattr(model, "dropout_clock", None)
        self.take_dropout_clock()
        self._steps_to_compare = COMPARED_STEPS if self.steps_together and comm.size > 1 else 0
        self._has_stepped = False
        self._bound: Any = None
        """The gradient of the model, where this strategy has given it memory."""
        self._outputs = _outputs(model) if self._loss is not None else 0
        statistics = getattr(model, "statistics", None)
        self._statistics = statistics if isinstance(statistics, Statistics) else None
        self._frozen: dict[str, Any] = dict(getattr(model, "frozen", {}))
        """What training leaves as it is, by name: the arrays that this rank computes with."""
        self._frozen_shapes = {name: tuple(value.shape) for name, value in self._frozen.items()}
        self.length = len(model.params)
        """Parameters of the whole model, however many of them this rank holds."""

    def _bind(self, params: Any, grads: Any) -> None:
        """Have the model compute in memory that this strategy knows."""
        self.model.bind(params, grads)
        self._bound = self.model.grads

    def _check_bound(self) -> None:
        """Raise ValueError if the model computes in other memory, so that steps would be wrong."""
        if _address(self.model.grads) != _address(self._bound):
            raise ValueError(
                "this model has been given other memory since, as another strategy does that is "
                "made of it: give each strategy a model of its own"
            )

    def _accumulate(self, accumulate: int) -> None:
        """Take over the number of parts in which this strategy's `gradients` computes the rows.

        Raises:
            TypeError, ValueError: it is not a whole number of at least 1.
            Refused: the model's batch norm is synchronised.
        """
        self.accumulate = as_int("accumulate", accumulate, 1)
        if self.accumulate > 1 and getattr(self.model, "sync_batch_norm", None):
            raise Refused(
                f"accumulate={accumulate} and sync_batch_norm=...: no part knows the mean and "
                "variance of the whole batch, which synchronised batch norm takes; expected one of "
                "the two"
            )

    @staticmethod
    def _named(model: Any) -> list[Parameter]:
        """The model's parameters; one without a name where a model does not tell them apart."""
        named = getattr(model, "parameters", None)
        return named if isinstance(named, list) else [Parameter("", 0, (len(model.params),))]

    def step(self, batch: Batch) -> float:
        """Take one training step on the *global* batch, the same on every rank.

        Returns:
            The mean loss over the batch before the update.

        Raises:
            TypeError: `batch` is not a Batch.
            Refused: a `Batch.local`, where a rank needs the rows of others.
            ValueError: the batch has no rows, a label is out of range, the strategy has been
                closed, or another one has taken its model; in the first steps also if the ranks
                were given different batches. On every rank.
        """
        if self.closed:
            raise ValueError("this strategy has been closed: make a new one")
        if self._bound is not None and self.model.grads is not self._bound:
            self._check_bound()
        if self._steps_to_compare:
            self._steps_to_compare -= 1
            raise_together(self.comm, lambda: self._check_batch(batch))
            check_same_batch(batch, self.comm)
        else:
            self._check_batch(batch)
        if self._loss is not None and self.comm.size > 1:  # or else the loss itself checks them
            check_targets(batch, self._loss, self._outputs)
        self.take_dropout_clock()
        self._grad_norm = None
        loss = self.reduce(self.gradients(batch))
        self.update()
        self._has_stepped = True
        return float(loss)

    def _check_batch(self, batch: Batch) -> None:
        """Raise what `step` raises of a batch that this strategy does not take."""
        if not isinstance(batch, Batch):
            raise TypeError(f"step() takes an nn.Batch, not {type(batch).__name__}")
        if not batch.global_rows:
            raise ValueError("a batch of 0 rows: expected at least 1")
        if isinstance(batch, LocalBatch) and self.comm.size > 1 and not self.splits_rows:
            raise Refused(
                f"{type(self).__name__} needs the whole batch on every rank: expected nn.Batch, "
                "not Batch.local"
            )

    def take_dropout_clock(self) -> None:
        """Have dropout count steps by this optimizer, even if another was given the model since."""
        if self._clock:
            self._clock.current = self.optimizer

    def gradients(self, batch: Batch) -> float:
        """Write this rank's share of the gradient, return its share of the loss."""
        rows = batch.shard(self.comm.rank, self.comm.size)
        return gradients_in_parts(self.model.gradients, rows, self.accumulate)

    def reduce(self, loss: float) -> float:
        """Sum the shares of gradient and loss over the ranks, and return the whole loss."""
        return loss

    def update(self) -> None:
        """Move the parameters by the summed gradient."""
        self._move(self.model.params, self.model.grads)

    def _move(self, params: Any, grads: Any) -> None:
        """Let the optimizer move the part of the parameters that this rank updates."""
        optimizer = self.optimizer
        if not hasattr(optimizer, "assign"):  # one of the user's own, with a `step` and no more
            self._own_norm = own_part(self._counted(), places=len(self.parameters))
            optimizer.step(params, grads)
            return
        if not self._is_assigned:
            optimizer.assign(list(self._own_parts()))
            self._is_assigned = True
        order = optimizer.norm_type
        if optimizer.clip_norm is not None:
            own = own_part(self._counted(), order, len(self.parameters))
            self._grad_norm = joined(own, order, self._norm_comm)
            optimizer.step(params, grads, self._grad_norm)
            return
        self._own_norm = None
        if self._norms_to_take and not optimizer.keeps_gradient:
            self._norms_to_take -= 1
            self._own_norm = own_part(self._counted(), order, len(self.parameters))
        optimizer.step(params, grads)

    def _own_parts(self) -> Iterable[Part]:
        """Yield what the vector holds that this rank's optimizer is given."""
        return (Part(p.name, p.size, p.shape, p.may_lack_gradient) for p in self.parameters)

    def grad_norm(self) -> float:
        """Return the norm of the last step's gradient, the same on every rank. Collective.

        It is the norm of the gradient of the global batch, before any clipping, summed in float64:
        the Euclidean norm, or that of the optimizer's `norm_type`. An optimizer that works in the
        memory of the gradient, as SGD does, leaves nothing to compute it from, so it is taken
        before such an update while it is likely to be asked for: in the first `WANTED_STEPS` steps,
        and in as many after each call of this method. A program that asks more seldom calls
        `want_grad_norm` before the step.

        Raises:
            ValueError: no step has been taken, or the norm of the last was not.
            Refused: the ranks do not step on one common gradient.
        """
        if not self._has_stepped:
            raise ValueError("no step has been taken, so there is no gradient yet")
        self.want_grad_norm()
        if self._grad_norm is None:
            order = getattr(self.optimizer, "norm_type", 2.0)
            own = self._own_norm
            if own is None and not getattr(self.optimizer, "keeps_gradient", False):
                raise ValueError(
                    f"the norm of this step was not taken, since nobody had asked for one in "
                    f"{WANTED_STEPS} steps: call want_grad_norm() before the step"
                )
            if own is None:
                own = own_part(self._counted(), order, len(self.parameters))
            self._grad_norm = joined(own, order, self._norm_comm)
        return self._grad_norm

    def want_grad_norm(self) -> None:
        """Have the next `WANTED_STEPS` steps take the norm of their gradient, for `grad_norm`."""
        self._norms_to_take = WANTED_STEPS

    def _counted(self) -> Places:
        """Yield the summed gradient, each parameter once over all ranks of `_norm_comm`."""
        return [(0, self.model.grads)]

    @property
    def _norm_comm(self) -> MPI.Intracomm | None:
        """The ranks that hold parts of the gradient; None if each has the whole."""
        return None

    def averaged_weights(self) -> NDArray:
        """Return the average of the weights that `nn.EMA` keeps, (n,), on every rank. Collective.

        Raises:
            ValueError: the optimizer keeps none, or no step has been taken.
        """
        average = self.optimizer.state.get("average")
        if average is None:
            raise ValueError("there is no average: expected nn.EMA(optimizer), after a step")
        return self._whole(average)

    def weights(self) -> NDArray:
        """Return a copy of all parameters in sequential order, (n,), on every rank. Collective.

        It also gathers the model's batch norm statistics, so every rank has them of all rows.
        """
        if self._statistics:
            self._statistics.gather(self.comm)
        return np.array(self.model.params)

    def _bind_shared(self, params: Any, grads: Any) -> None:
        """Have the model compute in memory that the ranks share, until `_bind_private`."""
        self._bind(params, grads)
        SHARED.add(_address(params))

    def _bind_private(self, grads: Any) -> None:
        """Move the model back into private memory, with this gradient."""
        params = self.model.params
        SHARED.discard(_address(params))
        self.model.bind(np.array(params), grads)

    def close(self) -> None:
        """Give back what the strategy holds; the model stays usable. May be called again."""

    def state(self) -> dict[str, NDArray]:
        """Return all that a resumed run needs, unsharded: name -> array, the same on every rank."""
        state = {"params": self.weights(), "steps": np.array(self.optimizer.steps)}
        for name, vector in self.optimizer.state.items():
            state[f"optimizer.{name}"] = self._whole(vector)
        if self._statistics:
            for name, array in self._statistics.arrays().items():
                state[f"statistics.{name}"] = array
        for name, array in self._frozen_arrays().items():
            state[f"frozen.{name}"] = array
        return state

    def load_state(self, state: dict[str, NDArray]) -> None:
        """Go on from a state that `state` returned, there on any number of ranks. Collective.

        The arrays are copied.

        Raises:
            ValueError: the state is of another model, dtype or kind of optimizer, or incomplete, or
                the strategy has been closed; on every rank. Nothing has changed then.
        """
        if self.closed:
            raise ValueError("this strategy has been closed: make a new one")
        self._together(lambda: self._check_state(state))
        self._take_state(state)

    def _together(self, check: Callable[[], None]) -> None:
        """Call `check`, and raise what it raises on any rank. Collective."""
        raise_together(self.comm, check)

    def _check_state(self, state: dict[str, NDArray]) -> None:
        """Raise ValueError if `_take_state` cannot take over all of a state; change nothing.

        A subclass with a state of its own checks it here, and does not communicate.
        """
        dtype = str(self.model.params.dtype).removeprefix("torch.")
        if "params" not in state:
            raise ValueError(f"a state of {sorted(state)}: expected 'params' among them")
        check_vector("params", state["params"], self.length, dtype)
        frozen = with_prefix("frozen.", state)
        shapes = {name: array.shape for name, array in frozen.items()}
        if shapes != self._frozen_shapes or any(str(a.dtype) != dtype for a in frozen.values()):
            raise ValueError(
                f"a state with the frozen parameters {shapes}: the model has {self._frozen_shapes} "
                f"of {dtype}"
            )
        statistics = with_prefix("statistics.", state)
        if self._statistics:
            self._statistics.check(statistics)
        elif statistics:
            raise ValueError(f"a state with {sorted(statistics)}: the model has no batch norm")
        check_optimizer_state(self.optimizer, state, self.length, dtype)

    def _take_state(self, state: dict[str, NDArray]) -> None:
        """Take over a state that `_check_state` has passed."""
        vectors = {
            name: np.array(self._own(vector))  # made first, since there may be no memory for them
            for name, vector in with_prefix("optimizer.", state).items()
        }
        if self._statistics:
            self._statistics.load(with_prefix("statistics.", state))
        self._set_weights(state["params"])
        for name, value in self._frozen.items():
            value[...] = state[f"frozen.{name}"]
        self.optimizer.steps = int(state["steps"])
        self.optimizer.state = vectors

    def _frozen_arrays(self) -> dict[str, NDArray]:
        """Return copies of all that is frozen, by name, on every rank."""
        return {name: np.array(value) for name, value in self._frozen.items()}

    # A strategy that shards the optimizer overrides these.
    def _whole(self, vector: NDArray) -> NDArray:
        """Return the full vector, of which `vector` is the part of this rank's optimizer."""
        return np.array(vector)

    def _own(self, vector: NDArray) -> NDArray:
        """Return the part of a full vector that this rank's optimizer keeps."""
        return vector

    def _set_weights(self, params: NDArray) -> None:
        self.model.params[:] = params


def with_prefix(prefix: str, state: dict[str, NDArray]) -> dict[str, NDArray]:
    """Return the arrays whose names begin with `prefix`, under the rest of their names."""
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def check_optimizer_state(
    optimizer: Any, state: dict[str, NDArray], length: int, dtype: str, outer: bool = False
) -> None:
    """Raise ValueError if a state lacks what an optimizer needs to go on, or has something else.

    Args:
        length: parameters of the model.
        outer: whether it is the outer optimizer of LocalSGD.
    """
    kind, steps_name = ("outer", "outer.steps") if outer else ("optimizer", "steps")
    if steps_name not in state:
        raise ValueError(f"a state of {sorted(state)}: expected {steps_name!r} among them")
    steps = np.asarray(state[steps_name])
    if steps.shape or steps.dtype.kind not in "iu" or steps < 0:
        raise ValueError(f"state {steps_name!r} is {steps}: expected a whole number from 0 on")
    vectors = with_prefix(f"{kind}.", state)
    vectors.pop("steps", None)
    slots = set(getattr(optimizer, "slots", vectors))
    if vectors.keys() != slots and (vectors or steps):  # a new optimizer has no vectors yet
        raise ValueError(
            f"a state of {sorted(state)} after {steps} steps: this {'outer ' * outer}optimizer "
            f"keeps {sorted(slots) or 'nothing'}"
        )
    for name, vector in vectors.items():
        check_vector(f"{kind}.{name}", vector, length, dtype)


def check_vector(name: str, vector: NDArray, length: int, dtype: str) -> None:
    """Raise ValueError if part of a state is no vector of as many elements as the parameters."""
    if vector.shape != (length,) or str(vector.dtype) != dtype:
        raise ValueError(
            f"state {name!r} of shape {vector.shape}: the model has {length} parameters of "
            f"{dtype}, and these are {vector.dtype}"
        )


def refuse_sync_batch_norm(model: Any) -> None:
    """Raise Refused if the model's batch norm sums its statistics over ranks.

    Call it in a strategy whose ranks do not compute every layer together, where batch norm would
    wait forever, or compute it with different weights, whose common statistics mean nothing.
    """
    if getattr(model, "sync_batch_norm", None):
        raise Refused(
            "sync_batch_norm=... is for strategies whose ranks compute every layer together, with "
            "the same weights, each on its rows: DataParallel, SharedDataParallel, ZeRO, "
            "CompressedDataParallel"
        )


def _address(vector: Any) -> int:
    """Where a vector begins in memory: a numpy array or a torch tensor."""
    found = getattr(vector, "data_ptr", None)
    return found() if found else vector.__array_interface__["data"][0]


def _outputs(model: Any) -> int:
    """How many classes the outputs of a row can tell apart; 0 if the model does not say."""
    if not hasattr(model, "row_shape"):
        return 0
    shape = model.row_shape(len(model.layers))
    return shape[0] if shape else 0


def refuse_sum(model: Any) -> None:
    """Raise Refused if the model's loss is a sum; call it where ranks step on means of their own.

    Their average would not be the step on the sum over all rows.
    """
    if getattr(getattr(model, "loss", None), "is_sum", False):
        raise Refused(
            "the loss is a sum over rows, and ranks that step on rows of their own need a mean: "
            'expected a loss with reduction="mean", or DataParallel'
        )


@cache
def _say_unused(names: str) -> None:
    """Log, once in a process, which parameters may never train."""
    logging.getLogger(__name__).warning(
        "parameters that got no gradient when the model was tried; in a step without one, the "
        "optimizers of nn leave them as they are: %s",
        names,
    )


def own_gradients(
    model, batch: Batch, comm: MPI.Intracomm, add: bool = False, parts: int = 1
) -> tuple[float, float]:
    """Write (or add) the mean gradient over this rank's rows, as if they were the whole batch.

    Args:
        parts: number of parts in which the rows are computed.

    Returns:
        The mean loss over these rows (nan if none of them counts), and how many count.

    Raises:
        Refused: the loss is a sum, which has no mean over the rows of a rank.
    """
    own = batch.shard(comm.rank, comm.size).as_global()
    loss = gradients_in_parts(model.gradients, own, parts, add)
    refuse_sum(model)  # again, since of a user's function it is known only now
    counted = counted_rows(model, own) if len(own) else 0
    return loss if counted else math.nan, counted


def counted_rows(model: Any, batch: Batch) -> float:
    """What the model's loss of a global batch is divided by; its rows if the model has no loss."""
    loss = getattr(model, "loss", None)
    return batch.global_rows if loss is None else batch.count(loss)
