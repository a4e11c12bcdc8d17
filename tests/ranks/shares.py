"""Tests that need one rank, shared out: the ranks run them side by side, and meet after them.

With ``--share``, for proofs; what is measured has to be alone. In every file these tests come
first. Such tests in a row, a stretch, are dealt to the ranks; each keeps what it has to say of its
own. Every few seconds they meet, tell each other, and all report all of it. If a rank has died, the
test that it was in has failed, and what else is left is dealt again.

Warnings are shown of rank 0's tests alone.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any, Literal

import pytest

from tests.ranks import groups, verdict

TURN = 10.0
"""Seconds after which the ranks meet, whatever is left. The last test of each may take longer."""

WAITING = "It was in no test, and waited for the other ranks"
"""What a rank writes down before a meeting."""


@dataclass
class Stretch:
    """Tests in a row that need one rank, and what this rank has to say of them at the next meeting.

    What is said is JSON, one per phase, in which a test is its index among ``items``.
    """

    items: list[pytest.Item]
    after: pytest.Item | None  # what all ranks run next
    owners: dict[int, int] = field(default_factory=dict)  # by test that is left, a world rank
    said: list[dict[str, Any]] = field(default_factory=list)
    revoked: bool = False  # whether this rank has revoked a communicator of its own
    interrupted: bool = False  # whether this rank had to leave a test, since another rank has gone

    def deal(self, left: Iterable[int], alive: Sequence[int]) -> None:
        """Give the tests that are left to the ranks in turn."""
        self.owners = {k: alive[i % len(alive)] for i, k in enumerate(left)}

    def own(self, rank: int) -> list[pytest.Item]:
        """What is left for ``rank`` to run."""
        return [self.items[k] for k, owner in self.owners.items() if owner == rank]

    def following(self, item: pytest.Item | None, rank: int) -> pytest.Item | None:
        """What ``rank`` runs after ``item``, one of its own; by default, its first."""
        own = self.own(rank)
        at = own.index(item) + 1 if item else 0
        return own[at] if at < len(own) else self.after

    def keep(self, item: pytest.Item, word: verdict.Word, report: pytest.TestReport) -> None:
        """Keep this rank's word on a phase until the ranks meet."""
        self.said.append(
            {
                "item": self.items.index(item),
                "word": asdict(word),
                "when": report.when,
                "duration": report.duration,
                "start": report.start,
                "stop": report.stop,
                "sections": report.sections,
                "user_properties": [[name, str(value)] for name, value in report.user_properties],
            }
        )

    def forget(self, item: pytest.Item) -> None:
        """Nothing can be said of ``item``: it is to be run again."""
        self.said = [said for said in self.said if self.items[said["item"]] is not item]

    def tell(self) -> dict[str, Any]:
        """What this rank has to say."""
        words = [said["word"] for said in self.said]
        failures = [word["text"] for word in words if word["outcome"] == "failed"]
        # The word is what is printed at once if the ranks do not come together any more.
        text = "\n".join(failures)
        return {"said": self.said, "revoked": self.revoked, "word": {"text": text}}

    def clear(self) -> None:
        """It is said."""
        self.said, self.revoked, self.interrupted = [], False, False

    def reports(
        self, answers: dict[int, dict[str, Any]], dead: dict[int, str]
    ) -> list[tuple[pytest.Item, list[pytest.TestReport]]]:
        """The tests of which something is known now, and that are left no more, with their reports.

        Args:
            answers: by rank, what the survivors have told.
            dead: by rank that has died since the last meeting, its last words.
        """
        reports: dict[int, list[pytest.TestReport]] = {}
        for rank, answer in answers.items():
            for said in answer.get("said", []):
                k = said.pop("item")
                reports.setdefault(k, []).append(_report(self.items[k], rank, **said))
        for rank, last_words in dead.items():
            lines = last_words.splitlines()
            own = [] if WAITING in lines else self.own(rank)
            # If it has left no word, it may have been in any of them.
            for item in [item for item in own if running(item) in lines] or own:
                reports[self.items.index(item)] = [_death(item, rank, last_words)]
        self.owners = {k: rank for k, rank in self.owners.items() if k not in reports}
        return [(self.items[k], reports[k]) for k in sorted(reports)]


STRETCH = pytest.StashKey[Stretch]()


def of(item: pytest.Item | None) -> Stretch | None:
    """The stretch that a test is in; None if all ranks take part in it."""
    return item.stash.get(STRETCH, None) if item else None


def arrange(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """The tests in a new order, with those that can be shared out in stretches."""
    files = [list(tests) for _, tests in groupby(items, lambda item: item.path)]
    ordered = [item for tests in files for item in sorted(tests, key=_is_for_all)]
    parts = [(for_all, list(tests)) for for_all, tests in groupby(ordered, _is_for_all)]
    for (for_all, tests), after in zip(parts, [*(tests[0] for _, tests in parts[1:]), None]):
        if not for_all:
            stretch = Stretch(tests, after)
            for item in tests:
                item.stash[STRETCH] = stretch
    return ordered


def _is_for_all(item: pytest.Item) -> bool:
    return groups.workers_of(item, 2) > 1 or item.get_closest_marker("alone") is not None


def running(item: pytest.Item) -> str:
    """What a rank writes down before a test of its own."""
    return f"It was in {item.nodeid}"


def _blank(item: pytest.Item, **facts: Any) -> pytest.TestReport:
    keywords: dict[str, Literal[1]] = dict.fromkeys(item.keywords, 1)
    return pytest.TestReport(item.nodeid, item.location, keywords, "passed", None, **facts)


def _report(item: pytest.Item, rank: int, word: dict[str, Any], **facts: Any) -> pytest.TestReport:
    report = _blank(item, **facts)
    agreed = verdict.agreed({rank: verdict.Word(**word)}, {}, item.location[0])
    verdict.apply(agreed, report)
    return report


def _death(item: pytest.Item, rank: int, last_words: str) -> pytest.TestReport:
    report = _blank(item, when="call")
    verdict.apply(verdict.agreed({}, {rank: last_words}, item.location[0]), report)
    return report
