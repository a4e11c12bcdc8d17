"""Assign the tests that need one rank to the ranks, and merge the reports.

Consecutive tests that need one rank form a block. The tests of a block are assigned to the ranks in
turn, and each rank keeps the reports of its own tests until the ranks meet. Then all ranks show all
reports. If a rank has died, the test it was in has failed, and the tests that are left are assigned
again.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any, Literal

import pytest

from . import groups, verdict

MEET_EVERY = 10.0
"""Seconds after which the ranks meet, once each has finished the test it is in."""

WAITING = "It was in no test, and waited for the other ranks"
"""The note of a rank that waits for a meeting."""


@dataclass
class SharedBlock:
    """Consecutive tests that need one rank each, and this rank's reports since the last meeting.

    A report is JSON, one per phase, in which the test is its index in ``items``.
    """

    items: list[pytest.Item]
    after: pytest.Item | None  # the next test, which all ranks run
    owners: dict[int, int] = field(default_factory=dict)  # index of a test that is left -> its rank
    reports: list[dict[str, Any]] = field(default_factory=list)
    interrupted: bool = False  # whether this rank had to leave a test because another rank died

    def assign(self, left: Iterable[int], alive: Sequence[int]) -> None:
        """Assign the tests that are left, given by index, to the ranks in turn."""
        self.owners = {k: alive[i % len(alive)] for i, k in enumerate(left)}

    def tests_of(self, rank: int) -> list[pytest.Item]:
        """Return the tests that are left for ``rank`` to run."""
        return [self.items[k] for k, owner in self.owners.items() if owner == rank]

    def next_test(self, item: pytest.Item | None, rank: int) -> pytest.Item | None:
        """Return the test that ``rank`` runs after its test ``item``; for None its first."""
        own = self.tests_of(rank)
        at = own.index(item) + 1 if item else 0
        return own[at] if at < len(own) else self.after

    def record(
        self, item: pytest.Item, own: verdict.PhaseReport, report: pytest.TestReport
    ) -> None:
        """Keep this rank's report of a phase until the ranks meet."""
        self.reports.append(
            {
                "item": self.items.index(item),
                "report": asdict(own),
                "when": report.when,
                "duration": report.duration,
                "start": report.start,
                "stop": report.stop,
                "sections": report.sections,
                "user_properties": [[name, str(value)] for name, value in report.user_properties],
            }
        )

    def discard(self, item: pytest.Item) -> None:
        """Drop the reports of ``item``, which was interrupted and will run again."""
        self.reports = [entry for entry in self.reports if self.items[entry["item"]] is not item]

    def message(self) -> dict[str, Any]:
        """Return what this rank sends to the others."""
        reports = [entry["report"] for entry in self.reports]
        failures = [report["text"] for report in reports if report["outcome"] == "failed"]
        # The meeting prints this text if the ranks cannot meet any more.
        report = {"text": "\n".join(failures)}
        return {"reports": self.reports, "report": report}

    def reset(self) -> None:
        """Begin anew after a meeting."""
        self.reports, self.interrupted = [], False

    def merge(
        self, messages: dict[int, dict[str, Any]], dead: dict[int, str]
    ) -> list[tuple[pytest.Item, list[pytest.TestReport]]]:
        """Return the tests that have been run with their reports, and remove them from ``owners``.

        Args:
            messages: by rank, the messages of the survivors.
            dead: by rank, what is known about the end of each rank that died since the last
                meeting.
        """
        merged: dict[int, list[pytest.TestReport]] = {}
        for rank, message in messages.items():
            for entry in message.get("reports", []):
                k = entry.pop("item")
                merged.setdefault(k, []).append(_phase(self.items[k], rank, **entry))
        for rank, notes in dead.items():
            lines = notes.splitlines()
            own = [] if WAITING in lines else self.tests_of(rank)
            # Without a note, the rank may have been in any of its tests.
            for item in [item for item in own if running(item) in lines] or own:
                merged[self.items.index(item)] = [_death(item, rank, notes)]
        self.owners = {k: rank for k, rank in self.owners.items() if k not in merged}
        return [(self.items[k], merged[k]) for k in sorted(merged)]


BLOCK = pytest.StashKey[SharedBlock]()


def block_of(item: pytest.Item | None) -> SharedBlock | None:
    """Return the block that a test is in; None if all ranks take part in the test."""
    return item.stash.get(BLOCK, None) if item else None


def arrange(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """Return the tests in a new order: in each file, first the ones that are shared out."""
    files = [list(tests) for _, tests in groupby(items, lambda item: item.path)]
    ordered = [item for tests in files for item in sorted(tests, key=_is_for_all)]
    parts = [(for_all, list(tests)) for for_all, tests in groupby(ordered, _is_for_all)]
    for (for_all, tests), after in zip(parts, [*(tests[0] for _, tests in parts[1:]), None]):
        if not for_all:
            block = SharedBlock(tests, after)
            for item in tests:
                item.stash[BLOCK] = block
    return ordered


def _is_for_all(item: pytest.Item) -> bool:
    return groups.workers_of(item, 2) > 1 or item.get_closest_marker("alone") is not None


def running(item: pytest.Item) -> str:
    """Return the note of a rank that runs a test of its own."""
    return f"It was in {item.nodeid}"


def _blank(item: pytest.Item, **facts: Any) -> pytest.TestReport:
    keywords: dict[str, Literal[1]] = dict.fromkeys(item.keywords, 1)
    return pytest.TestReport(item.nodeid, item.location, keywords, "passed", None, **facts)


def _phase(item: pytest.Item, rank: int, report: dict[str, Any], **facts: Any) -> pytest.TestReport:
    shown = _blank(item, **facts)
    reports = {rank: verdict.PhaseReport(**report)}
    verdict.apply(verdict.agree(reports, {}, item.location[0]), shown)
    return shown


def _death(item: pytest.Item, rank: int, notes: str) -> pytest.TestReport:
    shown = _blank(item, when="call")
    verdict.apply(verdict.agree({}, {rank: notes}, item.location[0]), shown)
    return shown
