"""Where to cut a net into stages that take about equally long."""

import copy
import operator
import time
from collections.abc import Iterable, Sequence
from itertools import accumulate

import numpy as np
from mpi4py import MPI

from nn.batch import Batch
from nn.inputs import some_rows
from nn.layers.dropout import rows_of
from nn.model import Model
from strategies.base import Refused
from strategies.comm.on_rank_0 import on_rank_0


def choose(model: Model, stages: int, cuts: str | Sequence[int], comm: MPI.Intracomm) -> list[int]:
    """Return bounds, the same on every rank: stage s has layers bounds[s] to bounds[s + 1] - 1.

    Args:
        cuts: "auto", or the first layer of every stage but the first, increasing.

    Raises:
        TypeError: cuts are not layer numbers.
        Refused: there are more stages than layers, or than "auto" can make.
        ValueError: cuts do not make that many stages; a layer fails while it is measured.
    """
    n = len(model.layers)
    if stages > n:
        hint = "; a torch module that is no Sequential is one layer" * hasattr(model, "module")
        raise Refused(
            f"{stages} stages and a net of {n} layers: each stage needs at least one layer; use "
            f"fewer ranks, or fewer chunks{hint}"
        )
    if isinstance(cuts, str) or not isinstance(cuts, Iterable):
        if cuts != "auto":
            raise ValueError(f'cuts={cuts!r}: expected "auto" or a list of layer numbers')
        return _automatic(model, stages, comm) if stages > 1 else [0, n]
    try:
        inner = [operator.index(cut) for cut in cuts]
    except TypeError:
        raise TypeError(f"cuts={cuts!r}: expected layer numbers") from None
    if len(inner) != stages - 1 or inner != sorted(set(inner) & set(range(1, n))):
        raise ValueError(
            f"cuts={list(cuts)}: expected {stages - 1} increasing layer numbers from 1 to {n - 1}, "
            f"where each of {stages} stages but the first begins"
        )
    return [0, *inner, n]


def _automatic(model: Model, stages: int, comm: MPI.Intracomm) -> list[int]:
    """Balance the stages; the layers from one that makes several rows of each stay together."""
    n = len(model.layers)
    last = next((i for i, layer in enumerate(model.layers) if layer.rows_each > 1), n - 1)
    if stages > last + 1:
        raise Refused(
            f"{stages} stages, and layer {last} makes several rows of each, behind which a "
            f"pipeline cannot be cut: expected at most {last + 1}"
        )
    costs = _common_costs(model, comm)
    return [*balanced([*costs[:last], sum(costs[last:])], stages)[:-1], n]


def _common_costs(model: Model, comm: MPI.Intracomm) -> list[float]:
    """Measure on rank 0 for all ranks, which would else cut in different places."""
    try:
        return on_rank_0(comm, lambda: layer_costs(model))
    except Exception as error:
        raise ValueError(
            f'cuts="auto" measures the layers, on rows of zeros, and met {error!r}; give cuts as a '
            "list of layer numbers"
        ) from error


def layer_costs(model: Model, rows: int = 32, rounds: int = 3) -> list[float]:
    """Return the seconds that forward and backward of each layer take: the least of some rounds.

    The rows are zeros, which are valid word numbers too, for first layers that take only these.
    """
    costs = [float("inf")] * len(model.layers)
    first = model.first_trained
    batch = Batch(np.empty((rows, 0)), np.zeros(rows, np.intp))
    for _ in range(rounds):
        x = some_rows(model.input_shape, model.kinds, model.dtype, rows)
        for i, original in enumerate(model.layers):
            layer = copy.deepcopy(original)  # a layer may keep statistics of rows
            with rows_of(batch):
                begin = time.perf_counter()
                y, ctx = layer.forward(x)
                forward = time.perf_counter() - begin
            dy = np.ones_like(y)
            begin = time.perf_counter()
            if i >= first:
                layer.backward(dy, ctx, need_dx=i > first)
            costs[i] = min(costs[i], forward + time.perf_counter() - begin)
            x = y
    return costs


def balanced(costs: Sequence[float], stages: int) -> list[int]:
    """Return bounds of consecutive, non-empty stages, such that the most costly costs the least.

    Dynamic programming over (layers, stages), the linear partition problem (Skiena, "The Algorithm
    Design Manual", 8.5).
    """
    sums = [0.0, *accumulate(costs)]
    n = len(costs)
    # best[j]: (cost of the worst stage, bounds) if the first j layers are cut into `stage` stages.
    best = {j: (sums[j], [0, j]) for j in range(1, n + 1)}
    for stage in range(2, stages + 1):
        best = {
            j: min(
                (max(best[i][0], sums[j] - sums[i]), [*best[i][1], j]) for i in range(stage - 1, j)
            )
            for j in range(stage, n + 1)
        }
    return best[n][1]
