"""Which strategy is fastest for which net, and from which batch size on?

    nox -s bench_which -- [-n 2] [--nets NAME ...] [--rounds R] [--markdown FILE]

For every net and batch size all exact strategies of the catalog with the use "race" take turns with
plain training. On more ranks than cores nothing is timed: there the study only shows that every
strategy, grids of all three kinds included, trains the same weights.
"""

import argparse
import os
from contextlib import suppress
from functools import partial

import numpy as np
from mpi4py import MPI
from rich.console import Console
from rich.table import Table

from bench.core.arms import alone, together, training
from bench.core.check import equals_sequential, uneven_rows
from bench.core.cores import available
from bench.core.machine_state import remark
from bench.core.race import turns_on
from bench.core.turns import Contender
from bench.gate.command_line import output_file
from bench.report.kinds import Race
from bench.report.run_file import drawn_by, header, new_path
from nn import SGD, Batch, mlp
from nn.atomic_write import atomic_write
from strategies import Sequential, Strategy
from strategies.base import Refused
from strategies.catalog import select
from strategies.records import RunFile

QUESTION = (__doc__ or "").splitlines()[0]

NETS = {
    "wide, shallow": [784, 4096, 10],
    "wide": [784, 1024, 1024, 10],
    "usual": [784, 256, 128, 10],
    "narrow, deep": [784, *[128] * 12, 10],
    "very narrow, very deep": [784, *[32] * 24, 10],
}
BATCH_SIZES = (16, 128, 512, 2048)
PLAIN = "plain training"


def competing(sizes: list[int], comm: MPI.Intracomm) -> dict[str, Strategy]:
    """Every strategy of the race that takes this net on so many ranks. Collective."""
    strategies = {}
    for name, entry in select("race", exact=True).items():
        with suppress(Refused):  # too few ranks, or too few layers
            strategies[name] = entry(mlp(sizes), SGD(0.01), comm)
    return strategies


def batch(rows: int, seed: int = 0) -> Batch:
    """A batch of random rows: for timing, only its size matters."""
    rng = np.random.default_rng(seed)
    return Batch(rng.standard_normal((rows, 784)).astype(np.float32), rng.integers(0, 10, rows))


def errors(sizes: list[int], comm: MPI.Intracomm) -> dict[str, float]:
    """Largest difference of each strategy from sequential weights, over the distance they moved.

    Raises:
        SystemExit: a strategy trains other weights.
    """
    rows, found = uneven_rows(comm.size, max(BATCH_SIZES)), {}
    batches = [batch(rows, i) for i in range(3)]
    for name, strategy in competing(sizes, comm).items():
        plain = Sequential(mlp(sizes), SGD(0.01))
        check = equals_sequential(strategy, plain, batches, comm)
        strategy.close()
        if check.problem or check.error is None:
            raise SystemExit(f"{name} on {sizes}: {check.problem}")
        found[name] = check.error
    return found


def race(net: str, rows: int, comm: MPI.Intracomm, rounds: int) -> Race:
    """Let every strategy take turns with plain training, on one batch. Collective."""
    sizes, data = NETS[net], [batch(rows)]
    plain, strategies = Sequential(mlp(sizes), SGD(0.01)), competing(sizes, comm)
    contenders = {PLAIN: Contender(partial(alone, comm, training(plain.step, data)))}
    for name, strategy in strategies.items():
        turn = partial(together, comm, training(strategy.step, data))
        contenders[name] = Contender(turn, paces=False)
    times, state = turns_on(comm, contenders, rounds)
    for strategy in strategies.values():
        strategy.close()
    return Race.of(net, comm.size, rows, times, state)


def main() -> None:
    parser = argparse.ArgumentParser("bench.studies.which_strategy")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--markdown", type=output_file, help="write the table there too")
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS), metavar="NAME")
    arguments = parser.parse_args()
    comm = MPI.COMM_WORLD
    console = Console(quiet=comm.rank > 0, width=120, highlight=False)
    for name in arguments.nets:
        found = errors(NETS[name], comm)
        console.print(
            f"{name}: {len(found)} strategies on {comm.size} ranks train the weights of plain "
            f"training; largest difference {max(found.values()):.0e} of the distance moved"
        )
    if comm.size > available():
        console.print(f"{comm.size} ranks on {available()} cores: nothing to be timed")
        return
    path = os.environ.get("LOCKSTEP_CELLS") or new_path("bench_which")
    run = RunFile(path, lambda: header("bench_which", comm.size))
    rows = []
    for name in arguments.nets:
        row = [name, _short(NETS[name])]
        for size in BATCH_SIZES:
            result = race(name, size, comm, arguments.rounds)
            if comm.rank == 0:
                run.append({**result.as_dict(), "question": QUESTION})
            speedups = result.over(PLAIN)
            row.append(_winner(speedups))
            said = ", ".join(f"{each} {speedup:.2f}" for each, speedup in speedups.items())
            console.print(f"{name}, batch {size}: {said}")
            if meanwhile := remark(result.machine):
                console.print(f"  {meanwhile}")
        rows.append(row)
    columns = ["net", "layers", *(f"batch {size}" for size in BATCH_SIZES)]
    table = Table(*columns, title=f"fastest strategy, {comm.size} workers (speedup)")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(f"results, as measured: {run.path}")
    console.print(f"as pictures: {drawn_by(run.path)}")
    if arguments.markdown and comm.rank == 0:
        lines = [columns, ["---"] * len(columns), *rows]
        with atomic_write(arguments.markdown, "w", stream=True, encoding="utf-8") as file:
            file.writelines(f"| {' | '.join(line)} |\n" for line in lines)


def _short(sizes: list[int]) -> str:
    inner = sizes[1:-1]
    middle = f"{len(inner)} of {inner[0]}" if len(set(inner)) == 1 else "-".join(map(str, inner))
    return f"{sizes[0]}, {middle}, {sizes[-1]}"


def _winner(speedups: dict[str, float]) -> str:
    name, ratio = max(speedups.items(), key=lambda item: item[1])
    return f"{name} {ratio:.2f}" if ratio > 1 else f"none ({name} {ratio:.2f})"


if __name__ == "__main__":
    main()
