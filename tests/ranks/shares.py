"""Tests that need one rank, shared out: the ranks run them side by side, and meet after them.

With ``--share``, for proofs; what is measured has to be alone. In every file these tests come
first. Such tests in a row, a stretch, are dealt to the ranks in turn; each rank keeps what it has
to say of its own. Where the stretch ends they tell each other, and all report all of it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any, Literal

import pytest

from tests.ranks import groups, verdict


@dataclass
class Stretch:
    """Tests between two meetings, and what this rank has to say of those that it has run."""

    items: list[pytest.Item]
    said: list[dict[str, Any]] = field(default_factory=list)  # one per phase, as JSON
    revoked: bool = False  # whether this rank has revoked a communicator of its own meanwhile

    def keep(self, word: verdict.Word, report: pytest.TestReport) -> None:
        """Keep this rank's word on a phase until the ranks meet."""
        self.said.append(
            {
                "nodeid": report.nodeid,
                "word": asdict(word),
                "when": report.when,
                "duration": report.duration,
                "start": report.start,
                "stop": report.stop,
                "sections": report.sections,
                "user_properties": [[name, str(value)] for name, value in report.user_properties],
            }
        )

    def failures(self) -> str:
        """The failures that this rank has seen, in case that it is the last to tell."""
        texts = [said["word"]["text"] for said in self.said if said["word"]["outcome"] == "failed"]
        return "\n".join(texts)


@dataclass(frozen=True)
class Share:
    """Whose a test is."""

    owner: int  # a rank in COMM_WORLD
    stretch: Stretch

    def ends(self, item: pytest.Item) -> bool:
        """Whether the ranks meet after ``item``."""
        return item is self.stretch.items[-1]


SHARE = pytest.StashKey[Share]()


def of(item: pytest.Item) -> Share | None:
    """The share that a test belongs to; None if all ranks take part in it."""
    return item.stash.get(SHARE, None)


def deal(items: Sequence[pytest.Item], size: int) -> list[pytest.Item]:
    """The tests in a new order, those that need one rank dealt to ``size`` ranks."""
    files = [list(tests) for _, tests in groupby(items, lambda item: item.path)]
    ordered = [item for tests in files for item in sorted(tests, key=_takes_many)]
    for many, tests in groupby(ordered, _takes_many):
        if not many:
            stretch = Stretch(list(tests))
            for k, item in enumerate(stretch.items):
                item.stash[SHARE] = Share(k % size, stretch)
    return ordered


def _takes_many(item: pytest.Item) -> bool:
    alone = item.get_closest_marker("alone") is not None
    return alone or groups.workers_of(item, 2) > 1


def following(items: Sequence[pytest.Item], rank: int) -> dict[pytest.Item, pytest.Item | None]:
    """For each test that ``rank`` runs, the next one that it runs."""
    own = [item for item in items if (share := of(item)) is None or share.owner == rank]
    return dict(zip(own, [*own[1:], None]))


def reports(
    stretch: Stretch, answers: dict[int, dict[str, Any]], dead: dict[int, str]
) -> Iterator[tuple[pytest.Item, list[pytest.TestReport]]]:
    """Each test of a stretch with its reports, from what the survivors have ``said`` of theirs.

    Of the tests of a rank that has died meanwhile, the one that it was in has failed; nothing is
    known of the others.
    """
    phases: dict[str, list[dict[str, Any]]] = {}
    for answer in answers.values():
        for said in answer["said"]:
            phases.setdefault(said.pop("nodeid"), []).append(said)
    for item in stretch.items:
        rank = item.stash[SHARE].owner
        told = [_report(item, rank, **said) for said in phases.get(item.nodeid, [])]
        yield item, told or [_lost(item, rank, dead.get(rank, ""))]


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


def _lost(item: pytest.Item, rank: int, last_words: str) -> pytest.TestReport:
    report = _blank(item, when="setup")
    if running(item) in last_words.splitlines():
        verdict.apply(verdict.agreed({}, {rank: last_words}, item.location[0]), report)
    else:
        reason = f"not run, or not reported: rank {rank} has died, whose share it was"
        verdict.apply(verdict.Verdict("skipped", reason), report)
    return report
