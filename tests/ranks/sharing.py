"""The option ``--share``: hooks that have each rank run its share of the tests that need one rank.

The ranks run their shares side by side and meet every few seconds. ``shares`` says which rank runs
which test. It is meant for proofs: a test that measures must have the machine to itself.

Only the warnings of rank 0's tests are shown.
"""

import time
from typing import Any

import pytest
from _pytest import runner
from _pytest.warnings import catch_warnings_for_item

from . import groups, shares
from .run import Run
from .verdict import PhaseReport


class Sharing:
    """Runs the tests of a block, each on one rank, and reports them on all."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.block: shares.SharedBlock | None = None  # the block that is being run

    @pytest.hookimpl(trylast=True)
    def pytest_collection_finish(self, session: pytest.Session) -> None:
        session.items = shares.arrange(session.items)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> bool | None:
        if block := shares.block_of(item):
            if item is block.items[0]:
                self._run(block)
            return True
        if coming := shares.block_of(nextitem):
            coming.assign(range(len(coming.items)), self.run.control.alive)
            following = coming.next_test(None, self.run.control.rank)
            return runner.pytest_runtest_protocol(item, following)
        return None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        # If a rank has died, the last test was set up for another next test than this one.
        item.session._setupstate.teardown_exact(item)
        if shares.block_of(item):
            item.stash[groups.GROUP] = groups.solo_group()

    def record(
        self,
        block: shares.SharedBlock,
        item: pytest.Item,
        own: PhaseReport,
        report: pytest.TestReport,
    ) -> None:
        """Keep the report of a phase of one of this rank's own tests."""
        block.record(item, own, report)
        if own.outcome == "failed":
            self.run.watchdog.table.note_failure(item.nodeid, own.summary)
        overrun = self.run.watchdog.overrun
        if overrun and overrun.forced:
            block.interrupted = True

    def patience(self) -> float:
        """Return how many seconds another rank may take to come to a meeting."""
        if self.block is None:
            return self.run.deadline
        return shares.MEET_EVERY + 3 * max(map(self.run.deadline_of, self.block.items))

    def message(self) -> dict[str, Any]:
        """Return the reports that the other ranks do not have yet."""
        return self.block.message() if self.block else {}

    def report_unfinished(self) -> None:
        """Show what is known of a block in the middle of which the run ends."""
        if self.block is None:
            return
        latest, message = self.run.meeting.latest, self.block.message()
        if not latest and self.run.control.rank > 0:
            self.run.watchdog.print_now(message["report"]["text"])
        self._show(self.block, latest or {self.run.control.rank: message}, {})

    def _run(self, block: shares.SharedBlock) -> None:
        """Run the tests of a block, each on one rank, and report them on all."""
        session, self.block = block.items[0].session, block
        block.assign(range(len(block.items)), self.run.control.alive)
        while block.owners and not (session.shouldfail or session.shouldstop):
            self._run_own(block)
            self._meet(block)
        self.block = None

    def _run_own(self, block: shares.SharedBlock) -> None:
        """Run this rank's tests, until it is time to meet."""
        rank, watchdog = self.run.control.rank, self.run.watchdog
        end = time.monotonic() + shares.MEET_EVERY
        self.run.control.apart = True
        for item in block.tests_of(rank):
            watchdog.reset_notes(shares.running(item))
            following = block.next_test(item, rank)
            # pytest has set up the filters for warnings of the block's first test only.
            with catch_warnings_for_item(item.config, item.ihook, "runtest", item):
                runner.runtestprotocol(item, log=False, nextitem=following)
            if block.interrupted:
                block.discard(item)
            leaving = watchdog.table.leaving.exists()
            if block.interrupted or leaving or time.monotonic() > end:
                break
        self.run.control.apart = False
        watchdog.reset_notes(shares.WAITING)

    def _meet(self, block: shares.SharedBlock) -> None:
        """Exchange and show the reports; after a death, assign the remaining tests again."""
        left = [block.items[k] for k in block.owners]
        topic = f"shares of {len(left)} tests from {left[0].nodeid}"
        messages, dead = self.run.exchange_and_bury(topic, block.message(), self.patience())
        block.reset()
        self.run.watchdog.reset_notes("")
        self.run.finish_test()
        if 0 in dead:
            failures = [message["report"]["text"] for message in messages.values()]
            self.run.exit_without_rank_0("\n".join([topic, dead[0], *failures]))
        self._show(block, messages, dead)
        if dead:
            block.assign(block.owners, self.run.control.alive)

    def _show(
        self, block: shares.SharedBlock, messages: dict[int, dict[str, Any]], dead: dict[int, str]
    ) -> None:
        for item, reports in block.merge(messages, dead):
            item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
            for report in reports:
                item.ihook.pytest_runtest_logreport(report=report)
            item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
