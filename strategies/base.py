"""What every strategy is: a way to take the step of plain sequential training on several ranks."""

import math
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from nn.batch import Batch

COMM_DTYPES = ("float32", "float64")
"""What is sent. A whitelist: MPI libraries were seen to reduce other formats to NaN in silence."""


class Refused(ValueError, TypeError):
    """What a strategy says that it does not do: with this model, this batch, or these ranks.

    Another may, and whoever tries all of them can go on to the next; any other error is a fault,
    of the strategy or of its arguments.
    """


class Communicator(ABC):
    """Ranks that train together: an `MPI.Intracomm`, or an adapter with those of its verbs that
    strategies use, which says so by being a subclass of this one.
    """

    @property
    @abstractmethod
    def rank(self) -> int: ...
    @property
    @abstractmethod
    def size(self) -> int: ...


Communicator.register(MPI.Intracomm)


class Trainable(Protocol):
    """What a strategy needs of a model: two flat vectors, and the gradient of a batch.

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
    """What a model keeps of the rows that it was trained on, beside its parameters.

    As its `statistics`: those of batch norm, for one (`nn.torch.batch_norm.RunningStatistics`).
    """

    def gather(self, comm: Any) -> None: ...
    def arrays(self) -> dict[str, NDArray]: ...
    def load(self, arrays: dict[str, NDArray]) -> None: ...


class Strategy:
    """Trains `model` with `optimizer` on the ranks of `comm`.

    A step has three parts, so that strategies compose: `gradients` computes this rank's share,
    `reduce` makes shares a whole, `update` applies it. A strategy owns its model and optimizer:
    give each strategy objects of its own, built from the same arguments on every rank.

    Args:
        model: `nn.Model`, or anything with its flat `params`, `grads`, `bind` and `gradients`.
        optimizer: `nn.SGD` and its like.
        comm: the ranks that train together; every method is collective over it.

    Raises:
        TypeError: an argument is not of its kind.
        Refused: parameters of a dtype that is not sent.
        ValueError: parameters that are not the same on every rank.
    """

    closed = False

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
        dtype = str(model.params.dtype).removeprefix("torch.")
        if dtype not in COMM_DTYPES:
            raise Refused(f"parameters are {dtype}: expected one of {', '.join(COMM_DTYPES)}")
        self._check_start(model.params, comm)
        self.model, self.optimizer, self.comm = model, optimizer, comm
        self._clock = getattr(model, "dropout_clock", None)
        self.take_dropout_clock()
        statistics = getattr(model, "statistics", None)
        self._statistics = statistics if isinstance(statistics, Statistics) else None
        self.length = len(model.params)
        """Parameters of the whole model, however many of them this rank holds."""

    def _check_start(self, params: Any, comm: MPI.Intracomm) -> None:
        """Collective. Ranks that begin apart would train on, each on something else."""
        vector = np.asarray(params)
        starts = comm.allgather((len(vector), str(vector.dtype), zlib.crc32(vector.data)))
        if len(set(starts)) > 1:
            lengths = ", ".join(str(length) for length, _, _ in starts)
            raise ValueError(
                f"the ranks' models differ ({lengths} parameters): build them from the same "
                "arguments and the same seed on every rank"
            )

    def step(self, batch: Batch) -> float:
        """One training step on the *global* batch, the same on every rank.

        Returns:
            The mean loss over the batch before the update.

        Raises:
            TypeError: not a Batch.
            ValueError: a batch of no rows, or a strategy that has been closed.
        """
        if self.closed:
            raise ValueError("this strategy is closed: its ranks share nothing any more")
        if not isinstance(batch, Batch):
            raise TypeError(f"step() takes an nn.Batch, not {type(batch).__name__}")
        if not batch.global_count:
            raise ValueError("a batch of 0 rows: expected at least 1")
        self.take_dropout_clock()
        loss = self.reduce(self.gradients(batch))
        self.update()
        return float(loss)

    def take_dropout_clock(self) -> None:
        """Have dropout ask this optimizer for the step, whoever else was given the model."""
        if self._clock:
            self._clock.current = self.optimizer

    def gradients(self, batch: Batch) -> float:
        """Write this rank's share of the gradient, return its share of the loss."""
        return self.model.gradients(batch.shard(self.comm.rank, self.comm.size))

    def reduce(self, loss: float) -> float:
        """Sum the shares of gradient and loss over the ranks; returns the whole loss."""
        return loss

    def update(self) -> None:
        """Move the parameters."""
        self.optimizer.step(self.model.params, self.model.grads)

    def weights(self) -> NDArray:
        """All parameters in sequential order, a copy, on every rank.

        What the model's batch norm keeps is then, on every rank, of the rows of all.
        """
        if self._statistics:
            self._statistics.gather(self.comm)
        return np.array(self.model.params)

    def close(self) -> None:
        """Give back what the strategy holds outside the model, which stays usable. Idempotent."""

    def state(self) -> dict[str, NDArray]:
        """Everything that a resumed run needs, unsharded: name -> array, the same on every rank."""
        state = {"params": self.weights(), "steps": np.array(self.optimizer.steps)}
        for name, vector in self.optimizer.state.items():
            state[f"optimizer.{name}"] = self._whole(vector)
        if self._statistics:
            for name, array in self._statistics.arrays().items():
                state[f"statistics.{name}"] = array
        return state

    def load_state(self, state: dict[str, NDArray]) -> None:
        """Go on from what `state` returned, on any number of ranks.

        Raises:
            ValueError: the state is of another model, dtype or kind of optimizer, or the strategy
                has been closed; nothing is changed then.
        """
        if self.closed:
            raise ValueError("this strategy is closed: its ranks share nothing any more")
        vectors, statistics = under("optimizer.", state), under("statistics.", state)
        slots = set(getattr(self.optimizer, "slots", vectors))
        if not {"params", "steps"} <= state.keys() or (vectors and set(vectors) != slots):
            raise ValueError(
                f"a state of {sorted(state)}: this optimizer keeps {sorted(slots) or 'nothing'}"
            )
        dtype = str(self.model.params.dtype).removeprefix("torch.")
        for name, vector in {"params": state["params"], **vectors}.items():
            if vector.shape != (self.length,) or str(vector.dtype) != dtype:
                raise ValueError(
                    f"state {name!r} of shape {vector.shape} and {vector.dtype}: "
                    f"the model has {self.length} parameters of {dtype}"
                )
        if self._statistics:
            self._statistics.load(statistics)
        elif statistics:
            raise ValueError(f"a state with {sorted(statistics)}: the model has no batch norm")
        self._set_weights(state["params"])
        self.optimizer.steps = int(state["steps"])
        self.optimizer.state = {
            name: np.array(self._own(vector)) for name, vector in vectors.items()
        }

    # A strategy that shards the optimizer says here which part is whose.
    def _whole(self, vector: NDArray) -> NDArray:
        """The full vector of which this rank's optimizer keeps `vector`."""
        return np.array(vector)

    def _own(self, vector: NDArray) -> NDArray:
        """The part of a full vector that this rank's optimizer keeps."""
        return vector

    def _set_weights(self, params: NDArray) -> None:
        self.model.params[:] = params


def under(prefix: str, state: dict[str, NDArray]) -> dict[str, NDArray]:
    """The arrays of a state whose names begin with `prefix`, by the rest of their names."""
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def refuse_synchronised(model: Any) -> None:
    """Raises Refused: the model's batch norm waits for ranks that do not compute it with this one.

    Or that compute it with weights of their own: what they have in common is no net's statistics.
    """
    if getattr(model, "sync_batch_norm", None):
        raise Refused(
            "sync_batch_norm=... is for strategies whose ranks compute every layer together, with "
            "the same weights, each on its rows: DataParallel, SharedDataParallel, ZeRO, "
            "CompressedDataParallel"
        )


def own_gradients(model, batch: Batch, comm: MPI.Intracomm, add: bool = False) -> tuple[float, int]:
    """Write (or add) the gradient of this rank's rows as a batch of its own: a mean over these.

    Returns:
        The mean loss over these rows (nan where there are none), and their number.
    """
    own = batch.shard(comm.rank, comm.size).as_global()
    loss = model.gradients(own, add=add)
    return loss if len(own) else math.nan, len(own)
