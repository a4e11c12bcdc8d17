"""Which strategy is fastest for which net, and from which batch size on?

    nox -s bench_which -- [-n 2] [--nets NAME ...] [--rounds R] [--markdown FILE]

For every net and batch size all strategies take turns with plain training in rounds, in
alternating order. On more ranks than there are cores nothing is timed: there it is only shown
that every strategy, grids of all three kinds included, trains the same weights.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from mpi4py import MPI
from rich.console import Console
from rich.table import Table

from bench.core.arms import alone, together, training
from bench.core.check import equals_sequential
from bench.core.cores import available
from bench.core.turns import Contender, ratio, take_turns
from nn import SGD, Batch, Model, mlp
from strategies import (
    DataParallel,
    Hybrid,
    Pipeline,
    Sequential,
    SharedDataParallel,
    Strategy,
    TensorParallel,
    ZeRO,
)

NETS = {
    "wide, shallow": [784, 4096, 10],
    "wide": [784, 1024, 1024, 10],
    "usual": [784, 256, 128, 10],
    "narrow, deep": [784, *[128] * 12, 10],
    "very narrow, very deep": [784, *[32] * 24, 10],
}
BATCH_SIZES = (16, 128, 512, 2048)
PLAIN = "plain training"
CHECK_ROWS = 19
"""A number that divides by nothing."""

Build = Callable[[Model, SGD, MPI.Intracomm], Strategy]


def strategies(sizes: list[int], comm: MPI.Intracomm) -> dict[str, Build]:
    """What competes for a net on that many ranks, by name."""
    pipeline = partial(Pipeline, cuts="auto")
    competing: dict[str, Build] = {
        "data": DataParallel,
        "shared data": SharedDataParallel,
        "ZeRO-1": ZeRO,
        "tensor": TensorParallel,
    }
    if comm.size <= 2 * len(sizes) - 3:  # a stage needs a layer, of Linear or ReLU
        competing |= {
            "pipeline, 4 parts": partial(pipeline, micro_batches=4),
            "pipeline, 8 parts": partial(pipeline, micro_batches=8),
        }
    if comm.size % 2 == 0 and comm.size > 2:
        half = comm.size // 2
        competing |= {
            f"{half} x pipeline of 2": partial(Hybrid, data=half, stages=2, micro_batches=4),
            f"{half} x tensor of 2": partial(Hybrid, data=half, tensor=2),
            f"pipeline of {half} x tensor of 2": partial(
                Hybrid, stages=half, tensor=2, micro_batches=4
            ),
        }
    return competing


def batch(rows: int, seed: int = 0) -> Batch:
    """Data is of no matter here, only its size."""
    rng = np.random.default_rng(seed)
    return Batch(rng.standard_normal((rows, 784)).astype(np.float32), rng.integers(0, 10, rows))


def error(sizes: list[int], build: Build, comm: MPI.Intracomm) -> float:
    """Largest difference from sequential weights over the distance that they moved."""
    parallel = build(mlp(sizes), SGD(0.01), comm)
    plain = Sequential(mlp(sizes), SGD(0.01))
    check = equals_sequential(parallel, plain, [batch(CHECK_ROWS, i) for i in range(3)], comm)
    parallel.close()
    if check.problem or check.error is None:
        raise SystemExit(f"{type(parallel).__name__} on {sizes}: {check.problem}")
    return check.error


def race(sizes: list[int], rows: int, comm: MPI.Intracomm, rounds: int) -> dict[str, float]:
    """Speedup of each strategy over plain training: median over rounds of the ratio of times."""
    data = batch(rows)
    plain = Sequential(mlp(sizes), SGD(0.01))
    running = {
        name: build(mlp(sizes), SGD(0.01), comm) for name, build in strategies(sizes, comm).items()
    }

    contenders = {PLAIN: Contender(partial(alone, comm, training(plain.step, [data])))}
    for name, strategy in running.items():
        turn = partial(together, comm, training(strategy.step, [data]))
        contenders[name] = Contender(turn, paces=False)
    times = take_turns(contenders, rounds).seconds
    for strategy in running.values():
        strategy.close()
    return {name: ratio(times[PLAIN], times[name]) for name in running}


def main() -> None:
    parser = argparse.ArgumentParser("bench.studies.which_strategy")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--markdown", type=Path, help="write the table there too")
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS), metavar="NAME")
    arguments = parser.parse_args()
    nets = {name: NETS[name] for name in arguments.nets}
    comm = MPI.COMM_WORLD
    console = Console(quiet=comm.rank > 0, width=120, highlight=False)
    for name, sizes in nets.items():
        errors = [error(sizes, build, comm) for build in strategies(sizes, comm).values()]
        console.print(
            f"{name}: {len(errors)} strategies on {comm.size} ranks train the weights of plain "
            f"training; largest difference {max(errors):.0e} of the distance moved"
        )
    if comm.size > available():
        console.print(f"{comm.size} ranks on {available()} cores: nothing to be timed")
        return
    rows = []
    for name, sizes in nets.items():
        row = [name, _short(sizes)]
        for size in BATCH_SIZES:
            speedups = race(sizes, size, comm, arguments.rounds)
            row.append(_winner(speedups))
            said = ", ".join(f"{each} {ratio:.2f}" for each, ratio in speedups.items())
            console.print(f"{name}, batch {size}: {said}")
        rows.append(row)
    header = ["net", "layers", *(f"batch {size}" for size in BATCH_SIZES)]
    table = Table(*header, title=f"fastest strategy, {comm.size} workers (speedup)")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    if arguments.markdown and comm.rank == 0:
        lines = [header, ["---"] * len(header), *rows]
        arguments.markdown.write_text("".join(f"| {' | '.join(line)} |\n" for line in lines))


def _short(sizes: list[int]) -> str:
    inner = sizes[1:-1]
    middle = f"{len(inner)} of {inner[0]}" if len(set(inner)) == 1 else "-".join(map(str, inner))
    return f"{sizes[0]}, {middle}, {sizes[-1]}"


def _winner(speedups: dict[str, float]) -> str:
    name, ratio = max(speedups.items(), key=lambda item: item[1])
    return f"{name} {ratio:.2f}" if ratio > 1 else f"none ({name} {ratio:.2f})"


if __name__ == "__main__":
    main()
