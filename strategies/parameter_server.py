"""A parameter server: rank 0 keeps the weights, the others compute at their own pace."""

import math
from collections import deque

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from nn.arguments import as_int
from nn.batch import Batch
from nn.optim import zeros_like
from strategies.base import Refused, Strategy, counted_rows, refuse_sync_batch_norm

PULL, PUSH = 1, 2


class ParameterServer(Strategy):
    """Workers pull weights from rank 0 and push gradients to it, at most `staleness` clocks apart.

    At its clock c (steps taken) a worker computes on weights that hold the updates of at least
    the clocks before c - staleness, and waits for nothing else: the stale-synchronous bound of Ho
    et al., "More effective distributed ML via a stale synchronous parallel parameter server"
    (2013). The server updates once a clock, from the sum over all workers, added in rank order
    (Li et al., "Scaling distributed machine learning with the parameter server", 2014, algorithm
    1). Every update therefore uses the gradient of a whole global batch: learning rate, momentum
    and decay mean what they mean to Sequential, and old weights are the only difference. With
    `staleness=0` there is no difference, and it equals DataParallel over the workers. Only then
    does a run resume bit for bit: otherwise timing decides how old the weights are.

    All messages are point-to-point. The server serves within `step`, until its clock is complete,
    so no message is under way once every rank has returned from the same number of steps. Messages
    pass through a communicator of their own, which `close` frees. A single rank trains as
    Sequential does.

    `step` returns the mean loss over the global batch on the server, and over the rank's own rows
    on a worker (nan if it has none).

    Attributes:
        log: on the server, (worker, clock, staleness) of every pull that was answered: how many
            clocks old that worker's weights were. It determines all weights.

    Raises:
        TypeError, ValueError: staleness is not a whole number of at least 0.
        Refused: the communicator is not MPI's, so it cannot receive from any rank; the model has
            sync_batch_norm.
    """

    def __init__(self, model, optimizer, comm: MPI.Intracomm, staleness: int = 0):
        super().__init__(model, optimizer, comm)
        refuse_sync_batch_norm(model)
        if not isinstance(comm, MPI.Intracomm):
            raise Refused(
                f"comm is {comm!r}: expected an MPI intracommunicator, since the server receives "
                "from any rank"
            )
        self.staleness = as_int("staleness", staleness, 0)
        self.log: list[tuple[int, int, int]] = []
        self._pushed: list[deque[NDArray]] = [deque() for _ in range(comm.size - 1)]
        # The server receives from any rank, and must not receive what others send on `comm`.
        self._messages = comm.Dup()
        self._begin()

    def _begin(self) -> None:
        # On every rank `optimizer.steps` is the clock; on the server it counts the updates.
        self._clocks = [self.optimizer.steps] * self.comm.size
        self._waiting: list[int] = []

    def gradients(self, batch: Batch) -> float:
        if self.comm.size == 1:
            return self.model.gradients(batch)
        return self._serve() if self.comm.rank == 0 else self._work(batch)

    def update(self) -> None:
        if self.comm.rank == 0:
            super().update()
            self._answer()
        else:
            self.optimizer.steps += 1

    def _work(self, batch: Batch) -> float:
        params = self.model.params
        self._messages.Send(params[:0], 0, PULL)
        self._messages.Recv(params, 0, PULL)
        shard = batch.shard(self.comm.rank - 1, self.comm.size - 1)
        loss = self.model.gradients(shard)
        self._messages.Send(np.append(self.model.grads, params.dtype.type(loss)), 0, PUSH)
        counted = counted_rows(self.model, shard.as_global()) if len(shard) else 0
        return loss * counted_rows(self.model, batch) / counted if counted else math.nan

    def _serve(self) -> float:
        """Receive until every worker has pushed the gradient of this clock, and return the loss."""
        while not all(self._pushed):
            self._receive()
        total, *others = (queue.popleft() for queue in self._pushed)
        for gradient in others:
            total += gradient
        self.model.grads[:] = total[:-1]
        return float(total[-1])

    def _receive(self) -> None:
        """Receive a gradient with its loss behind it, or an empty message that asks for weights."""
        params, status = self.model.params, MPI.Status()
        message = np.empty(len(params) + 1, params.dtype)
        self._messages.Recv(message, MPI.ANY_SOURCE, MPI.ANY_TAG, status)
        if status.tag == PUSH:
            self._pushed[status.source - 1].append(message)
        else:
            self._waiting.append(status.source)
            self._answer()

    def _answer(self) -> None:
        """Send the weights to each waiting worker that is not too far ahead of the others."""
        done = self.optimizer.steps
        for worker in list(self._waiting):
            clock = self._clocks[worker]
            if clock - done <= self.staleness:
                self._messages.Send(self.model.params, worker, PULL)
                self.log.append((worker, clock, clock - done))
                self._clocks[worker] += 1
                self._waiting.remove(worker)

    def grad_norm(self) -> float:
        of_server = np.array([super().grad_norm() if self.comm.rank == 0 else 0.0])
        self.comm.Bcast(of_server)
        return float(of_server[0])

    def weights(self) -> NDArray:
        return self._whole(super().weights())

    def _whole(self, vector):
        whole = np.array(vector)
        self.comm.Bcast(whole)
        return whole

    def close(self) -> None:
        """Free the communicator of the messages. Collective."""
        if self._messages != MPI.COMM_NULL:
            self._messages.Free()
            self.closed = True

    def averaged_weights(self) -> NDArray:
        self._make_room()
        return super().averaged_weights()

    def state(self) -> dict[str, NDArray]:
        self._make_room()
        return super().state()

    def _make_room(self) -> None:
        """Give workers, which keep no state of their own, room to receive the server's."""
        if self.optimizer.steps:
            for name in getattr(self.optimizer, "slots", ()):
                self.optimizer.state.setdefault(name, zeros_like(self.model.params))

    def _take_state(self, state: dict[str, NDArray]) -> None:
        super()._take_state(state)
        self._begin()
