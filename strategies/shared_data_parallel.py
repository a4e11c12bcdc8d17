"""Data parallelism on one node, where the ranks read each other's gradients in shared memory."""

import numpy as np
from mpi4py import MPI

from nn.batch import bounds
from strategies.base import Strategy
from strategies.comm.handing_over import share_no_cache
from strategies.comm.shared_window import LINE, SharedWindow
from strategies.sharding.blocks import parts_between


class SharedDataParallel(Strategy):
    """Ranks keep parameters and all gradients in one MPI shared window, and send nothing.

    Each rank writes the gradient of its rows into a row of its own. Between two barriers it then
    sums one slice over all rows, always in rank order and in place, and updates that slice of the
    parameters, which all ranks read. The result is the same to the bit as summing the same shards
    in one process. (MPI-3.1 standard, 11.2.3; Hoefler et al., "MPI + MPI", 2013.)

    Where two ranks have no cache in common, products that read parameters of other ranks wait for
    memory. Each rank then computes with a copy of its own, and takes the slices of the others over
    once a step. Weights are the same to the bit. `bench/studies/shared_memory.py` races both.

    Args:
        accumulate: compute the rows of each rank in this many parts, as in `Sequential`.
        private: whether each rank has its own copy of the parameters. None: if the cores of the
            ranks share no cache, which is measured when the strategy is made.

    Raises:
        TypeError: private is neither True, False nor None.
        TypeError, ValueError: accumulate is not a whole number of at least 1.
        Refused: the ranks of `comm` do not share one node, or its shared memory is too small;
            accumulate with sync_batch_norm.
    """

    splits_rows = splits_update = True

    def __init__(
        self,
        model,
        optimizer,
        comm: MPI.Intracomm,
        *,
        accumulate: int = 1,
        private: bool | None = None,
    ):
        if not (private is None or isinstance(private, bool)):
            raise TypeError(f"private={private!r}: expected True, False or None")
        super().__init__(model, optimizer, comm)
        self._accumulate(accumulate)
        params = model.params
        self._window = SharedWindow(comm, params.dtype, rows=1 + comm.size, length=len(params))
        self._shared, *self._rows = self._window.rows
        self._losses = self._window.scalars
        if private is None:
            private = share_no_cache(comm, self._rows, self._window.fence)
        self.private: bool = private
        if comm.rank == 0:
            self._shared[:] = params
        mine = np.array(params) if private else self._shared
        self._bind_shared(mine, self._rows[comm.rank])
        self._slices = [_line_slice(k, comm.size, params) for k in range(comm.size)]
        self._mine = self._slices[comm.rank]
        self._others = [row for k, row in enumerate(self._rows) if k != comm.rank]
        self._total = (self._others or self._rows)[-1][self._mine]
        self._window.fence()

    def reduce(self, loss: float) -> float:
        self._losses[self.comm.rank] = loss
        self._window.fence()
        # Sum in rank order, into the rows of the other ranks. They write these rows again in the
        # next step, which costs less for memory that this rank has written than has only read.
        total = self._rows[0][self._mine]
        for row, out in zip(self._rows[1:], self._others):
            total = np.add(total, row[self._mine], out=out[self._mine])
        return float(sum(self._losses))

    def update(self) -> None:
        self._move(self.model.params[self._mine], self._total)
        self._hand_over()

    def _hand_over(self) -> None:
        """Make the slice of every rank visible to all ranks. Collective."""
        params = self.model.params
        if self.private:
            self._shared[self._mine] = params[self._mine]
        self._window.fence()
        if self.private:
            for part in self._slices:
                if part != self._mine:
                    params[part] = self._shared[part]

    def _own_parts(self):
        return parts_between(self.parameters, self._mine.start, self._mine.stop)

    def _counted(self):
        return [(0, self._total)]

    @property
    def _norm_comm(self):
        return self.comm

    def close(self) -> None:
        """Move the model back into private memory and free the window. Collective."""
        if self._window.is_open:
            # Freeing memory that views still point to would crash the process.
            self._bind_private(np.array(self.model.grads))
            self._rows, self._others = [], []
            self._shared = self._losses = self._total = np.empty(0)
            self._window.close()
            self.closed = True

    def _whole(self, vector):
        whole = np.empty(self._slices[-1].stop, vector.dtype)
        counts = [part.stop - part.start for part in self._slices]
        self.comm.Allgatherv(vector, [whole, counts])
        return whole

    def _own(self, vector):
        return vector[self._mine]

    def _set_weights(self, params):
        self._window.fence()
        self.model.params[self._mine] = params[self._mine]
        self._hand_over()


def _line_slice(k: int, n: int, params) -> slice:
    """Return slice `k` of `n`, cut between cache lines, so that no two ranks write to one line."""
    per_line = LINE // params.dtype.itemsize
    lo, hi = bounds(k, n, -(-len(params) // per_line))
    return slice(min(lo * per_line, len(params)), min(hi * per_line, len(params)))
