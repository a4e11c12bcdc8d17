"""The two answers that stand first: the same weights? does it pay here?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from bench.core.cell import interval
from bench.page.figures import speedup
from bench.page.figures.proof import FAILED, net_kind
from bench.page.records import Records
from bench.page.table import Table
from bench.page.words import counted
from bench.report.kinds import Measurement, Mutant, Proof, WrongCell
from bench.report.proofs import Comparison


@dataclass(frozen=True)
class Answer:
    """A question with its answer in a sentence, and the table that it stands on."""

    question: str
    sentence: str
    table: Table | None = None
    notes: Sequence[str] = field(default_factory=tuple)


def answers(records: Records) -> list[Answer]:
    return [same_weights(records), it_pays(records)]


def same_weights(records: Records) -> Answer:
    """Say how many trainings were compared with their oracle, and how far the worst was off."""
    question = "Does the parallel version still learn the same weights?"
    proofs, mutants = records.of(Proof), records.of(Mutant)
    wrong = records.of(WrongCell)
    compared = [(c, p) for p in proofs for c in p.comparisons]
    failed = [p for p in proofs if p.outcome in FAILED]
    if not compared:
        return Answer(
            question, "Not proven yet: `nox -s correctness` does so.", notes=_wrong_notes(wrong)
        )
    off = [c for c, _ in compared if not c.error <= c.tolerance]
    worst = max((c.error / c.tolerance for c, _ in compared if c.tolerance), default=0.0)
    passed = sum(p.outcome == "passed" for p in proofs)
    if failed or off:
        sentence = (
            f"No: {counted(len(failed), 'test')} of {len(proofs):,} failed, and "
            f"{counted(len(off), 'training')} of {len(compared):,} left the sequential weights."
        )
    else:
        sentence = (
            f"Yes: in all {len(compared):,} trainings that were compared with sequential training. "
            f"The worst error is {worst:.1%} of what rounding may cause."
        )
    if mutants:
        caught = sum(m.caught for m in mutants)
        sentence += f" The tests caught {caught} of {counted(len(mutants), 'planted bug')}."
    else:
        sentence += " Whether the tests catch bugs has not been tried: `nox -s mutants` does so."
    notes = [
        f"Tests: {passed:,} passed, {len(failed):,} failed, "
        f"{sum(p.outcome == 'skipped' for p in proofs):,} skipped. An error is the largest "
        "difference of a weight, relative to the largest weight; “to the bit” means that not one "
        "bit may differ.",
        *(f"Failed: {p.test}: {p.reason}" for p in failed[:10]),
        *_wrong_notes(wrong),
    ]
    return Answer(question, sentence, _proven(compared, mutants), notes)


def _wrong_notes(wrong: Sequence[WrongCell]) -> list[str]:
    return [f"Trains wrong, and was not measured: {w.cell}: {w.problem}" for w in wrong]


def _proven(compared: Sequence[tuple[Comparison, Proof]], mutants: Sequence[Mutant]) -> Table:
    groups: dict[tuple[str, str], list[tuple[Comparison, Proof]]] = {}
    for comparison, proof in compared:
        key = comparison.strategy, net_kind(comparison.net)
        groups.setdefault(key, []).append((comparison, proof))
    planted: dict[str, list[Mutant]] = {}
    for mutant in mutants:
        planted.setdefault(_strategy_of(mutant.file), []).append(mutant)
    rows = []
    for (strategy, kind), group in sorted(groups.items()):
        exact = sum(c.tolerance == 0 for c, _ in group)
        loose = [c for c, _ in group if c.tolerance]
        own = planted.get(_squeezed(strategy), [])
        rows.append(
            [
                strategy,
                kind,
                f"{len(group):,}",
                f"{len({p.test for _, p in group}):,}",
                f"{exact:,}",
                f"{max((c.error for c, _ in group), default=0):.1e}",
                f"{max((c.error / c.tolerance for c in loose), default=0):.1%}" if loose else "",
                f"{sum(m.caught for m in own)} of {len(own)}" if own else "",
            ]
        )
    columns = ["strategy", "nets of", "trainings", "tests", "to the bit", "largest error"]
    columns += ["of its tolerance", "planted bugs caught"]
    return Table("What was proven", columns, rows)


def _strategy_of(file: str) -> str:
    """A strategy's name in small letters, by the file that it stands in."""
    return re.sub(r"^.*/|\.py$|_", "", file)


def _squeezed(strategy: str) -> str:
    return strategy.lower()


def it_pays(records: Records) -> Answer:
    """Name the best strategy of every race, and what it loses to what."""
    question = "Does it pay here?"
    cells = list({m.cell: m for m in records.of(Measurement, *speedup.GRID)}.values())
    if not cells:
        return Answer(question, "Not measured yet: `nox -s bench_mpi -- --quick` does so.")
    best = [max(raced, key=lambda m: m.speedup) for raced in _races(speedup.most_workers(cells))]
    pays = [m for m in best if m.speedup_low > max(1.0, m.threads_speedup)]
    top = max(best, key=lambda m: m.speedup)
    said = (
        f"{top.cell.strategy} is {top.speedup:.2f} times as fast as plain training on one thread "
        f"({top.speedup_low:.2f} to {top.speedup_high:.2f}), and "
        f"{top.speedup / top.threads_speedup:.2f} times as fast as all cores as threads: "
        f"{top.cell.model}, batch {top.cell.batch_size}, {counted(top.cell.workers, 'worker')}."
    )
    head = (
        "Yes"
        if len(pays) == len(best)
        else f"In {len(pays)} of {len(best)} cases"
        if pays
        else "No"
    )
    sentence = f"{head}: at best, {said}" if pays else f"{head}. At best, {said}"
    columns = ["net", "batch", "workers", "best strategy", "speedup (95%)", "over threads (95%)"]
    columns += ["if messages were free", "small shards", "communication", "waiting"]
    notes = [
        "It pays where the whole interval of the speedup lies above 1 and above the speedup of "
        "threads. The last three are shares of the time of a step. Small shards: without messages, "
        "ranks compute longer than their part of what plain training computes. Communication and "
        "waiting: of the profile in the last turn, as a mean over ranks. The intervals hold for "
        "this launch."
    ]
    table = Table("The best strategy of each race", columns, [_row(m) for m in best])
    return Answer(question, sentence, table, notes)


def _races(cells: Sequence[Measurement]) -> list[list[Measurement]]:
    names = dict.fromkeys(map(speedup.setting, cells))
    return [[m for m in cells if speedup.setting(m) == name] for name in names]


def _row(m: Measurement) -> list[str]:
    net = m.cell.model if m.cell.device == "cpu" else f"{m.cell.model} on {m.cell.device}"
    lost = lost_to_shards(m)
    profile = [
        f"{float(np.mean(m.profile[kind])):.0%}" if m.profile.get(kind) else ""
        for kind in ("communication", "waiting")
    ]
    return [
        net,
        f"{m.cell.batch_size}",
        f"{m.cell.workers}",
        m.cell.strategy,
        f"{m.speedup:.2f} ({m.speedup_low:.2f} to {m.speedup_high:.2f})",
        over_threads(m),
        "" if m.bound is None else f"{m.bound:.2f}",
        "" if lost is None else f"{lost:.0%}",
        *profile,
    ]


def lost_to_shards(m: Measurement) -> float | None:
    """Share of a step's time that its ranks compute beyond their part of plain training's time.

    A step without messages takes 1/bound of plain training, and at best 1/workers of it. None
    where that is not known, or noise made steps without messages the slower ones.
    """
    if m.bound is None or m.bound < m.speedup:
        return None
    return max(0.0, (1 / m.bound - 1 / m.cell.workers) * m.speedup)


def over_threads(m: Measurement) -> str:
    """The speedup over one process with all cores, with its interval if its rounds are pairs."""
    ratio = f"{m.speedup / m.threads_speedup:.2f}"
    threads, parallel = m.rounds.get("threads", []), m.rounds["parallel"]
    if len(threads) != len(parallel):
        return ratio
    low, high = interval(threads, parallel)
    return f"{ratio} ({low:.2f} to {high:.2f})"
