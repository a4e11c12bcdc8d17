"""The results that a page shows, and where each of them was measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from bench.report.kinds import Measurement  # importing the module makes all kinds known
from strategies.records import Record, Run, read

R = TypeVar("R", bound=Record)
T = TypeVar("T")

ENOUGH = 0.5
"""A newer run takes the place of an older one if it has at least this share of its results: a run
of a few tests does not displace one of all."""


@dataclass(frozen=True)
class Source:
    """A run file, as far as it can be read."""

    path: Path
    run: Run

    @property
    def date(self) -> str:
        return str(self.run.header.get("date", ""))


@dataclass
class Records:
    """Results of one or several runs.

    Attributes:
        damaged: what could not be read, as sentences.
    """

    sources: list[Source] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._source = {id(record): each for each in self.sources for record in each.run.records}

    def of(self, kind: type[R], *files: str) -> list[R]:
        """The results of a kind, in the order in which they were measured.

        Args:
            files: names of the benchmark files that measured them, without ".py"; by default all.
        """
        return [
            record
            for record in self.records
            if isinstance(record, kind) and (not files or measured_by(record) in files)
        ]

    def source(self, record: Record) -> Source | None:
        """The run file that a result stands in; None if it stands in none of these."""
        return self._source.get(id(record))


def measured_by(record: Record) -> str:
    """The name of the benchmark file that made a result, without ".py"; "" if it does not say."""
    return Path(str(record.other_keys.get("nodeid", "")).partition("::")[0]).stem


def load(paths: Iterable[Path]) -> tuple[list[Source], list[str]]:
    """Read run files, oldest first; those that cannot be read, and lines, are named and left out.

    Returns:
        The files, and a sentence for each that is damaged.
    """
    sources, damaged = [], []
    for path in paths:
        try:
            run = read(path)
        except OSError as error:
            damaged.append(f"{path} was left out: {error}")
            continue
        damaged += [f"{path}, line {line} was left out: {problem}" for line, problem in run.damaged]
        if run.records:
            sources.append(Source(path, run))
        elif not run.damaged:
            damaged.append(f"{path} was left out: it has no results")
    return sorted(sources, key=lambda source: source.date), damaged


def everything(sources: Sequence[Source], damaged: Sequence[str] = ()) -> Records:
    """All results of some run files."""
    records = [record for source in sources for record in source.run.records]
    return Records(list(sources), records, list(damaged))


def newest(sources: Sequence[Source], damaged: Sequence[str] = ()) -> Records:
    """Of every kind of result of every benchmark file, those of the newest run that has them.

    A run that has fewer than half (`ENOUGH`) as many as the largest is passed over.
    """
    found: dict[tuple[str, str], list[tuple[Source, list[Record]]]] = {}
    for source in sources:
        groups: dict[tuple[str, str], list[Record]] = {}
        for record in source.run.records:
            groups.setdefault((record.kind, measured_by(record)), []).append(record)
        for key, group in groups.items():
            found.setdefault(key, []).append((source, group))
    chosen: list[Record] = []
    for runs in found.values():
        most = max(len(group) for _, group in runs)
        chosen += next(group for _, group in reversed(runs) if len(group) >= ENOUGH * most)
    kept = {id(record) for record in chosen}
    used = [s for s in sources if any(id(record) in kept for record in s.run.records)]
    return Records(used, chosen, list(damaged))


def strategies_of(cells: Iterable[Measurement]) -> list[str]:
    """Names of strategies, each once, in the order in which they were measured."""
    return list(dict.fromkeys(m.cell.strategy for m in cells))


def chunked(names: Sequence[T], size: int) -> list[Sequence[T]]:
    """Things in groups of at most so many, since no more can be told apart in one figure."""
    return [names[at : at + size] for at in range(0, len(names), size)]
