"""Gradient compression for data parallelism: send less, and send the rest later."""

import math
from typing import Protocol

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from nn.arguments import as_int
from nn.model import Model
from nn.optim.vector import lacks_gradient
from nn.parameters import NO_GRADIENT
from strategies.base import Refused, Strategy


class Compression(Protocol):
    """A way to sum gradients over the ranks that sends less than all of them."""

    shared: dict[str, NDArray]
    """Arrays that it keeps from step to step, the same on every rank."""

    def bind(self, model: Model) -> None:
        """Prepare for the gradients of `model`."""
        ...

    def sum(self, own: NDArray, out: NDArray, comm: MPI.Intracomm) -> None:
        """Send a part of each rank's `own`, and write the sum of the parts to `out`. Collective.

        The part that was sent is subtracted from `own`. Both are vectors of all parameters, (n,).
        """
        ...


class CompressedDataParallel(Strategy):
    """DataParallel whose gradients are compressed, with error feedback.

    What a rank does not send stays with it as its residual, and is added to its next gradient.
    The sum of what was sent and what is left is always the sum of the gradients (Karimireddy et
    al., "Error feedback fixes SignSGD and other gradient compression schemes", 2019, algorithm 2).

    `state` keeps the mean of the ranks' residuals, which preserves their sum on any number of
    ranks. A run therefore resumes bit for bit on one rank only: on several, each goes on from the
    mean instead of its own residual, and so sends something else.

    Args:
        compression: `TopK` or `PowerSGD`, an object of its own for every strategy.
        accumulate: compute the rows of each rank in this many parts, as in `Sequential`.

    Raises:
        Refused: the model is not an nn.Model; accumulate with sync_batch_norm.
        TypeError: `compression` has no method `sum`, or accumulate is not a whole number.
        ValueError: accumulate below 1.
    """

    splits_rows = True

    def __init__(
        self,
        model,
        optimizer,
        comm: MPI.Intracomm,
        compression: Compression,
        *,
        accumulate: int = 1,
    ):
        if not isinstance(model, Model):
            raise Refused(
                f"model is {type(model).__name__}: CompressedDataParallel expected nn.Model"
            )
        super().__init__(model, optimizer, comm)
        self._accumulate(accumulate)
        if not callable(getattr(compression, "sum", None)):
            raise TypeError(f"compression={compression!r}: expected TopK(...) or PowerSGD(...)")
        self.compression = compression
        self.residual = np.zeros_like(model.params)
        compression.bind(model)

    def reduce(self, loss: float) -> float:
        grads = self.model.grads
        absent = self._absent()
        self.residual += grads
        self.compression.sum(self.residual, grads, self.comm)
        for where in absent:
            if not grads[where].any():  # or else it is what earlier steps have left
                grads[where] = NO_GRADIENT
        total = np.array([loss])
        self.comm.Allreduce(MPI.IN_PLACE, total, MPI.SUM)
        return total[0]

    def _absent(self) -> list[slice]:
        """Where the parameters lie that have a gradient on no rank. Collective if some may."""
        where = [slice(p.start, p.stop) for p in self.parameters if p.may_lack_gradient]
        having = np.array(
            [not lacks_gradient(self.model.grads[each]) for each in where], np.float64
        )
        if where:
            self.comm.Allreduce(MPI.IN_PLACE, having, MPI.SUM)
        return [each for each, ranks in zip(where, having) if not ranks]

    def state(self) -> dict[str, NDArray]:
        residual = self.residual / self.comm.size
        self.comm.Allreduce(MPI.IN_PLACE, residual, MPI.SUM)
        shared = {f"compression.{k}": v.copy() for k, v in self.compression.shared.items()}
        return super().state() | shared | {"residual": residual}

    def _kept(self) -> dict[str, NDArray]:
        """What it keeps from step to step beside parameters and optimizer, by name."""
        shared = {f"compression.{name}": value for name, value in self.compression.shared.items()}
        return shared | {"residual": self.residual}

    def _check_state(self, state: dict[str, NDArray]) -> None:
        super()._check_state(state)
        kept = self._kept()
        if not kept.keys() <= state.keys():
            raise ValueError(f"a state of {sorted(state)}: expected {sorted(kept)} among them")
        for name, value in kept.items():
            if state[name].shape != value.shape or state[name].dtype != value.dtype:
                raise ValueError(
                    f"state {name!r} of shape {state[name].shape}: expected {value.shape} of "
                    f"{value.dtype}, and this is {state[name].dtype}; was it saved of another "
                    "model, or with another rank of PowerSGD?"
                )

    def _take_state(self, state: dict[str, NDArray]) -> None:
        super()._take_state(state)
        for name, value in self._kept().items():
            value[:] = state[name]


class TopK:
    """Send the k elements of largest magnitude of each rank, as (index, value) pairs.

    Aji and Heafield, "Sparse communication for distributed gradient descent" (2017); Stich,
    Cordonnier, Jaggi, "Sparsified SGD with memory" (2018), algorithm 1.

    Args:
        k: elements that a rank sends in a step, at least 1; a model with fewer sends all.

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
    """Send the gradient of each matrix of weights as P Q^T, thin matrices of `rank` columns.

    Vogels, Karimireddy, Jaggi, "PowerSGD: practical low-rank gradient compression for distributed
    optimization" (2019), algorithm 1: one step of power iteration on the sum M of the ranks'
    matrices, warm-started from the last Q. P = orthogonal basis of M Q; Q = M^T P. A matrix of no
    more than `rank` independent columns arrives whole. Biases are sent as they are; a
    convolution's weights are a matrix with a row for each output channel.

    A rank's residual is its own M minus P P^T M, so what was sent and the residual add up to M.

    Args:
        rank: columns of P and Q, at least 1; a smaller matrix uses as many as it has.

    Raises:
        TypeError, ValueError: rank is not a whole number of at least 1.
    """

    def __init__(self, rank: int):
        self.rank = as_int("rank", rank, 1)
        self.shared: dict[str, NDArray] = {}

    def bind(self, model: Model) -> None:
        rng = np.random.default_rng(0)  # the same first Q on every rank
        self._matrices: list[tuple[slice, int]] = []  # where it lies, and its rows
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
        # Make the basis orthogonal again: a gradient of lower rank left columns of zeros.
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
    """Sum each array over the ranks, all in one message."""
    message = np.concatenate([a.ravel() for a in arrays])
    comm.Allreduce(MPI.IN_PLACE, message, MPI.SUM)
    parts = np.split(message, np.cumsum([a.size for a in arrays])[:-1])
    return [part.reshape(a.shape) for part, a in zip(parts, arrays)]
