"""Whole runs that rank 0 makes, with worker processes of its own, while the other ranks sleep."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from joblib.externals.loky import get_reusable_executor
from mpi4py import MPI

from bench.core.arms import alone
from bench.core.core_use import CoreUse, watched
from bench.core.cores import unbound
from bench.core.machine_state import State
from bench.core.race import turns_on
from bench.core.turns import Contender, Rounds
from strategies.launchers import without_launcher
from strategies.tasks import Workers, run_tasks

SETTLED = 0.2
"""Seconds that a worker's first task takes, so that each worker gets one."""


def whole_run(comm: MPI.Intracomm, run: Callable[[], object]) -> Contender:
    """Make a contender whose turn is a call of `run` on rank 0 for every step.

    Time it with `take_turns(..., steps=1)`: a whole run is long enough. Collective, and nothing is
    done before the clock starts, so call `run` once before to have it find all it needs.
    """

    def runs(first: int, steps: int) -> None:
        for _ in range(steps):
            run()

    return Contender(partial(alone, comm, runs, warm_up=0))


def race_runs(
    comm: MPI.Intracomm, runs: Mapping[str, Callable[[], object]], rounds: int
) -> tuple[Rounds, State]:
    """Let whole runs on rank 0 take turns, one call in each round. Collective."""
    contenders = {name: whole_run(comm, run) for name, run in runs.items()}
    return turns_on(comm, contenders, rounds, steps=1)


@contextmanager
def outside_the_launch() -> Iterator[None]:
    """A context in which processes that other libraries start are no ranks of this launch.

    A process that finds a launcher's variables takes itself for the rank that has started it, and
    MPI then writes into that rank's shared memory.
    """
    before = dict(os.environ)
    for name in before.keys() - without_launcher(before).keys():
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(before)


@dataclass(frozen=True)
class Pool:
    """As many workers as there are ranks.

    Attributes:
        workers: an executor for `run_tasks` and its like; None on ranks other than 0.
        pids: name -> number of each worker's process.
    """

    workers: Workers | None = None
    pids: dict[str, int] = field(default_factory=dict)

    def uses(
        self, serial: Callable[[], object], parallel: Callable[[], object]
    ) -> dict[str, CoreUse]:
        """Make both runs once more on rank 0, and return what processes use; empty elsewhere.

        Of the serial run that is this process; of the parallel one it manages the workers. These
        runs are not the timed ones, so that looking at processes costs those nothing.

        Raises:
            RuntimeError: a worker was ended, or another one started in its place, which nobody
                has watched.
        """
        if self.workers is None:
            return {}
        own = os.getpid()
        with watched({"the process": own}) as alone:
            serial()
        with watched({"manager": own, **self.pids}) as together:
            parallel()
        if unwatched := self.workers.processes() ^ set(self.pids.values()):
            raise RuntimeError(
                f"processes {sorted(unwatched)} ended or began in this run: expected the "
                "same workers at its end, since what others used is not known"
            )
        return {"serial": alone, "parallel": together}


@contextmanager
def pool(comm: MPI.Intracomm) -> Iterator[Pool]:
    """Start a worker for each rank, which any core may run, and end them with the block.

    Workers of joblib that the block has started end too: they would last for minutes.
    """
    if comm.rank > 0:
        yield Pool()
        return
    with unbound(), Workers(comm.size) as workers:
        run_tasks(_settle, range(comm.size), workers, progress=False)
        pids = sorted(workers.processes())
        try:
            yield Pool(workers, {f"worker {i}": pid for i, pid in enumerate(pids)})
        finally:
            get_reusable_executor().shutdown(kill_workers=True)


def _settle(task: int) -> None:
    time.sleep(SETTLED)
