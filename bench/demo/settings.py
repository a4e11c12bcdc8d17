"""What a race is, as the page asks for it and the record keeps it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from bench.core.cores import available
from bench.demo.nets import DTYPES, NETS, why_not
from bench.demo.sources import Source
from nn.plain_json import build, other_keys
from strategies.catalog import select

FEWEST, MOST = 2, 4
"""Lanes of a race."""

MOST_EPOCHS = 200
LARGEST_BATCH = 8192
LARGEST_RATE = 10.0

T = TypeVar("T")


def strategies() -> dict[str, str]:
    """Strategies that can be raced -> why they train other weights than plain training, or ""."""
    found = {"Sequential": ""}
    for use in ("grid", "race"):
        found |= {name: entry.inexact for name, entry in select(use).items()}
    return found


def most_workers() -> int:
    """The most workers of a lane: twice the cores, so that crowding can be seen too."""
    return min(16, 2 * available())


@dataclass(frozen=True)
class LaneSettings:
    """What one lane trains, and how."""

    net: str
    strategy: str
    workers: int
    batch_size: int
    learning_rate: float

    @property
    def title(self) -> str:
        """The lane in a few words."""
        return f"{self.net}, {self.strategy}" + (f", {self.workers} workers" * (self.workers > 1))


@dataclass(frozen=True)
class RaceSettings:
    """A race.

    Attributes:
        data: name of a `Source`.
        epochs: of every lane.
        target: share of the test pictures that is to be read right.
        together: whether all lanes train at the same time, in place of taking turns.
        dtype: of the numbers: "float32", or "float64", in which rounding stays far smaller.
    """

    data: str
    epochs: int
    target: float
    together: bool
    dtype: str
    lanes: list[LaneSettings] = field(default_factory=list)


def checked(keys: Any, cls: type[T]) -> T:
    """Make a dataclass of what a browser sent.

    Raises:
        ValueError: a key is missing or unknown, or holds something else than it should.
    """
    if not isinstance(keys, Mapping):
        raise ValueError(f"expected an object, not {keys!r:.40}")
    made = build(cls, keys)
    if unknown := sorted(other_keys(made)):
        raise ValueError(f"{unknown[0]!r:.40}: no such key is expected")
    return made


def race_settings(keys: Any, sources: Mapping[str, Source]) -> RaceSettings:
    """Make the settings of a race of what a browser sent.

    Raises:
        ValueError: they are no race; the message says what was expected.
    """
    race = checked(keys, RaceSettings)
    if race.data not in sources:
        raise ValueError(f"data={race.data!r:.40}: expected one of {', '.join(sources)}")
    source = sources[race.data]
    if source.missing:
        raise ValueError(f"data={race.data!r}: {source.missing}")
    _within("epochs", race.epochs, 1, MOST_EPOCHS)
    _within("target", race.target, 0.01, 1)
    _within("the number of lanes", len(race.lanes), FEWEST, MOST)
    if race.dtype not in DTYPES:
        raise ValueError(f"dtype={race.dtype!r:.40}: expected one of {', '.join(DTYPES)}")
    known = strategies()
    for number, lane in enumerate(race.lanes, 1):
        _check_lane(f"lane {number}: ", lane, source, known)
    return race


def _check_lane(place: str, lane: LaneSettings, source: Source, known: Mapping[str, str]) -> None:
    for name, value, names in (("net", lane.net, NETS), ("strategy", lane.strategy, known)):
        if value not in names:
            raise ValueError(f"{place}{name}={value!r:.40}: expected one of {', '.join(names)}")
    if other_keys(lane):
        raise ValueError(f"{place}{sorted(other_keys(lane))[0]!r:.40}: no such key is expected")
    if why := why_not(lane.net, source.shape):
        raise ValueError(place + why)
    _within(f"{place}workers", lane.workers, 1, most_workers())
    if lane.strategy == "Sequential" and lane.workers > 1:
        raise ValueError(f"{place}Sequential is plain training in one process: expected 1 worker")
    _within(f"{place}batch_size", lane.batch_size, 1, LARGEST_BATCH)
    _within(f"{place}learning_rate", lane.learning_rate, 1e-6, LARGEST_RATE)


def _within(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise ValueError(f"{name}={value}: expected from {least:g} to {most:g}")
