"""What does it cost to train a net that is spread over the workers?

Not part of the common run: `nox -s bench_mpi -- -n 2 bench/studies/model_parallel.py`.
"""

import tracemalloc
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
from mpi4py import MPI

from bench.core.arms import together, training, within
from bench.core.cell import Case, Cell
from bench.core.check import uneven_rows
from bench.core.cores import available
from bench.core.race import measure
from bench.core.silence import Silent
from bench.core.turns import Contender, ratio, take_turns
from bench.marks import only_in_full_grid
from bench.report.promises import Promise
from nn import SGD, Batch, mlp
from nn.batch import bounds
from strategies import Pipeline, Sequential, TensorParallel, costs
from strategies.catalog import CATALOG
from strategies.sharding.schedules import SCHEDULES

ZERO = ("ZeRO-1", "ZeRO-2", "ZeRO-3")


@dataclass(frozen=True)
class Setting:
    """A net of `depth` equal Linear layers with ReLUs between them, and how it is trained.

    `strategy` is a name of the catalog, or a pipeline's schedule.
    """

    strategy: str = "1f1b"
    workers: int = 2
    batch_size: int = 512
    micro_batches: int = 8
    depth: int = 8
    width: int = 512

    def model(self):
        return mlp([self.width] * (self.depth + 1))

    @property
    def chunks(self) -> int:
        """Stages of a rank."""
        return 2 if self.strategy == "interleaved" else 1

    @property
    def cuts(self) -> list[int]:
        """The first layer of every stage but the first, in front of its Linear."""
        stages = self.workers * self.chunks
        return [2 * bounds(s, stages, self.depth)[0] for s in range(1, stages)]

    def build(self, comm):
        entry = CATALOG.get(self.strategy) or partial(
            Pipeline, micro_batches=self.micro_batches, schedule=self.strategy, cuts=self.cuts
        )
        return entry(self.model(), SGD(0.01), comm)

    def batches(self, rows: int) -> list[Batch]:
        rng = np.random.default_rng(0)
        x = rng.standard_normal((rows, self.width)).astype(np.float32)
        return [Batch(x, rng.integers(0, self.width, rows)) for _ in range(2)]

    def case(self) -> Case:
        name = self.strategy
        if name in SCHEDULES:
            name += f", {self.micro_batches} micro-batches"
        model = f"mlp of {self.depth} layers, {self.width} wide"
        batches = self.batches(self.batch_size)
        uneven = uneven_rows(self.workers, self.batch_size)
        return Case(
            cell=Cell(name, model, self.workers, self.batch_size, self.batch_size),
            build=self.build,
            sequential=lambda: Sequential(self.model(), SGD(0.01)),
            batches=batches,
            check_batches=[*batches, self.batches(uneven)[0]],
        )

    @property
    def idle_share(self) -> float:
        """Share of the time of all ranks in which they wait, by the schedule alone."""
        return float(costs.idle_share(self.strategy, self.workers, self.micro_batches, self.chunks))

    def bytes_sent(self, rank: int) -> int:
        """Bytes that a rank gives to MPI in a step, by the formula of its strategy."""
        net, ranks, rows = self.model(), self.workers, self.batch_size
        if self.strategy == "DataParallel":
            sent = costs.sent_by_data_parallel(net)
        elif self.strategy == "TensorParallel":
            sent = costs.sent_by_tensor_parallel(net, ranks, rank, rows)
        elif self.strategy in ZERO:
            sent = costs.sent_by_zero(net, ranks, rank, stage=1 + ZERO.index(self.strategy))
        else:
            sent = costs.sent_by_pipeline(net, self.cuts, ranks, rank, rows)
        return sent.total()


@pytest.fixture
def cost(comm, record):
    """Measure a setting: speed, idle share, bytes against the formula, peak memory."""

    def cost(setting: Setting) -> None:
        result = measure(setting.case(), comm, seconds=1.5)
        record(result, f"{result.speedup:.2f}x", result.rounds["parallel"], result.as_dict())
        expected = [setting.bytes_sent(rank) for rank in range(comm.size)]
        assert result.profile["bytes_sent"] == expected
        name = f"{result.cell.strategy}, {comm.size} workers"
        if setting.strategy in SCHEDULES:
            idle = 1 - np.median(result.rounds["silent"]) / np.median(result.rounds["parallel"])
            what = f"idle share of {name}, batch {setting.batch_size} (formula: {{:.3f}})"
            share = Promise(what.format(setting.idle_share), float(idle))
            record(share, "", [], {"idle_share": float(idle), "formula": setting.idle_share})
        alone = _peak(lambda on: Sequential(setting.model(), SGD(0.01)), setting, MPI.COMM_SELF)
        peak = comm.allreduce(_peak(setting.build, setting, comm), MPI.MAX)
        memory = Promise(f"peak memory of {name} / of plain training", peak / alone)
        record(memory, "", [], {"peak_bytes": peak, "peak_bytes_plain": alone})

    return cost


def _peak(build, setting, comm) -> int:
    """The most bytes allocated at once during a step, by the strategy and the step itself."""
    batch = setting.batches(setting.batch_size)[0]
    tracemalloc.start()
    strategy = build(comm)
    strategy.step(batch)
    tracemalloc.reset_peak()
    strategy.step(batch)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    strategy.close()
    return peak


def _varied(**values) -> list:
    """Settings that differ from the default in one value; --quick leaves them out."""
    return [
        only_in_full_grid(replace(Setting(strategy), **{name: value}))
        for name, several in values.items()
        for value in several
        for strategy in ("TensorParallel", "1f1b")
        if name != "micro_batches" or strategy == "1f1b"
    ]


def _id(setting: Setting) -> str:
    usual = Setting()
    others = [
        f"{name}={value}"
        for name, value in vars(setting).items()
        if name != "strategy" and value != getattr(usual, name)
    ]
    return "-".join([setting.strategy, *others])


@pytest.mark.parametrize("workers", [2])
@pytest.mark.parametrize(
    "setting",
    [
        *map(Setting, ("DataParallel", *ZERO, "TensorParallel", *SCHEDULES)),
        *_varied(
            micro_batches=[1, 2, 4, 16], batch_size=[64, 2048], depth=[2, 16], width=[128, 1024]
        ),
    ],
    ids=_id,
)
def test_cost(cost, workers, setting):
    cost(setting)


@pytest.mark.full
@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("strategy", ["TensorParallel", "1f1b"])
def test_other_numbers_of_workers(cost, workers, strategy):
    cost(Setting(strategy, workers))


@pytest.fixture
def promise(comm, promise):
    """Promise that a step takes at most 1.15 times as long as it would at best."""
    if comm.size > available():
        pytest.skip(f"{comm.size} workers need as many cores; there are {available()}")
    return lambda what, times, best: promise(what, ratio(times, best), 1.15, times)


@pytest.mark.workers(2)
def test_pipeline_against_its_bubble(comm, promise):
    """At best every stage computes at the pace measured without messages, and waits as it must.

    The slowest stage is never idle between its first and its last operation; before and after that
    one micro-batch passes through the other stages.
    """
    setting = Setting("1f1b", batch_size=1024, width=1024)
    (batch, _) = setting.batches(1024)
    silent = Silent(comm)
    strategy, alone = setting.build(comm), setting.build(silent)
    alone.step(batch)
    paces, updates = [], []

    def compute(first: int, steps: int) -> float:
        """Time a step of this rank's stage without messages; keep its pace and its update."""
        with silent.silence():
            comm.Barrier()
            begin = MPI.Wtime()
            alone.gradients(batch)
            computed = MPI.Wtime()
            alone.update()
            end = MPI.Wtime()
        paces.append((computed - begin) / setting.micro_batches)
        updates.append(end - computed)
        return comm.allreduce(end - begin, MPI.MAX)

    contenders = {
        "step": Contender(partial(together, comm, training(strategy.step, [batch]))),
        "stages": Contender(compute),
    }
    times = take_turns(contenders, steps=1).seconds["step"]
    stages = comm.allgather(float(np.median(paces)))
    update = comm.allreduce(float(np.median(updates)), MPI.MAX)
    slowest = max(stages)
    best = setting.micro_batches * slowest + sum(stages) - slowest + update
    promise("step of a 1F1B pipeline, 8 layers 1024 wide, batch 1024 / its bubble", times, best)


@pytest.mark.workers(2)
@pytest.mark.parametrize("hidden", [1, 2, 3])
def test_tensor_parallel_against_its_bound(comm, promise, hidden):
    sizes = [784, *[2048] * hidden, 10]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1024, 784)).astype(np.float32)
    batch = Batch(x, rng.integers(0, 10, 1024))
    silent = Silent(comm)
    strategy, alone = (TensorParallel(mlp(sizes), SGD(0.01), on) for on in (comm, silent))
    alone.step(batch)
    turns = {
        name: partial(together, comm, training(each.step, [batch]))
        for name, each in (("step", strategy), ("silent", alone))
    }
    contenders = {
        "step": Contender(turns["step"]),
        "silent": Contender(within(silent.silence, turns["silent"])),
    }
    times = take_turns(contenders, steps=2).seconds
    what = f"step of a tensor-parallel mlp {sizes}, batch 1024 / without communication"
    promise(what, times["step"], times["silent"])
