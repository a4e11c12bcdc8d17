"""From one report per rank to the report that all ranks share.

Failed anywhere is failed everywhere, with the tracebacks of the ranks that failed. A test that is
skipped, or fails as expected, on some ranks only is a failure too: the ranks have taken different
paths through it.
"""

from dataclasses import dataclass
from typing import Any

import pytest

from tests.ranks.mpi import MPI
from tests.ranks.watchdog import Interrupted, Overrun

# Open MPI reports some revocations and deaths as "known error not in list".
_CONSEQUENCE = {
    MPI.ERR_REVOKED,
    MPI.ERR_PROC_FAILED,
    MPI.ERR_PROC_FAILED_PENDING,
    MPI.ERR_OTHER,
}


@dataclass(frozen=True)
class Word:
    """What one rank has to say about one phase of one test."""

    outcome: str  # passed, failed, skipped, xfailed or xpassed
    text: str = ""  # the traceback, with captured output; the reason of a skip or xfail
    crash: str = ""  # its last line
    consequence: bool = False  # an MPI error that only says that another rank has gone or failed
    idle: bool = False  # this rank does not take part in the test


def word(
    report: pytest.TestReport, call: pytest.CallInfo[Any], overrun: Overrun | None, idle: bool
) -> Word:
    """This rank's word; ``overrun`` if it did not leave the phase by itself."""
    if overrun is not None:
        text = f"{overrun.reason}; it was here:\n{overrun.stack}"
        if call.excinfo and not (call.excinfo.errisinstance(Interrupted) or _passed_on(call)):
            text += f"\nand then:\n{_failure(report)}"
        return Word("failed", text, overrun.reason, consequence=overrun.forced, idle=idle)
    if hasattr(report, "wasxfail"):
        return Word("xpassed" if report.passed else "xfailed", report.wasxfail, idle=idle)
    if report.skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        return Word("skipped", str(reason).removeprefix("Skipped: "), idle=idle)
    if report.passed:
        return Word("passed", idle=idle)
    crash = call.excinfo.exconly().splitlines()[0] if call.excinfo else report.longreprtext
    if call.excinfo and _passed_on(call):
        place = [e for e in call.excinfo.traceback if str(e.path).endswith(".py")][-1]
        crash = f"{crash}, at {place.path}:{place.lineno + 1}"
    return Word("failed", _failure(report), crash, _passed_on(call), idle)


def _passed_on(call: pytest.CallInfo[Any]) -> bool:
    """Whether the error only says that communication with another rank has ended."""
    error = call.excinfo.value if call.excinfo else None
    return isinstance(error, MPI.Exception) and error.Get_error_class() in _CONSEQUENCE


def _failure(report: pytest.TestReport) -> str:
    captured = "".join(f"\n--- {title} ---\n{content}" for title, content in report.sections)
    return report.longreprtext + captured


class Failure:
    """What pytest shows as a report's ``longrepr``: a block per rank that has something to say."""

    def __init__(self, blocks: list[tuple[str, str]], crash: str, path: str) -> None:
        self.blocks = blocks
        self.reprcrash = _Crash(crash, path)

    def toterminal(self, terminal: Any) -> None:
        for title, text in self.blocks:
            terminal.sep("_ ", title, red=True, bold=True)
            terminal.line(text)

    def __str__(self) -> str:
        return "\n".join(f"_ {title} _\n{text}" for title, text in self.blocks)


@dataclass(frozen=True)
class _Crash:
    """The one line that pytest's short summary shows."""

    message: str
    path: str
    lineno: int = 0

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True)
class Verdict:
    """What all ranks report: an outcome, and either a reason (skip, xfail) or a failure."""

    outcome: str
    reason: str = ""
    failure: Failure | None = None


def agreed(words: dict[int, Word], dead: dict[int, str], path: str = "") -> Verdict:
    """One verdict from the ``words`` of the survivors and what is known of the ``dead`` ranks."""
    failed = {rank: w for rank, w in words.items() if w.outcome == "failed"}
    if dead or failed:
        return Verdict("failed", failure=_all_failures(words, failed, dead, path))
    # Idle ranks run no body: they have nothing to say unless something happened to them.
    counted = {r: w for r, w in words.items() if not w.idle} or words
    outcomes = {w.outcome for w in counted.values()}
    if len(outcomes) == 1:
        first = next(iter(counted.values()))
        return Verdict(first.outcome, reason=first.text)
    listing = "\n".join(f"rank {r}: {w.outcome} {w.text}".rstrip() for r, w in counted.items())
    crash = "the ranks disagree: " + ", ".join(sorted(outcomes))
    return Verdict("failed", failure=Failure([(crash, listing)], crash, path))


def _all_failures(
    words: dict[int, Word], failed: dict[int, Word], dead: dict[int, str], path: str
) -> Failure:
    blocks = [(f"rank {rank} died", notes) for rank, notes in dead.items()]
    crashes = [f"rank {rank} died" for rank in dead]
    causes = {r: w for r, w in failed.items() if not w.consequence}
    if not causes and not dead:
        causes = failed
    for crash in dict.fromkeys(w.crash for w in causes.values()):
        ranks = ", ".join(str(r) for r, w in causes.items() if w.crash == crash)
        crashes.append(f"rank {ranks}: {crash}")
    for rank, w in causes.items():
        blocks.append((f"rank {rank} failed", w.text))
    others = [
        f"rank {r}: "
        + (w.crash if r in failed else "idle" if w.idle else f"{w.outcome} {w.text}".rstrip())
        for r, w in words.items()
        if r not in causes
    ]
    if others:
        blocks.append(("the other ranks", "\n".join(others)))
    return Failure(blocks, "; ".join(crashes), path)


def apply(verdict: Verdict, report: pytest.TestReport) -> None:
    """Make ``report`` say what was agreed."""
    if hasattr(report, "wasxfail"):
        del report.wasxfail
    report.outcome = "failed"
    if verdict.failure is not None:
        report.longrepr = verdict.failure  # type: ignore[assignment]
        report.sections = []
    elif verdict.outcome == "passed":
        report.outcome, report.longrepr = "passed", None
    elif verdict.outcome == "skipped":
        report.outcome = "skipped"
        if not isinstance(report.longrepr, tuple):
            report.longrepr = (report.location[0], report.location[1] or 0, verdict.reason)
    else:
        report.outcome = "skipped" if verdict.outcome == "xfailed" else "passed"
        report.wasxfail = verdict.reason
