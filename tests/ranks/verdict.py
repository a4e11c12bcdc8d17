"""Turn one report per rank into the verdict that all ranks report.

A phase that failed on any rank has failed on all, with the tracebacks of the ranks that failed. A
test that is skipped or xfailed on some ranks only has failed too, because the ranks have taken
different paths through it.
"""

from dataclasses import dataclass
from typing import Any

import pytest

from .mpi import MPI
from .watchdog import Interrupted, Overrun

# Open MPI reports some revocations and deaths as "known error not in list".
_CONSEQUENCE = {
    MPI.ERR_REVOKED,
    MPI.ERR_PROC_FAILED,
    MPI.ERR_PROC_FAILED_PENDING,
    MPI.ERR_OTHER,
}

_STALE = """\
A fault revokes all communicators that were made before it: MPI has no other way to free ranks that
wait for a rank that never comes. MPI.COMM_WORLD has been renewed since, and fixtures of all scopes
are set up again. This communicator is held elsewhere, e.g. by a module: make it in a fixture."""


@dataclass(frozen=True)
class PhaseReport:
    """One rank's report of one phase (setup, call or teardown) of one test."""

    outcome: str  # passed, failed, skipped, xfailed or xpassed
    text: str = ""  # the traceback with captured output, or the reason of a skip or xfail
    summary: str = ""  # the one line that says what failed
    consequence: bool = False  # the error only says that another rank has failed or died
    idle: bool = False  # this rank does not take part in the test


def own_report(
    report: pytest.TestReport, call: pytest.CallInfo[Any], overrun: Overrun | None, idle: bool
) -> PhaseReport:
    """Return this rank's report of a phase.

    Args:
        report: what pytest reports of the phase on this rank.
        call: how the phase ended.
        overrun: given if the rank had to be taken out of the phase.
        idle: whether this rank does not take part in the test.
    """
    if overrun is not None:
        text = f"{overrun.reason}; it was here:\n{overrun.stack}"
        if call.excinfo and not (call.excinfo.errisinstance(Interrupted) or _is_consequence(call)):
            text += f"\nand then:\n{_failure(report)}"
        return PhaseReport("failed", text, overrun.reason, consequence=overrun.forced, idle=idle)
    if hasattr(report, "wasxfail"):
        return PhaseReport("xpassed" if report.passed else "xfailed", report.wasxfail, idle=idle)
    if report.skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        return PhaseReport("skipped", str(reason).removeprefix("Skipped: "), idle=idle)
    if report.passed:
        return PhaseReport("passed", idle=idle)
    summary = call.excinfo.exconly().splitlines()[0] if call.excinfo else report.longreprtext
    if call.excinfo and _is_consequence(call):
        place = [e for e in call.excinfo.traceback if str(e.path).endswith(".py")][-1]
        summary = f"{summary}, at {place.path}:{place.lineno + 1}"
    return PhaseReport("failed", _failure(report), summary, _is_consequence(call), idle)


def _is_consequence(call: pytest.CallInfo[Any]) -> bool:
    """Return whether the error only says that communication with another rank has ended."""
    error = call.excinfo.value if call.excinfo else None
    return isinstance(error, MPI.Exception) and error.Get_error_class() in _CONSEQUENCE


def _failure(report: pytest.TestReport) -> str:
    captured = "".join(f"\n--- {title} ---\n{content}" for title, content in report.sections)
    return report.longreprtext + captured


class Failure:
    """The ``longrepr`` that pytest shows: one section per rank that failed or died."""

    def __init__(self, sections: list[tuple[str, str]], summary: str, path: str) -> None:
        self.sections = sections  # title and text of each
        self.reprcrash = _Crash(summary, path)

    def toterminal(self, terminal: Any) -> None:
        for title, text in self.sections:
            terminal.sep("_ ", title, red=True, bold=True)
            terminal.line(text)

    def __str__(self) -> str:
        return "\n".join(f"_ {title} _\n{text}" for title, text in self.sections)


@dataclass(frozen=True)
class _Crash:
    """The line that pytest's short summary shows."""

    message: str
    path: str
    lineno: int = 0

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True)
class Verdict:
    """An outcome that all ranks share, with the reason of a skip or xfail, or with the failure."""

    outcome: str
    reason: str = ""
    failure: Failure | None = None


def agree(
    reports: dict[int, PhaseReport], dead: dict[int, str], path: str = "", fault: str = ""
) -> Verdict:
    """Return the verdict on a phase.

    Args:
        reports: by rank, the reports of the survivors.
        dead: by rank, what is known about the end of each rank that died in the phase.
        path: the file of the test.
        fault: the phase of an earlier fault, which revoked all communicators of its time.
    """
    failed = {rank: r for rank, r in reports.items() if r.outcome == "failed"}
    if dead or failed:
        return Verdict("failed", failure=_all_failures(reports, failed, dead, path, fault))
    # Idle ranks run no body, so their outcome counts only if all ranks are idle.
    counted = {rank: r for rank, r in reports.items() if not r.idle} or reports
    outcomes = {r.outcome for r in counted.values()}
    if len(outcomes) == 1:
        first = next(iter(counted.values()))
        return Verdict(first.outcome, reason=first.text)
    listing = "\n".join(f"rank {rank}: {_outcome_line(r)}" for rank, r in counted.items())
    summary = "the ranks disagree: " + ", ".join(sorted(outcomes))
    return Verdict("failed", failure=Failure([(summary, listing)], summary, path))


def _all_failures(
    reports: dict[int, PhaseReport],
    failed: dict[int, PhaseReport],
    dead: dict[int, str],
    path: str,
    fault: str,
) -> Failure:
    sections = [(f"rank {rank} died", notes) for rank, notes in dead.items()]
    summaries = [f"rank {rank} died" for rank in dead]
    causes = {rank: r for rank, r in failed.items() if not r.consequence}
    if not causes and not dead:
        causes = failed
        if fault:
            # No rank has failed by itself: they used what an earlier fault has revoked.
            summaries.append(f"a communicator made before the fault in {fault}")
            sections.append((summaries[-1], _STALE))
    for summary in dict.fromkeys(r.summary for r in causes.values()):
        ranks = ", ".join(str(rank) for rank, r in causes.items() if r.summary == summary)
        summaries.append(f"rank {ranks}: {summary}")
    sections += [(f"rank {rank} failed", r.text) for rank, r in causes.items()]
    others = [
        f"rank {rank}: {_outcome_line(r)}" for rank, r in reports.items() if rank not in causes
    ]
    if others:
        sections.append(("the other ranks", "\n".join(others)))
    return Failure(sections, "; ".join(summaries), path)


def _outcome_line(report: PhaseReport) -> str:
    if report.outcome == "failed":
        return report.summary
    return "idle" if report.idle else f"{report.outcome} {report.text}".rstrip()


def apply(verdict: Verdict, report: pytest.TestReport) -> None:
    """Make pytest's ``report`` show the verdict."""
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
