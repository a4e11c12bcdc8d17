"""What each strategy costs: bytes sent, memory held and idle time, as formulas with their source.

All are pure functions of the net, the ranks and the batch. `sent_by_...` returns the bytes that one
rank gives to the communicator in one training step, by verb; of a collective, the buffer that it
passes. `held_by_...` returns the bytes that one rank's numpy arrays take between two steps:
parameters, gradients, and `slots` vectors of optimizer state (`len(optimizer.slots)`). The tests
measure both, and find exactly these numbers.

With n parameters, P ranks, B rows, m micro-batches:

====================== ======================================= =================================
strategy               a rank sends in a step                  a rank holds
====================== ======================================= =================================
Sequential             nothing                                 parameters, gradients, state: n
DataParallel           n                                       n of each
SharedDataParallel     nothing, it reads and writes memory     n/P of the state; a node (P+1) n
ZeRO                   n + n/P; in stage 3 up to n + 2 n/P     see `strategies.zero`
TensorParallel         activations: B x width, twice a pair    its neurons' share of each
Pipeline               activations: B x width, twice a cut     its layers' share of each
LocalSGD               (1 + slots) n in every period-th step   n of each
Hogwild                nothing, it reads and writes memory     n of gradients, state; a node n
ParameterServer        n; the server (P-1) n                   n of each; a worker no state
TopK                   k elements with their indices           n of each, and the residual
PowerSGD               (rows + columns) x rank a matrix        n of each, the residual, Q
====================== ======================================= =================================
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from fractions import Fraction

from nn.batch import bounds
from nn.layers import Conv2d, Divisible, Flatten, Layer, Linear, Shape
from nn.layers.residual import Residual
from nn.model import Model
from strategies.comm.shared_window import LINE
from strategies.sharding.blocks import Block
from strategies.sharding.rewriting import computes_its_own_way, each_feature_alone
from strategies.sharding.spans import spans_of
from strategies.sharding.stages import tied_over_ranks

Sent = Counter[str]
"""Verb of the communicator -> bytes."""

LOSS = 8
"""Bytes of a loss that is sent by itself, as float64."""


def _item(model: Model) -> int:
    return model.dtype.itemsize


def _own(rank: int, ranks: int, total: int) -> int:
    lo, hi = bounds(rank, ranks, total)
    return hi - lo


# Bytes sent


def sent_by_data_parallel(model: Model) -> Sent:
    """Count the gradient with the loss in front, in one Allreduce (with buckets, in parts).

    Li et al., "PyTorch Distributed" (2020), section 3.2.
    """
    return Sent(Allreduce=_item(model) * (model.offsets[-1] + 1))


def sent_by_zero(model: Model, ranks: int, rank: int, stage: int, accumulate: int = 1) -> Sent:
    """Count the gradient once, and the parameters once or, in stage 3, twice.

    Backward needs them again, except those of the last layer, which are still there. Rajbhandari
    et al., "ZeRO" (2020), section 7. Of `accumulate` parts, stages 2 and 3 sum the gradient of
    each, and stage 3 gathers the parameters for each, except those of the first layer, which the
    backward of the part before has left there. They do so for every layer that has tied weights.
    """
    lo, hi = bounds(rank, ranks, model.offsets[-1])
    used = [spans for spans in spans_of(model) if spans]
    gathered, summed = hi - lo, model.offsets[-1]
    if stage > 1:
        summed = accumulate * sum(span.size for spans in used for span in spans)
    if stage == 3:
        owned = [sum(span.part(lo, hi) for span in spans) for spans in used]
        gathered = accumulate * (2 * sum(owned) - owned[-1]) - (accumulate - 1) * owned[0]
    item = _item(model)
    return Sent(Reduce_scatter=item * summed, Allgatherv=item * gathered, Allreduce=LOSS)


def sent_by_tensor_parallel(
    model: Model, ranks: int, rank: int, rows: int, need_dx: bool = False
) -> Sent:
    """Count, for a pair of Linears, its summed output, and backward its input's gradient.

    The first pair needs no gradient of its input, unless `need_dx`. A last Linear without a
    partner gathers that gradient instead; convolutions gather their input. Shoeybi et al.,
    "Megatron-LM" (2019), section 3.
    """
    sent = _split(model, ranks, rank, need_dx).sent
    return Sent({verb: _item(model) * rows * elements for verb, elements in sent.items()})


def sent_by_pipeline(model: Model, cuts: Sequence[int], ranks: int, rank: int, rows: int) -> Sent:
    """Count activations once over every cut, their gradient back, and at the end the loss.

    Below the first layer that is trained nobody needs a gradient. Huang et al., "GPipe" (2019),
    section 2. A rank sends its gradient of weights that other ranks have too (tied weights) to each
    of these.

    Args:
        cuts: first layer of every stage but the first; stage s is on rank s % ranks.
    """
    sent = Sent(Bcast=LOSS * (rank == ranks - 1))
    if ranks > 1:
        ends = [0, *cuts, len(model.layers)]
        stages = _stages(ends, ranks, rank)
        forward = [ends[s + 1] for s in stages if ends[s + 1] < len(model.layers)]
        backward = [ends[s] for s in stages if ends[s] > model.first_trained]
        elements = sum(rows * math.prod(model.row_shape(at)) for at in (*forward, *backward))
        size = {parameter.name: parameter.size for parameter in model.parameters}
        for name, having in tied_over_ranks(model, ends, ranks):
            elements += size[name] * (len(having) - 1) * (rank in having)
        sent["Isend"] = _item(model) * elements
    return sent


def sent_by_hybrid(
    model: Model, cuts: Sequence[int], grid: tuple[int, int, int], rank: int, rows: int
) -> Sent:
    """Add up its parts: the pipeline of a copy, tensor groups in stages, sums over copies.

    Args:
        cuts: as for a pipeline.
        grid: ranks for data, stages and tensor parallelism, the last varying fastest.
        rank: of all.
        rows: of the whole batch.
    """
    data, stages, tensor = grid
    copy, stage, lane = rank // (stages * tensor), rank // tensor % stages, rank % tensor
    rows = _own(copy, data, rows)
    sent = sent_by_pipeline(model, cuts, stages, stage, rows)
    ends = [0, *cuts, len(model.layers)]
    for s in _stages(ends, stages, stage) if tensor > 1 else ():
        piece = model.stage(*ends[s : s + 2])
        need_dx = model.first_trained < ends[s]
        sent += sent_by_tensor_parallel(piece, tensor, lane, rows, need_dx)
    sent["Allreduce"] += _item(model) * (_own_params(model, cuts, grid, rank) + 1)
    return sent


def sent_by_local_sgd(model: Model, slots: int) -> Sent:
    """Count weights and optimizer state, in a step that ends a period; others send nothing.

    McMahan et al., "Communication-efficient learning of deep networks from decentralized data"
    (2017), algorithm 1; the state: Yu, Jin, Yang (2019), algorithm 1.
    """
    return Sent(Allreduce=_item(model) * (1 + slots) * model.offsets[-1])


def sent_by_parameter_server(model: Model, ranks: int, rank: int) -> Sent:
    """Count the weights for every worker on the server, or a worker's gradient and loss.

    Li et al., "Scaling distributed machine learning with the parameter server" (2014), section 2.
    """
    n = model.offsets[-1]
    return Sent(Send=_item(model) * ((ranks - 1) * n if rank == 0 else n + 1))


def sent_by_top_k(model: Model, k: int) -> Sent:
    """Count k elements, each with its index in 8 bytes. Aji and Heafield (2017), section 3."""
    return Sent(Allgather=min(k, model.offsets[-1]) * (8 + _item(model)), Allreduce=LOSS)


def sent_by_power_sgd(model: Model, rank: int) -> Sent:
    """Count two thin matrices for every matrix of weights, and biases as they are.

    Vogels, Karimireddy, Jaggi, "PowerSGD" (2019), algorithm 1.

    Args:
        rank: columns of the thin matrices.
    """
    elements = 0
    for shape in (shape for layer in model.layers for shape in layer.shapes):
        rows, columns = shape[0], math.prod(shape[1:])
        thin = (rows + columns) * min(rank, rows, columns)
        elements += thin if len(shape) > 1 else rows
    return Sent(Allreduce=_item(model) * elements + LOSS)


# Memory held between steps


def held_by_sequential(model: Model, slots: int) -> int:
    """Count parameters, gradients and the optimizer's vectors."""
    return (2 + slots) * _item(model) * model.offsets[-1]


def held_by_data_parallel(model: Model, slots: int) -> int:
    """Count as in plain training, and a cache line in front of the gradient, for the loss.

    LocalSGD holds the same.
    """
    return held_by_sequential(model, slots) + LINE


def held_by_shared_data_parallel(
    model: Model, ranks: int, rank: int, slots: int, private: bool = False
) -> int:
    """Count the state of its slice, cut between cache lines; `in_shared_window` has the rest.

    With `private` parameters, those of the whole model too. Hoefler et al., "MPI + MPI" (2013).
    """
    n, per_line = model.offsets[-1], LINE // _item(model)
    lo, hi = (min(line * per_line, n) for line in bounds(rank, ranks, -(-n // per_line)))
    return _item(model) * (slots * (hi - lo) + private * n)


def held_by_hogwild(model: Model, slots: int) -> int:
    """Count gradients and state; the parameters are `in_shared_window`. Recht et al. (2011)."""
    return (1 + slots) * _item(model) * model.offsets[-1]


def in_shared_window(model: Model, ranks: int, vectors: int) -> int:
    """Count what a node shares: vectors, each on its own cache lines, and a line for each rank.

    `SharedDataParallel` keeps 1 + ranks vectors there, `Hogwild` one. A further line of bytes lets
    the first vector begin on a line.
    """
    lines = math.ceil(_item(model) * model.offsets[-1] / LINE)
    return (vectors * lines + ranks + 1) * LINE


def held_by_parameter_server(model: Model, rank: int, slots: int) -> int:
    """Count as in plain training; a worker has no state until one is saved or loaded.

    Li et al., "Scaling distributed machine learning with the parameter server" (2014), section 2.
    """
    return held_by_sequential(model, slots if rank == 0 else 0)


def held_by_top_k(model: Model, slots: int) -> int:
    """Count as in plain training, and the residual. Aji and Heafield (2017), section 3."""
    return held_by_sequential(model, slots) + _item(model) * model.offsets[-1]


def held_by_power_sgd(model: Model, rank: int, slots: int) -> int:
    """Count as in plain training, the residual, and a thin matrix Q for every matrix of weights.

    Vogels, Karimireddy, Jaggi, "PowerSGD" (2019), algorithm 1.

    Args:
        rank: columns of Q.
    """
    shapes = (s for layer in model.layers for s in layer.shapes if len(s) > 1)
    sizes = ((shape[0], math.prod(shape[1:])) for shape in shapes)
    qs = sum(columns * min(rank, rows, columns) for rows, columns in sizes)
    return held_by_top_k(model, slots) + _item(model) * qs


def held_by_zero(model: Model, ranks: int, rank: int, stage: int, slots: int) -> int:
    """Count a rank's slice of what is sharded, and room for the largest layer.

    Rajbhandari et al., "ZeRO" (2020), section 5.
    """
    n = model.offsets[-1]
    own, largest = _own(rank, ranks, n), max(sum(s.size for s in each) for each in spans_of(model))
    params = own + largest if stage >= 3 else n
    grads = own + largest if stage >= 2 else n
    return _item(model) * (params + grads + slots * own)


def held_by_tensor_parallel(model: Model, ranks: int, rank: int, slots: int) -> int:
    """Count, of a pair of Linears, some outputs of the first and inputs of the second.

    Shoeybi et al., "Megatron-LM" (2019), section 3.
    """
    return (2 + slots) * _item(model) * _split(model, ranks, rank).params


def held_by_pipeline(model: Model, cuts: Sequence[int], ranks: int, rank: int, slots: int) -> int:
    """Count the layers of its stages. Huang et al., "GPipe" (2019), section 2."""
    return (2 + slots) * _item(model) * _own_params(model, cuts, (1, ranks, 1), rank)


def held_by_hybrid(
    model: Model, cuts: Sequence[int], grid: tuple[int, int, int], rank: int, slots: int
) -> int:
    """Count its part of its stages, and a cache line as DataParallel does."""
    return (2 + slots) * _item(model) * _own_params(model, cuts, grid, rank) + LINE


def _own_params(model: Model, cuts: Sequence[int], grid: tuple[int, int, int], rank: int) -> int:
    """Count the parameters of one rank of a grid, with its copies of tied weights."""
    _, stages, tensor = grid
    ends = [0, *cuts, len(model.layers)]
    size = {parameter.name: parameter.size for parameter in model.parameters}
    count = 0
    for lo, hi in (ends[s : s + 2] for s in _stages(ends, stages, rank // tensor % stages)):
        count += _split(model.stage(lo, hi), tensor, rank % tensor).params
        borrowed = {name for layer in model.layers[lo:hi] for name in layer.borrowed}
        owned = {name for layer in model.layers[lo:hi] for name in layer.names}
        count += sum(size[name] for name in borrowed - owned)
    return count


# Time and contexts of a pipeline


def idle_share(schedule: str, ranks: int, micro_batches: int, chunks: int = 1) -> Fraction:
    """Return the share of time that ranks of equal stages wait, by the schedule alone.

    =========== ===================
    naive       (P-1) / P
    gpipe, 1f1b (P-1) / (m + P-1)
    interleaved (P-1) / (v m + P-1)
    =========== ===================

    (interleaved, with v stages a rank: where P divides m; other m leave further gaps.) Narayanan et
    al., "Efficient large-scale language model training on GPU clusters" (2021), section 2.2.
    """
    if schedule == "naive":
        return Fraction(ranks - 1, ranks)
    return Fraction(ranks - 1, chunks * micro_batches + ranks - 1)


def live_contexts(schedule: str, ranks: int, rank: int, micro_batches: int, chunks: int = 1) -> int:
    """Return how many micro-batches of a stage wait at most for backward on a rank at once.

    Each keeps the activations of one stage, which is one of `chunks` of the rank. Narayanan et al.
    (2021), section 2.2.
    """
    return {
        "naive": 1,
        "gpipe": micro_batches,
        "1f1b": min(micro_batches, ranks - rank),
        "interleaved": min(chunks * micro_batches, chunks * ranks - rank),
    }[schedule]


def _stages(ends: Sequence[int], ranks: int, rank: int) -> range:
    """Return the numbers of the stages of a rank."""
    return range(rank, len(ends) - 1, ranks)


def _split(model: Model, ranks: int, rank: int, need_dx: bool = False) -> "_Split":
    split = _Split(ranks, rank, model.input_shape, need_dx)
    split.add(model.layers)
    return split


class _Split:
    """Counts what one rank sends a row, and holds, as the layers of a net are split by neurons.

    Attributes:
        sent: verb -> elements a row.
        params: elements.
    """

    def __init__(self, ranks: int, rank: int, shape: Shape, need_dx: bool):
        self.ranks, self.rank, self.shape, self.need_dx = ranks, rank, shape, need_dx
        self.sent, self.params = Counter[str](), 0
        self.parts = 0
        """Features (or channels) that are split over the ranks at this layer; 0: all have all."""

    def add(self, layers: Iterable[Layer]) -> None:
        """Go through consecutive layers; behind the last, activations are whole again."""
        layers = list(layers)
        last = max((i for i, layer in enumerate(layers) if layer.shapes), default=-1)
        for i, layer in enumerate(layers):
            if computes_its_own_way(layer):
                self._add_whole(layer)
            elif isinstance(layer, Linear) and len(self.shape) == 1:
                self._add_linear(layer, alone=i == last, need_dx=self.need_dx or i > 0)
            elif isinstance(layer, Conv2d):
                self._split_by_outputs(layer)
            elif isinstance(layer, Divisible):
                self._divide(layer)
            elif isinstance(layer, Residual):
                self._make_whole()
                need_dx, self.need_dx = self.need_dx, self.need_dx or i > 0
                self.add(layer.layers)
                self.need_dx = need_dx
            elif isinstance(layer, Flatten):
                pass
            else:
                self._add_whole(layer)
            self.shape = layer.row_shape(self.shape)
            self.need_dx = self.need_dx or layer.is_trained
        self._make_whole()

    @property
    def _whole(self) -> int:
        return math.prod(self.shape)

    @property
    def _part(self) -> int:
        """Elements of a row that this rank has."""
        return _own(self.rank, self.ranks, self.parts) * (self._whole // self.parts)

    def _add_whole(self, layer: Layer) -> None:
        if not each_feature_alone(layer):
            self._make_whole()
        self.params += layer.n_params

    def _divide(self, layer: Divisible) -> None:
        self._make_whole()
        self.sent["Allreduce"] += 2 * layer.sums * self._whole  # forward and backward
        pieces = layer.pieces(self.rank, self.ranks)
        self.params += sum(Block(0, shape, part).size for shape, part in pieces)

    def _add_linear(self, layer: Linear, alone: bool, need_dx: bool) -> None:
        if alone and not self.parts:
            self.parts = layer.inputs
            self.sent["Allgatherv"] += self._part * need_dx  # backward
        if not self.parts:
            self._split_by_outputs(layer)
            return
        self.params += layer.n_params - (self._whole - self._part) * layer.outputs
        self.sent["Allreduce"] += layer.outputs  # forward
        self.parts = 0

    def _split_by_outputs(self, layer: Linear | Conv2d) -> None:
        if self.parts:
            self.sent["Allgatherv"] += self._part  # forward
            self.sent["Reduce_scatter"] += self._whole  # backward
        elif self.need_dx:
            self.sent["Allreduce"] += self._whole  # backward
        self.parts = layer.outputs
        own = _own(self.rank, self.ranks, layer.outputs)
        self.params += layer.n_params // layer.outputs * own

    def _make_whole(self) -> None:
        if self.parts:
            self.sent["Allgatherv"] += self._part  # forward
            self.parts = 0
