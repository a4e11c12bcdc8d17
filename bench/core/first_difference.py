"""Where two trainings first differ: step, part of the step, layer, parameter and ranks.

Both trainings are repeated from their start. At each step plain training takes the weights of the
strategy, so that errors of earlier steps do not hide where this one comes from; then the parts of
the step are compared in their order:

    forward            the output of a layer, for the input that the rank gave it
    gradient           of the rank's own rows; of the whole batch where the net is split
    reduced gradient   what the optimizers of all ranks were given
    update             the new weights, against plain training's update by that same gradient
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.core.rounding import (
    MULTIPLE,
    Rounding,
    growth,
    largest_of_each,
    lengths_of_sums,
    unit_roundoff,
)
from nn.batch import Batch
from nn.layers import Layer
from nn.layers.dropout import rows_of
from strategies.base import Strategy
from strategies.sharding.layout import Sharded

PARTS = ("forward", "gradient", "reduced gradient", "update")


class Found(NamedTuple):
    """A difference on one rank: the part of the step, the place, its size and rounding's."""

    part: str
    place: str
    size: float
    explained: float


@dataclass
class Seen:
    """What a rank did in a step.

    Attributes:
        share: its gradient before it was reduced, if it holds still.
        given: what its optimizer was given; None if that took no step.
        outputs: (layer, micro-batch, input, output) of each forward of a layer.
    """

    share: NDArray | None = None
    given: NDArray | None = None
    outputs: list[tuple[int, int, NDArray, NDArray]] = field(default_factory=list)


def first_difference(
    oracle: Strategy, strategy: Strategy, batches: Sequence[Batch], rounding: Rounding | None
) -> list[str]:
    """Repeat both trainings from the start, and say where they first differ. Collective.

    Returns:
        Lines that are the same on every rank.
    """
    if rounding is None or not isinstance(strategy, Strategy) or oracle.model is strategy.model:
        return ["where first: unknown, since the two cannot be repeated from their start"]
    try:
        oracle.load_state(rounding.start)
        strategy.load_state(rounding.start)
        for i, batch in enumerate(batches):
            lines = _compare(i, oracle, strategy, batch, rounding)
            if lines:
                return lines
    except Exception as error:  # the failure that is reported must not be hidden by another
        return [f"where first: unknown, since the repetition failed: {error!r}"]
    return ["where first: no part of a step differs by more than rounding explains"]


def _compare(
    step: int, oracle: Strategy, strategy: Strategy, batch: Batch, rounding: Rounding
) -> list[str]:
    comm = strategy.comm
    before = strategy.weights()
    oracle.model.params[:] = before
    oracle.take_dropout_clock()
    oracle.gradients(batch)
    whole = np.array(oracle.model.grads)
    shard = batch.shard(comm.rank, comm.size)
    oracle.model.gradients(shard)
    share = np.array(oracle.model.grads)

    with _watching(strategy, oracle) as seen:
        strategy.step(batch)
    own = strategy._own(np.zeros(strategy.length, before.dtype))
    given = np.array(strategy.model.grads) if seen.given is None else seen.given
    given = given if len(given) == len(own) else own
    reduced = strategy._whole(np.array(given))
    owner = strategy._whole(np.full(len(own), comm.rank, before.dtype)).astype(int)
    after = strategy.weights()
    unreduced = bool(seen.share is not None and np.array_equal(seen.share, given))
    unreduced = all(comm.allgather(unreduced))

    u = unit_roundoff(oracle.model)
    explained = growth(lengths_of_sums(oracle.parameters, len(batch)), u) * largest_of_each(
        oracle.parameters, whole
    )
    measured = rounding.after(step)
    if not measured.problem:
        explained = np.maximum(explained, MULTIPLE * measured.spread)
    found = _outputs(oracle, seen, batch, strategy)
    wrong = _worst(oracle, "reduced gradient", reduced - whole, explained)
    if wrong and unreduced and comm.size > 1 and isinstance(strategy, Sharded):
        wrong = wrong._replace(part="gradient")  # there was nothing to reduce
    found += [wrong] if wrong else []
    replicated = strategy.splits_rows and not isinstance(strategy, Sharded)
    if replicated and strategy.steps_together and seen.share is not None:
        found += filter(None, [_worst(oracle, "gradient", seen.share - share, explained)])

    oracle.model.params[:] = before
    oracle.model.grads[:] = reduced
    oracle.update()
    expected = oracle.weights()
    size = np.maximum(np.abs(expected), np.abs(expected - before)).max(initial=0)
    update = _worst(oracle, "update", after - expected, np.full_like(expected, 16 * u * size))
    found += [update] if update else []
    return _report(step, oracle, strategy, found, owner)


def _report(
    step: int, oracle: Strategy, strategy: Strategy, found: list[Found], owner: NDArray
) -> list[str]:
    comm = strategy.comm
    everywhere = list(enumerate(comm.allgather(found)))
    by_part = {
        part: [(rank, each) for rank, all_ in everywhere for each in all_ if each.part == part]
        for part in PARTS
    }
    if not by_part["reduced gradient"]:
        by_part["gradient"] = [
            (rank, each) for rank, each in by_part["gradient"] if isinstance(strategy, Sharded)
        ]  # the ranks share out rows in another way
    for part in PARTS:
        if not by_part[part]:
            continue
        _, worst = max(by_part[part], key=lambda pair: _finite(pair[1].size))
        ranks = sorted({rank for rank, _ in by_part[part]})
        if isinstance(strategy, Sharded) and part != "forward":
            index = int(worst.place.rpartition("element ")[2])
            ranks = sorted({int(r) for r in comm.allgather(owner[index])})
        who = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {', '.join(map(str, ranks))}"
        return [
            f"where first: step {step}, {part}, {worst.place}: {who} of {comm.size} "
            f"{'differs' if len(ranks) == 1 else 'differ'} by {worst.size:.1e} "
            f"(rounding explains {worst.explained:.1e})"
        ]
    return []


def _finite(size: float) -> float:
    return size if math.isfinite(size) else math.inf


def _worst(oracle: Strategy, part: str, difference: NDArray, explained: NDArray) -> Found | None:
    """Find the element that exceeds by most what rounding explains, and name its parameter."""
    size = np.abs(difference)
    size[np.isnan(size)] = np.inf
    beyond = size > explained
    if not beyond.any():
        return None
    at = int(np.argmax(np.where(beyond, size, -1)))
    parameter = next(each for each in oracle.parameters if each.start <= at < each.stop)
    place = f"parameter {parameter.name}, element {at}"
    offsets, layers = oracle.model.offsets, getattr(oracle.model, "layers", None)
    if layers:
        i = int(np.searchsorted(offsets, at, "right")) - 1
        place = f"layer {i} ({_short(layers[i])}), {place}"
    return Found(part, place, float(size[at]), float(explained[at]))


def _short(layer: Layer) -> str:
    text = " ".join(repr(layer).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def _outputs(oracle: Strategy, seen: Seen, batch: Batch, strategy: Strategy) -> list[Found]:
    """Compare the outputs of a rank's layers with those of plain training's for the same inputs."""
    micro_batches = max((micro for _, micro, _, _ in seen.outputs), default=0) + 1
    model: Any = oracle.model
    u = unit_roundoff(model)
    for i, micro, x, y in seen.outputs:
        layer = model.layers[i]
        rows = (
            batch if len(x) == len(batch) else batch.shard(strategy.comm.rank, strategy.comm.size)
        )
        if len(x) != len(rows) and _draws(layer):
            continue  # masks belong to rows, and these are unknown
        with rows_of(rows):
            expected = layer.forward(x.copy())[0]
        if expected.shape != y.shape:
            continue
        weight = max([1.0, *(float(np.abs(p).max(initial=0)) for p in layer.params)])
        longest = max([1, *(max(shape, default=1) for shape in layer.shapes)])
        scale = max(np.abs(expected).max(initial=0), weight * np.abs(x).max(initial=0))
        limit = growth(longest, u) * float(scale)
        size = float(np.abs(y - expected).max(initial=0))
        if not size <= limit:
            place = f"layer {i} ({_short(layer)})"
            if micro_batches > 1:
                place += f", micro-batch {micro}"
            return [Found("forward", place, size, limit)]
    return []


def _draws(layer: Layer) -> bool:
    return "dropout" in repr(layer).lower()


@contextmanager
def _watching(strategy: Strategy, oracle: Strategy) -> Iterator[Seen]:
    """Note what a rank does in the steps of the `with` block."""
    seen, undo = Seen(), []

    def wrap(owner: Any, name: str, after: Callable[[Any, tuple], None], before: Any = None):
        real = getattr(owner, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            kept = before(args) if before else args
            result = real(*args, **kwargs)
            after(result, kept)
            return result

        shadowed = owner.__dict__.get(name)
        setattr(owner, name, wrapped)
        undo.append((owner, name, shadowed))

    def note_share(_: Any, __: tuple) -> None:
        if not getattr(strategy, "_pending", None):  # otherwise it is being summed
            seen.share = np.array(strategy.model.grads)

    def note_given(args: tuple) -> tuple:
        seen.given = np.array(args[1])
        return args

    def note_output(i: int) -> Callable[[Any, tuple], None]:
        def note(result: Any, kept: tuple) -> None:
            micro = sum(layer == i for layer, *_ in seen.outputs)
            seen.outputs.append((i, micro, kept[0], np.array(result[0])))

        return note

    wrap(strategy, "gradients", note_share)
    wrap(strategy.optimizer, "step", lambda *_: None, note_given)
    for i, layer in _layers(strategy, oracle):
        wrap(layer, "forward", note_output(i), lambda args: (np.array(args[0]),))
    try:
        yield seen
    finally:
        for owner, name, shadowed in undo:
            if shadowed is None:
                delattr(owner, name)
            else:
                setattr(owner, name, shadowed)


def _layers(strategy: Strategy, oracle: Strategy) -> Iterator[tuple[int, Layer]]:
    """Yield the layers that this rank computes as plain training does, with their numbers."""
    theirs = getattr(oracle.model, "layers", [])
    model: Any = strategy.model
    whole = getattr(strategy, "_layers", getattr(model, "layers", []))
    pieces = [(0, len(theirs), whole)]
    if hasattr(model, "_stages"):  # of a pipeline
        pieces = [
            (model._bounds[stage], model._bounds[stage + 1], part.layers)
            for stage, part in model._stages.items()
        ]
    for lo, hi, ours in pieces:
        for i, layer in zip(range(lo, hi), ours if len(ours) == hi - lo else []):
            if isinstance(layer, type(theirs[i])) and layer.shapes == theirs[i].shapes:
                yield i, layer
