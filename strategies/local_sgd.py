"""Local SGD: every rank trains on rows of its own; from time to time the weights are averaged."""

from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from nn.arguments import as_int
from nn.batch import Batch
from nn.parameters import NO_GRADIENT
from strategies.base import (
    Refused,
    check_optimizer_state,
    counted_rows,
    own_gradients,
    refuse_sum,
    refuse_sync_batch_norm,
    with_prefix,
)
from strategies.data_parallel import DataParallel


class LocalSGD(DataParallel):
    """Each rank trains on its own shard; every `period` steps all take the mean of their weights.

    The mean weighs a rank by the rows that it has seen since the last mean, or by what else its
    loss counts, such as tokens that are no padding (McMahan et al.,
    "Communication-efficient learning of deep networks from decentralized data", 2017, algorithm
    1; Stich, "Local SGD converges fast and communicates little", 2019). The optimizer's state is
    averaged with the weights (Yu, Jin, Yang, "On the linear speedup analysis of communication
    efficient momentum SGD", 2019, algorithm 1).

    With `period=1` this is DataParallel, for every optimizer that is linear in the gradient. Of
    B rows rank k has b_k, and its gradient g_k is the mean over them. From a common p and v,

        sum_k b_k/B (p - lr v_k)  with  v_k = momentum v + g_k + decay p

    is p - lr (momentum v + g + decay p), since the b_k/B add up to 1 and the b_k/B g_k to the
    gradient g of the whole batch, however uneven the shards. (A rank without rows steps on a
    gradient of 0, and its weight in this mean is 0.) All ranks must begin with the same v, so v
    is averaged too. Adam divides by the root of squared gradients, whose mean is not the square
    of the mean, so with Adam the two differ. They also differ where the rows of one rank give a
    parameter no gradient: it stays as it is there, as in a loop of torch on these rows. A parameter
    that stayed as it is on every rank is left out of the mean.

    `step` returns the mean loss over this rank's own rows, nan if it has none: the global mean
    would need the communication that this strategy saves. `weights` returns the mean of the
    ranks' weights at any time, and does not change what the ranks train on.

    Between averages each rank clips its own gradient by its own norm, and there is no common
    gradient whose norm `grad_norm` could return.

    Args:
        period: steps between averages; "epoch" averages after a batch that ends an epoch
            (`Batch.ends_epoch`, which `Dataset.batches` sets); "end" never does, and only
            `weights` combines the copies (one-shot averaging: Zinkevich et al., "Parallelized
            stochastic gradient descent", 2010). Call `synchronise` for any other rhythm.
        warmup: synchronous steps at the beginning, as in DataParallel (post-local SGD: Lin
            et al., "Don't use large mini-batches, use local SGD", 2020).
        outer: an optimizer that moves the average. Its gradient is the old average minus the new
            mean (DiLoCo: Douillard et al., 2023, algorithm 1). SGD(1.0) is plain averaging.
        accumulate: compute the rows of each rank in this many parts, as in `Sequential`.

    Raises:
        Refused: sync_batch_norm, or a loss that is a sum over rows.
        TypeError: an argument is of the wrong type.
        ValueError: period, warmup or accumulate is out of range, or outer would never act.
    """

    def __init__(
        self,
        model,
        optimizer,
        comm: MPI.Intracomm,
        period: int | str = 1,
        warmup: int = 0,
        outer: Any = None,
        *,
        accumulate: int = 1,
    ):
        super().__init__(model, optimizer, comm, accumulate=accumulate)
        refuse_sync_batch_norm(model)
        refuse_sum(model)
        if not isinstance(period, str):
            period = as_int("period", period, 1)
        elif period not in ("epoch", "end"):
            raise ValueError(f'period={period!r}: expected a number of steps, "epoch" or "end"')
        warmup = as_int("warmup", warmup, 0)
        if outer is not None:
            if not callable(getattr(outer, "step", None)) or outer is optimizer:
                raise TypeError(f"outer={outer!r}: expected an nn.SGD or its like of its own")
            if period == "end":
                raise ValueError('period="end" never averages in training: outer would not act')
            if hasattr(outer, "assign"):
                outer.assign(list(self._own_parts()), [p.name for p in self.parameters])
        self.period, self.warmup, self.outer = period, warmup, outer
        self._may_stay = [slice(p.start, p.stop) for p in self.parameters if p.may_lack_gradient]
        self._restart()

    def _restart(self) -> None:
        """Count anew the steps taken, and what counted in the rows of this rank and of all."""
        self._steps = 0
        self._own_count = self._all_count = 0.0

    def gradients(self, batch: Batch) -> float:
        self._local = self.optimizer.steps >= self.warmup
        if not self._local:
            return super().gradients(batch)
        if (self.outer is not None or self._may_stay) and not self._steps:
            self._start = 1 * self.model.params  # a copy, of numpy arrays and torch tensors alike
        loss, counted = own_gradients(self.model, batch, self.comm, parts=self.accumulate)
        self._steps += 1
        self._own_count += counted
        self._all_count += counted_rows(self.model, batch)
        self._due = batch.ends_epoch if self.period == "epoch" else self._steps == self.period
        return loss

    def reduce(self, loss: float) -> float:
        return loss if self._local else super().reduce(loss)

    def update(self) -> None:
        super().update()
        if self._local and self._due:
            self.synchronise()

    def grad_norm(self) -> float:
        if self._has_stepped and self._local:
            raise Refused(
                "ranks of LocalSGD step on gradients of their own: there is no common one"
            )
        return super().grad_norm()

    def synchronise(self) -> None:
        """Give all ranks the mean of their weights and of their optimizers' state. Collective."""
        if not self._steps:
            return
        params, unmoved = self.model.params, self._unmoved()
        for vector in (params, *self.optimizer.state.values()):
            self._average(vector)
        for where in unmoved:
            params[where] = self._start[where]  # a mean of equal numbers may be rounded
        if self.outer is not None:
            gradient = self._start - params
            for where in unmoved:
                gradient[where] = NO_GRADIENT
            self.outer.step(self._start, gradient)
            params[:] = self._start
        self._restart()

    def _unmoved(self) -> list[slice]:
        """Where the parameters lie that no rank has moved. Collective if some may stay."""
        moved = [(self.model.params[each] != self._start[each]).any() for each in self._may_stay]
        ranks = np.array(moved, np.float64)
        if self._may_stay:
            self.comm.Allreduce(MPI.IN_PLACE, ranks, MPI.SUM)
        return [where for where, count in zip(self._may_stay, ranks) if not count]

    def _average(self, vector) -> None:
        vector *= self._own_count / self._all_count if self._all_count else 1 / self.comm.size
        self.comm.Allreduce(MPI.IN_PLACE, vector, MPI.SUM)

    def weights(self) -> NDArray:
        weights = super().weights()
        if self._steps:
            self._average(weights)
        return weights

    def state(self) -> dict[str, NDArray]:
        """Synchronise, so that a run that goes on equals one that resumes, and return the state."""
        self.synchronise()
        state = super().state()
        if self.outer is not None:
            state["outer.steps"] = np.array(self.outer.steps)
            state |= {f"outer.{name}": np.array(v) for name, v in self.outer.state.items()}
        return state

    def _check_state(self, state: dict[str, NDArray]) -> None:
        super()._check_state(state)
        if self.outer is None:
            return
        if "outer.steps" not in state:
            raise ValueError(f"a state of {sorted(state)}: it was saved without outer=...")
        check_optimizer_state(
            self.outer, state, self.length, str(state["params"].dtype), outer=True
        )

    def _take_state(self, state: dict[str, NDArray]) -> None:
        super()._take_state(state)
        self._restart()
        if self.outer is not None:
            own = with_prefix("outer.", state)
            self.outer.steps = int(own.pop("steps"))
            self.outer.state = {name: np.array(vector) for name, vector in own.items()}
