"""The ranges of a model's flat vector that each layer computes with."""

from typing import NamedTuple

from nn.model import Model


class Span(NamedTuple):
    """Elements `start` to `stop` - 1, and whether a later layer has them too (tied weights)."""

    start: int
    stop: int
    adds: bool = False

    @property
    def size(self) -> int:
        return self.stop - self.start

    def part(self, lo: int, hi: int) -> int:
        """Count the elements that lie in lo to hi - 1."""
        return max(0, min(hi, self.stop) - max(lo, self.start))


def spans_of(model: Model) -> list[list[Span]]:
    """Return the spans of every layer: its own parameters, then those that it borrows.

    A layer that shares no weights has one span, and a layer without parameters none. Parameters
    that lie side by side are in one span if all or none of them are tied to a later layer.
    """
    place = {parameter.name: parameter for parameter in model.parameters}
    found: list[list[Span]] = []
    later: set[str] = set()
    for layer, lo, hi in reversed([*zip(model.layers, model.offsets, model.offsets[1:])]):
        spans = [Span(lo, hi)] if hi > lo and not layer.shareable else []
        for name in (*layer.names, *layer.borrowed) if layer.shareable else ():
            start, adds = place[name].start, name in later
            if spans and spans[-1][1:] == (start, adds):
                start = spans.pop().start
            spans.append(Span(start, place[name].stop, adds))
        later.update(layer.shareable)
        found.insert(0, spans)
    return found
