"""How often is the gate wrong? Measured on this machine, with the gate's own functions.

    python -m bench.gate.aa [--launches 30] [--loaded 6] [-n 2] [--data FILE] [--write FILE]

adds that many launches to a file and reports on all that it holds: it may be stopped and started
again at any time, and `--launches 0` only reports. Each launch measures six cells as they are, and
of each a copy that is 10 or 20% slower by design (see bench.gate.slowed_copies).

False alarms: every three launches in a row against the next three ("real", though they overlap),
and launches drawn at random ("resampled"). Both share launches among comparisons, so that their
intervals are narrower than independent ones. Detection: the same with one cell replaced by its
slower copy. As in the gate, a measurement that neighbours disturbed is replaced by that cell's
next one. `--loaded` adds launches while a process outside keeps one core busy, from half-way
through the first of them on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from scipy import stats

from bench.core.fingerprint import fingerprint
from bench.gate import statistics
from bench.gate.launches import Launch, arms, interruptible, rank_count, start
from bench.gate.statistics import FRESH, MIN_LAUNCHES, Arms, Outcome

AMOUNTS = (0.10, 0.20)
DATA = Path(".lockstep", "aa.jsonl")
REPORT = Path("bench", "error_rates.md")
RESAMPLED = 1000
NEEDED = 2 * MIN_LAUNCHES + FRESH
"""Undisturbed launches of a cell for one comparison: before, after, and to confirm."""

MARKS = ("<!-- error rates: written by nox -s bench_aa -->", "<!-- end of error rates -->")

MEASURED = {
    "nn": ("arguments", "batch", "loss", "lr_schedules", "model", "optim", "zoo"),
    "nn/layers": ("activations", "base", "convolution", "linear"),
    "nn/data": ("cache", "dataset", "distortions", "load", "prepare", "raw"),
    "nn/data/sets": ("digits",),
    "strategies": ("base", "data_parallel", "sequential", "shared_data_parallel"),
    "strategies/comm": ("shared_window",),
    "bench/core": (
        *("arms", "cell", "check", "cores", "grid", "instrumented"),
        *("measure", "metering", "silence", "turns"),
    ),
    "bench/gate": ("slowed_copies",),
}
"""Folder -> modules that run while the trial's cells are measured. Named one by one, so that a new
module, which they cannot be running yet, leaves the launches on file comparable."""

LOAD = "import time\nend = time.monotonic() + 900\nwhile time.monotonic() < end: pass"
"""A busy process, which ends by itself should nobody be left to end it."""

Side: TypeAlias = dict[str, list[Arms]]


# Collecting


def code() -> str:
    """A digest of everything that is measured: launches of unequal code are not compared."""
    digest = hashlib.sha256()
    for folder, names in MEASURED.items():
        for name in names:
            digest.update(Path(folder, f"{name}.py").read_bytes())
    return digest.hexdigest()[:16]


@contextmanager
def busy_neighbour(after: float) -> Iterator[None]:
    """One core kept busy from `after` seconds on, by a process that is no descendant of ours."""
    # Made by a parent that ends at once: the load of descendants would be counted as our own.
    # The pipe is that parent's alone, or reading its answer would wait for the busy process.
    parent = "import subprocess as s, sys; print(s.Popen(sys.argv[1:], stdout=s.DEVNULL).pid)"
    command = [sys.executable, "-c", parent, sys.executable, "-c", LOAD]
    started: list[int] = []

    def begin() -> None:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        started.append(int(done.stdout))

    timer = threading.Timer(after, begin)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        for process in started:
            os.kill(process, signal.SIGTERM)


def collect(path: Path, number: int, ranks: int, loaded: bool, console: Console) -> None:
    """Append that many launches; each is on disk before the next one starts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    machine, source = fingerprint(ranks, ["cpu"]), code()
    before = _mend(path)
    half = 0.0
    if loaded and (known := [entry["seconds"] for entry in _entries(path)]):
        half = float(np.median(known)) / 2
    for count in range(number):
        turn = (before + count) % len(AMOUNTS)
        amounts = [str(amount) for amount in (*AMOUNTS[turn:], *AMOUNTS[:turn])]
        begun = time.monotonic()
        command = ["-m", "bench.gate.slowed_copies", *amounts]
        if loaded:
            with busy_neighbour(half if count == 0 else 0.0):
                launch = start(ranks, command, Path.cwd())
        else:
            launch = start(ranks, command, Path.cwd())
        seconds = time.monotonic() - begun
        if launch.failure:
            raise SystemExit(f"a launch {launch.failure}")
        entry = {"code": source, "machine": machine, "loaded": loaded, "seconds": seconds}
        line = json.dumps(entry | {"cells": list(launch.cells.values())}, allow_nan=False)
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        console.print(f"launch {count + 1} of {number}: {seconds:.0f} s", highlight=False)


def _mend(path: Path) -> int:
    """Take away a last line that was cut off, lest the next one continue it; lines that stay."""
    content = path.read_bytes() if path.exists() else b""
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        os.truncate(path, whole)
    return content.count(b"\n")


def _entries(path: Path) -> list[dict[str, Any]]:
    """All launches on file; a last line that was cut off is left out."""
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            entries.append(json.loads(line))
    return entries


# Comparing


@dataclass(frozen=True, eq=False)
class Sample:
    """One launch: cell -> amount -> arms; 0 for the cell as it is, others for slower copies."""

    arms: Mapping[str, Mapping[float, Arms]]
    disturbed: frozenset[tuple[str, float]]

    @staticmethod
    def of(launch: Launch) -> Sample:
        found: dict[str, dict[float, Arms]] = {}
        for name, line in launch.cells.items():
            cell, amount = _parted(name)
            found.setdefault(cell, {})[amount] = arms(line)
        return Sample(found, frozenset(map(_parted, launch.disturbed())))

    def has(self, cell: str, amount: float = 0.0) -> bool:
        """Whether the gate would use this launch for that cell."""
        return amount in self.arms[cell] and (cell, amount) not in self.disturbed


def _parted(name: str) -> tuple[str, float]:
    cell, _, percent = name.partition("+")
    return cell, float(percent.rstrip("%") or 0) / 100


@dataclass(frozen=True)
class Rate:
    """How many comparisons of how many."""

    what: str
    how: str
    hits: int
    of: int

    @property
    def interval(self) -> tuple[float, float]:
        """95%, Clopper and Pearson (Biometrika 26, 1934): never too narrow."""
        ci = stats.binomtest(self.hits, self.of).proportion_ci(0.95, method="exact")
        return float(ci.low), float(ci.high)

    def row(self) -> tuple[str, ...]:
        low, high = self.interval
        return (
            self.what,
            self.how,
            f"{self.hits} of {self.of}",
            f"{self.hits / self.of:.1%}",
            f"{low:.1%} to {high:.1%}",
        )


def undisturbed(samples: Iterable[Sample], cell: str, amount: float = 0.0) -> list[Arms]:
    """The launches of a cell that the gate would use: it takes others in place of the rest."""
    return [sample.arms[cell][amount] for sample in samples if sample.has(cell, amount)]


def judged(launches: Mapping[str, Sequence[Arms]]) -> dict[str, Outcome]:
    """Of each cell's launches, the first against the next, confirmed by those after both."""
    parts = (0, MIN_LAUNCHES), (MIN_LAUNCHES, NEEDED - FRESH), (NEEDED - FRESH, NEEDED)
    return compared(*({c: list(own[lo:hi]) for c, own in launches.items()} for lo, hi in parts))


def compared(before: Side, after: Side, fresh: Side) -> dict[str, Outcome]:
    """The whole gate: fresh launches are looked at for the cells that are in doubt."""
    verdicts = statistics.judge(before, after)
    if doubtful := statistics.unsettled(verdicts):
        verdicts = statistics.judge(before, after, {cell: fresh[cell] for cell in doubtful})
    return {verdict.cell: verdict.outcome for verdict in verdicts}


def alarm(outcomes: Mapping[str, Outcome]) -> bool:
    return any(outcome in statistics.FAILED for outcome in outcomes.values())


def undecided(outcomes: Mapping[str, Outcome]) -> bool:
    return any(outcome in statistics.UNDECIDED for outcome in outcomes.values())


def adjacent(samples: Sequence[Sample]) -> list[Rate]:
    """Three launches in a row against the next three; fresh ones may be from the beginning."""
    said = []
    for first in range(len(samples)):
        order = [*samples[first:], *samples[:first]]
        if all(len(undisturbed(samples[first:], c)) >= NEEDED - FRESH for c in samples[0].arms):
            said.append(judged({cell: undisturbed(order, cell) for cell in samples[0].arms}))
    return _rates("false alarms", "real, in a row", said)


def resampled(samples: Sequence[Sample], rng: np.random.Generator) -> list[Rate]:
    """Launches in random order."""
    said = []
    for _ in range(RESAMPLED):
        order = [samples[i] for i in rng.permutation(len(samples))]
        said.append(judged({cell: undisturbed(order, cell) for cell in samples[0].arms}))
    return _rates("false alarms", "resampled", said)


def detected(samples: Sequence[Sample], amount: float, rng: np.random.Generator) -> Rate:
    """One cell at a time replaced by its slower copy, in random launches."""
    hits = tried = 0
    cells = list(samples[0].arms)
    for turn in range(RESAMPLED):
        slow = cells[turn % len(cells)]
        order = [samples[i] for i in rng.permutation(len(samples))]
        slower = [sample for sample in order if sample.has(slow, amount)][: NEEDED - MIN_LAUNCHES]
        before = undisturbed((sample for sample in order if sample not in slower), slow)
        before = before[:MIN_LAUNCHES]
        replaced = [*before, *undisturbed(slower, slow, amount)]
        if len(replaced) == NEEDED:
            plain = {cell: undisturbed(order, cell) for cell in cells}
            hits += judged(plain | {slow: replaced})[slow] in statistics.FAILED
            tried += 1
    return Rate(f"{amount:.0%} slowdown found", "resampled", hits, tried)


def under_load(quiet: Sequence[Sample], loaded: Sequence[Sample]) -> list[Rate]:
    """Quiet baselines against launches that a busy neighbour joined half-way."""
    cells = list(quiet[0].arms)
    usable = {cell: undisturbed(loaded, cell) for cell in cells}
    measured = {cell: [sample.arms[cell][0.0] for sample in loaded] for cell in cells}
    seen: list[dict[str, Outcome]] = []
    blind: list[dict[str, Outcome]] = []
    for first in range(len(quiet)):
        own = {cell: undisturbed(quiet[first:], cell) for cell in cells}
        if min(map(len, own.values())) <= MIN_LAUNCHES:
            break
        before = {cell: launches[:MIN_LAUNCHES] for cell, launches in own.items()}
        for said, after in ((seen, usable), (blind, measured)):
            joined = {cell: [own[cell][MIN_LAUNCHES], *after[cell]] for cell in cells}
            said.append(compared(before, joined, after))
    return [
        *_rates("false alarms, busy neighbour", "real, in a row", seen),
        _rates("the same, if neighbours were not looked at", "real, in a row", blind)[0],
    ]


def _rates(what: str, how: str, outcomes: Sequence[Mapping[str, Outcome]]) -> list[Rate]:
    return [
        Rate(what, how, sum(map(alarm, outcomes)), len(outcomes)),
        Rate(f"inconclusive ({what})", how, sum(map(undecided, outcomes)), len(outcomes)),
    ]


# Reporting


def report(path: Path, ranks: int) -> tuple[list[Rate], list[str]]:
    """Rates and notes on the launches of this code on this machine."""
    entries = _entries(path)
    machine, source = fingerprint(ranks, ["cpu"]), code()
    equal = [e for e in entries if e["code"] == source and e["machine"] == machine]
    samples: dict[bool, list[Sample]] = {True: [], False: []}
    for entry in equal:
        launch = Launch({line["id"]: line for line in entry["cells"]})
        samples[entry["loaded"]].append(Sample.of(launch))
    quiet = samples[False]
    where = f"{machine['cpu']}, {machine['cores']} cores, {ranks} ranks, {machine['mpi']}"
    notes = [f"{len(quiet)} launches on {where}"]
    if len(equal) < len(entries):
        notes.append(f"{len(entries) - len(equal)} launches of other code or machines left out")
    usable = {cell: undisturbed(quiet, cell) for cell in (quiet[0].arms if quiet else ())}
    counts = sorted(map(len, usable.values())) or [0]
    notes.append(f"of which neighbours left {counts[0]} to {counts[-1]} of each cell undisturbed")
    if counts[0] < NEEDED:
        notes.append(f"too few launches: {NEEDED} undisturbed ones of each cell are needed")
        return [], notes
    spread = [
        float(np.std([statistics.log_speedup(*one) for one in launches], ddof=1))
        for launches in usable.values()
    ]
    notes.append(f"speedup varies across launches by {min(spread):.1%} to {max(spread):.1%} (CV)")
    rng = np.random.default_rng(0)
    rates = adjacent(quiet) + resampled(quiet, rng)
    rates += [rate for amount in AMOUNTS if (rate := detected(quiet, amount, rng)).of]
    if samples[True]:
        rates += under_load(quiet, samples[True])
    return rates, notes


HEADER = ("what", "how", "comparisons", "rate", "95% interval")


def markdown(rates: Sequence[Rate], notes: Sequence[str]) -> str:
    lines = ["| " + " | ".join(HEADER) + " |", "|" + "---|" * len(HEADER)]
    lines += ["| " + " | ".join(rate.row()) + " |" for rate in rates]
    return "\n".join([*lines, "", *(f"- {note}" for note in notes), ""])


def write(text: str, path: Path, readme: Path = Path("README.md")) -> None:
    """The table to its file, and between its marks in the README."""
    path.write_text(text, encoding="utf-8")
    content = readme.read_text(encoding="utf-8") if readme.exists() else ""
    if all(content.count(mark) == 1 for mark in MARKS):
        head, rest = content.split(MARKS[0])
        readme.write_text(
            f"{head}{MARKS[0]}\n{text}{MARKS[1]}{rest.split(MARKS[1])[1]}", encoding="utf-8"
        )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="bench.gate.aa",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--launches", type=int, default=30)
    parser.add_argument("--loaded", type=int, default=0)
    parser.add_argument("-n", dest="ranks", type=rank_count, default=2)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--write", type=Path, metavar="FILE", help=f"such as {REPORT}")
    options = parser.parse_args(argv)
    console = Console()
    collect(options.data, options.launches, options.ranks, False, console)
    collect(options.data, options.loaded, options.ranks, True, console)
    if not options.data.exists():
        parser.error(f"{options.data} holds no launches: ask for some with --launches")
    rates, notes = report(options.data, options.ranks)
    table = Table(*HEADER, title="how often the gate is wrong", box=box.SIMPLE_HEAD)
    for rate in rates:
        table.add_row(*rate.row())
    if rates:
        console.print(table)
    for note in notes:
        console.print(f"- {note}", highlight=False, markup=False, soft_wrap=True)
    if options.write and rates:
        write(markdown(rates, notes), options.write)
    return 0 if rates else 1


if __name__ == "__main__":
    interruptible()
    sys.exit(main())
