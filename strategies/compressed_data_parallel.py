"""Gradient compression for data parallelism: send less, and send the rest later."""

import math
from typing import Protocol

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from nn.arguments import as_int
from nn.model import Model
from strategies.base import Refused, Strategy


class Compression(Protocol):
    """How gradients are summed over the ranks at less cost than to the last bit."""

    shared: dict[str, NDArray]
    """What it remembers from step to step, the same on every rank."""

    def bind(self, model: Model) -> None:
        """Prepare for the gradients of `model`."""
        ...

    def sum(self, own: NDArray, out: NDArray, comm: MPI.Intracomm) -> None:
        """Send what is chosen of each rank's `own`; write the sum of that over the ranks to `out`.

        What was sent is subtracted from `own`.
        """
        ...


class CompressedDataParallel(Strategy):
    """DataParallel whose gradients are compressed, with error feedback.

    What a rank does not send stays with it as its residual, and is added to its next gradient:
    what was sent plus what is left always equals the gradients summed (Karimireddy et al., "Error
    feedback fixes SignSGD and other gradient compression schemes", 2019, algorithm 2).

    `state` keeps the mean of the ranks' residuals, so that their sum, on which the argument
    rests, survives on any number of ranks. Resuming is therefore bit for bit on one rank only: on
    several, each goes on from the mean in place of its own residual, and so sends something else.

    Args:
        compression: `TopK` or `PowerSGD`, an object of its own for every strategy.

    Raises:
        Refused: a model that is no nn.Model.
        TypeError: a compression that is none.
    """

    def __init__(self, model, optimizer, comm: MPI.Intracomm, compression: Compression):
        if not isinstance(model, Model):
            raise Refused(
                f"model is {type(model).__name__}: CompressedDataParallel expected nn.Model"
            )
        super().__init__(model, optimizer, comm)
        if not callable(getattr(compression, "sum", None)):
            raise TypeError(f"compression={compression!r}: expected TopK(...) or PowerSGD(...)")
        self.compression = compression
        self.residual = np.zeros_like(model.params)
        compression.bind(model)

    def reduce(self, loss: float) -> float:
        self.residual += self.model.grads
        self.compression.sum(self.residual, self.model.grads, self.comm)
        total = np.array([loss])
        self.comm.Allreduce(MPI.IN_PLACE, total, MPI.SUM)
        return total[0]

    def state(self) -> dict[str, NDArray]:
        residual = self.residual / self.comm.size
        self.comm.Allreduce(MPI.IN_PLACE, residual, MPI.SUM)
        shared = {f"compression.{k}": v.copy() for k, v in self.compression.shared.items()}
        return super().state() | shared | {"residual": residual}

    def load_state(self, state: dict[str, NDArray]) -> None:
        own = {f"compression.{name}": value for name, value in self.compression.shared.items()}
        own["residual"] = self.residual
        if not own.keys() <= state.keys():
            raise ValueError(f"a state of {sorted(state)}: expected {sorted(own)} among them")
        for name, value in own.items():
            if state[name].shape != value.shape:
                raise ValueError(
                    f"state {name!r} of shape {state[name].shape}: expected {value.shape}; was it "
                    "saved of another model, or with another rank of PowerSGD?"
                )
        super().load_state(state)
        for name, value in own.items():
            value[:] = state[name]


class TopK:
    """Each rank sends the k elements of largest magnitude, as (index, value) pairs.

    Aji and Heafield, "Sparse communication for distributed gradient descent" (2017); Stich,
    Cordonnier, Jaggi, "Sparsified SGD with memory" (2018), algorithm 1.

    Args:
        k: elements a rank sends a step, at least 1; all of them if the model has fewer.

    Raises:
        TypeError, ValueError: k is not a whole number of at least 1.
    """

    def __init__(self, k: int):
        self.k = as_int("k", k, 1)
        self.shared: dict[str, NDArray] = {}

    def bind(self, model: Model) -> None:
        pass

    def sum(self, own: NDArray, out: NDArray, comm: MPI.Intracomm) -> None:
        k = min(self.k, len(own))
        index = np.argpartition(np.abs(own), len(own) - k)[len(own) - k :]
        values = own[index]
        own[index] = 0
        indices = np.empty((comm.size, k), np.int64)
        all_values = np.empty((comm.size, k), own.dtype)
        comm.Allgather(index, indices)
        comm.Allgather(values, all_values)
        out[:] = 0
        for at, sent in zip(indices, all_values):
            out[at] += sent


class PowerSGD:
    """Each matrix of weights is sent as P Q^T, two thin matrices of `rank` columns.

    Vogels, Karimireddy, Jaggi, "PowerSGD: practical low-rank gradient compression for distributed
    optimization" (2019), algorithm 1: one step of power iteration on the sum M of the ranks'
    matrices, warm-started from the last Q. P = orthogonal basis of M Q; Q = M^T P. A matrix of no
    more than `rank` independent columns arrives whole. Biases are sent as they are; a
    convolution's weights are a matrix of one row per output channel.

    A rank's residual is its own M less P P^T M, so that sent and residual add up on every rank.

    Args:
        rank: columns of P and Q, at least 1; no more than a matrix has are used.

    Raises:
        TypeError, ValueError: rank is not a whole number of at least 1.
    """

    def __init__(self, rank: int):
        self.rank = as_int("rank", rank, 1)
        self.shared: dict[str, NDArray] = {}

    def bind(self, model: Model) -> None:
        rng = np.random.default_rng(0)  # the same first Q on every rank
        self._matrices: list[tuple[slice, int]] = []  # where, and its number of rows
        self._vectors: list[slice] = []
        at = 0
        for shape in (shape for layer in model.layers for shape in layer.shapes):
            where = slice(at, at + math.prod(shape))
            at = where.stop
            if len(shape) < 2 or 0 in shape:
                self._vectors.append(where)
                continue
            rows, columns = shape[0], math.prod(shape[1:])
            q = rng.standard_normal((columns, min(self.rank, rows, columns)))
            self.shared[f"q{len(self._matrices)}"] = q.astype(model.params.dtype)
            self._matrices.append((where, rows))

    def sum(self, own: NDArray, out: NDArray, comm: MPI.Intracomm) -> None:
        matrices = [own[where].reshape(rows, -1) for where, rows in self._matrices]
        vectors = [own[where] for where in self._vectors]
        # An orthogonal basis again: a gradient of lower rank has left columns of zeros.
        qs = [np.linalg.qr(q).Q for q in self.shared.values()]
        products = _sum_each([*(m @ q for m, q in zip(matrices, qs)), *vectors], comm)
        bases = [np.linalg.qr(p).Q for p in products[: len(matrices)]]
        own_qs = [m.T @ p for m, p in zip(matrices, bases)]
        for (where, _), m, p, own_q, q, total in zip(
            self._matrices, matrices, bases, own_qs, self.shared.values(), _sum_each(own_qs, comm)
        ):
            m -= p @ own_q.T
            q[:] = total
            out[where] = (p @ total.T).ravel()
        for where, total in zip(self._vectors, products[len(matrices) :]):
            out[where] = total
            own[where] = 0


def _sum_each(arrays: list[NDArray], comm: MPI.Intracomm) -> list[NDArray]:
    """The sum over the ranks of each array, in one message."""
    message = np.concatenate([a.ravel() for a in arrays])
    comm.Allreduce(MPI.IN_PLACE, message, MPI.SUM)
    parts = np.split(message, np.cumsum([a.size for a in arrays])[:-1])
    return [part.reshape(a.shape) for part, a in zip(parts, arrays)]
