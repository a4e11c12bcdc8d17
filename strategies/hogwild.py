"""Hogwild: ranks of one node update the same parameters, without waiting for each other."""

from contextlib import nullcontext

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from nn.batch import Batch
from nn.optim import zeros_like
from strategies.base import Refused, Strategy, own_gradients, refuse_sum, refuse_sync_batch_norm
from strategies.comm.shared_memory import allocate_shared
from strategies.comm.shared_window import LINE, SharedWindow
from strategies.gradient_norm import norm


class Hogwild(Strategy):
    """All ranks update the parameters in one shared window, each by the gradient of its rows.

    Niu, Recht, Re, Wright, "Hogwild!: a lock-free approach to parallelizing stochastic gradient
    descent" (2011), algorithm 1. A rank reads parameters that others are writing, and an update
    of one element by two ranks at once may lose one of the two. The paper bounds what that costs
    if gradients are sparse.

    `step` is not collective: each rank takes its steps at its own pace, on the mean over its own
    shard, and returns the mean loss over it (nan, and no update, if it has no rows). n ranks
    therefore make n updates for each global batch. `weights`, `state`, `load_state` and `close`
    are collective, and wait until all ranks have called them.

    Only the parameters are shared. Each rank's optimizer keeps a state of its own, and its
    schedule counts its own steps. `state` saves the mean of the ranks' optimizer states, and of
    their steps, which is the number of global batches if all ranks took part in each. A run
    therefore resumes bit for bit on one rank only: on several, each goes on from the mean instead
    of its own, and updates never come in the same order twice.

    Each rank clips its own gradient by its own norm, and there is no common gradient whose norm
    `grad_norm` could return. Ranks do not compare their batches, since they do not step together.

    Args:
        lock: let one rank update at a time while the others wait, so that no update is lost.
        sparse: update only the elements whose gradient is not 0, as the paper does. Ranks whose
            gradients have disjoint support then lose nothing. Otherwise all elements are read
            and written, which is faster if most gradients are not 0.

    Raises:
        TypeError: lock or sparse is not True or False.
        Refused: the ranks of `comm` do not share one node or its shared memory is too small,
            sync_batch_norm, `nn.EMA`,
            or a loss that is a sum over rows.
        ValueError: `sparse` with an optimizer that moves elements whose gradient is 0 (momentum,
            Adam, weight decay), or has groups.
    """

    splits_rows = True
    steps_together = False

    def __init__(
        self, model, optimizer, comm: MPI.Intracomm, lock: bool = False, sparse: bool = False
    ):
        super().__init__(model, optimizer, comm)
        refuse_sync_batch_norm(model)
        refuse_sum(model)
        for name, switch in (("lock", lock), ("sparse", sparse)):
            if not isinstance(switch, bool):
                raise TypeError(f"{name}={switch!r}: expected True or False")
        moves_all = getattr(optimizer, "slots", ()) or getattr(optimizer, "weight_decay", 0)
        if sparse and moves_all:
            raise ValueError(
                "sparse=True: expected SGD without momentum or weight decay, which also move "
                "elements whose gradient is 0"
            )
        if sparse and getattr(optimizer, "groups", None):
            raise ValueError("sparse=True: expected an optimizer without groups")
        if "average" in getattr(optimizer, "slots", ()):
            raise Refused(
                "each rank of Hogwild would average the weights as it sees them: expected an "
                "optimizer without nn.EMA"
            )
        self.sparse = sparse
        params = model.params
        self._window = SharedWindow(comm, params.dtype, rows=1, length=len(params))
        self._turn = _Turn(comm) if lock else nullcontext()
        self._updates = self._window.scalars
        if comm.rank == 0:
            self._window.rows[0][:] = params
        self._bind_shared(self._window.rows[0], model.grads)
        model.grads[:] = 0
        self._window.fence()

    @property
    def updates(self) -> int:
        """Updates by all ranks so far. No count is lost, since each rank counts its own."""
        return int(self._updates.sum())

    def gradients(self, batch: Batch) -> float:
        # Sparse gradients are added to zeros: `_update_support` clears only what it has applied.
        loss, self._own_count = own_gradients(self.model, batch, self.comm, add=self.sparse)
        return loss

    def grad_norm(self) -> float:
        raise Refused("ranks of Hogwild step on gradients of their own: there is no common one")

    def update(self) -> None:
        if not self._own_count:
            self.optimizer.steps += 1  # the learning rate schedule goes on
            return
        with self._turn:
            if self.sparse:
                self._update_support()
            else:
                super().update()
        self._updates[self.comm.rank] += 1

    def _update_support(self) -> None:
        params, grads = self.model.params, self.model.grads
        support = self._support()
        values, gradient = params[support], grads[support]
        if getattr(self.optimizer, "clip_norm", None) is None:
            self.optimizer.step(values, gradient)
        else:
            of_all = norm([(0, gradient)], self.optimizer.norm_type)  # all else is 0
            self.optimizer.step(values, gradient, of_all)
        params[support] = values
        grads[support] = 0

    def _support(self) -> NDArray[np.intp]:
        """Return where the gradient is not 0; some layers know it (`EmbeddingBag.support`)."""
        model = self.model
        layers = getattr(model, "layers", [None] * (len(model.offsets) - 1))
        parts = []
        for layer, lo, hi in zip(layers, model.offsets, model.offsets[1:]):
            said = getattr(layer, "support", None)
            parts.append(lo + (np.flatnonzero(model.grads[lo:hi]) if said is None else said))
        return np.concatenate(parts)

    def weights(self) -> NDArray:
        if not self._window.is_open:
            return super().weights()
        self._window.fence()
        weights = super().weights()
        self._window.fence()
        return weights

    def close(self) -> None:
        """Move the model back into private memory and free the window. Collective."""
        if self._window.is_open:
            self._window.fence()
            # Freeing memory that views still point to would crash the process.
            self._bind_private(self.model.grads)
            self._updates = np.array(self._updates)
            self._window.close()
            self.closed = True
            if isinstance(self._turn, _Turn):
                self._turn.close()

    def state(self) -> dict[str, NDArray]:
        for name in getattr(self.optimizer, "slots", ()):
            # A rank that never had rows has no state yet; the mean is over all.
            self.optimizer.state.setdefault(name, zeros_like(self.model.params))
        steps = self.comm.allreduce(self.optimizer.steps) / self.comm.size
        return super().state() | {"steps": np.array(round(steps))}

    def _whole(self, vector):
        whole = vector / self.comm.size
        self.comm.Allreduce(MPI.IN_PLACE, whole, MPI.SUM)
        return whole

    def _set_weights(self, params):
        self._window.fence()
        if self.comm.rank == 0:
            self.model.params[:] = params
        self._window.fence()


class _Turn:
    """A lock, for `with turn:`, that one rank has at a time: the lock of an MPI window."""

    def __init__(self, comm: MPI.Intracomm):
        self._win = allocate_shared(comm, LINE)

    def __enter__(self) -> None:
        self._win.Lock(0, MPI.LOCK_EXCLUSIVE)

    def __exit__(self, *exception: object) -> None:
        self._win.Unlock(0)

    def close(self) -> None:
        self._win.Free()
