"""What does Python cost?

The step of one fully connected net, from the same weights on the same batch, in numpy, in C++, by
JAX, by torch and by scikit-learn: on one thread, beside its bare matrix products in numpy, and then
by two ranks in Python and in C++. All of a table take turns in the same rounds. The weights of each
are checked first; scikit-learn draws its own, so only its time is compared.

Where its arrays happen to lie makes a program some per cent faster or slower, so there are COPIES
of each, of which another one takes the turn in every round. A program that cannot be built here is
left out of the race, and the test of its weights is skipped with the reason.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from mpi4py import MPI
from numpy.typing import NDArray

from bench.core.arms import Work, alone, together, training
from bench.core.check import equals_sequential, uneven_rows
from bench.core.cores import available
from bench.core.grid import MLP_SIZES, random_batch
from bench.core.products import matrix_products
from bench.core.race import turns_on
from bench.core.turns import Contender, Turn, ratio
from bench.peers import cpp
from bench.report.kinds import Race
from nn import SGD, Batch, mlp
from strategies import DataParallel, Sequential, SharedDataParallel
from strategies.comm.on_rank_0 import on_rank_0

# Torch uses what it has deprecated itself, when it compiles for the first time.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

RATE, COPIES, ROUNDS = 0.01, 3, 18
PRODUCTS, NUMPY, CPP, XLA = "matrix products", "numpy", "C++", "JAX, jit"
TORCH, COMPILED, SCIKIT_LEARN = "torch, eager", "torch.compile", "scikit-learn"
OVER_XLA = {64: 1.08, 256: 1.02, 1024: 1.02}
"""Rows of a batch -> the largest time of numpy's step over that of XLA which is promised."""


@dataclass
class Made:
    """A net that a program trains on its own batches, given when it was made.

    Attributes:
        work: steps on these batches, by number.
        weights: returns all parameters, in the order of `Model.params`.
        turn: steps that the program times itself; by default `work` is timed from outside.
    """

    work: Work
    weights: Callable[[], NDArray]
    turn: Turn | None = None
    taken: int = 0

    def step(self, batch: Batch) -> None:
        """Take the next step; `batch` is the one of that number."""
        self.work(self.taken, 1)
        self.taken += 1

    def timed(self, comm: MPI.Intracomm) -> Turn:
        """Make a turn of it on rank 0, while the other ranks sleep."""
        own = self.turn
        if own is None:
            return partial(alone, comm, self.work)
        return lambda first, steps: on_rank_0(comm, lambda: own(first, steps))


def plain() -> Sequential:
    return Sequential(mlp(MLP_SIZES), SGD(RATE))


def in_numpy(batches: Sequence[Batch]) -> Made:
    strategy = plain()
    return Made(training(strategy.step, batches), strategy.weights)


def by_torch(batches: Sequence[Batch], compiled: bool = False) -> Made:
    """Torch's usual loop; compiled, its forward and its backward are a program each."""
    torch = _imported("torch")
    if compiled and not shutil.which(os.environ.get("CXX", "g++")):
        raise cpp.Missing("no C++ compiler, which torch.compile needs: install g++")
    from bench.peers import Peer
    from nn.torch import TorchModel, build

    torch.set_num_threads(1)
    peer = Peer(TorchModel(build("mlp", sizes=MLP_SIZES), seed=0), SGD(RATE))
    if compiled:
        os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # or it starts processes
        peer.module = torch.compile(peer.module, dynamic=True)  # for batches of any size
    return Made(training(peer.step, batches), peer.weights)


def by_xla(batches: Sequence[Batch]) -> Made:
    """JAX has the batches before the clock starts."""
    _imported("jax")
    from bench.peers.xla import JaxNet

    net = JaxNet(mlp(MLP_SIZES), RATE)
    ready = [net.put(batch) for batch in batches]

    def work(first: int, steps: int) -> None:
        for i in range(first, first + steps):
            net.train(*ready[i % len(ready)])

    return Made(work, net.weights)


def _imported(package: str) -> Any:
    try:
        return import_module(package)
    except ImportError:
        raise cpp.Missing(f"no {package}: install the dependency group languages") from None


@dataclass(frozen=True)
class Programs:
    """What makes a net in each language; programs in C++ run until `stack` ends."""

    folder: Path
    stack: ExitStack

    def in_cpp(self, batches: Sequence[Batch], ranks: int = 1) -> Made:
        program = self.folder / cpp.SOURCE.stem
        if not program.exists():
            cpp.build(self.folder)
        job = self.folder / f"job {len(list(self.folder.iterdir()))}"
        cpp.write_job(job, mlp(MLP_SIZES), RATE, batches)
        trainer = self.stack.enter_context(cpp.Trainer(program, job, ranks))
        return Made(trainer.steps, trainer.weights, partial(trainer.steps, untimed=1))

    def __getitem__(self, name: str) -> Callable[..., Made]:
        return LANGUAGES.get(name, self.in_cpp)


LANGUAGES: dict[str, Callable[..., Made]] = {
    NUMPY: in_numpy,
    XLA: by_xla,
    TORCH: by_torch,
    COMPILED: partial(by_torch, compiled=True),
}
NAMES = (NUMPY, CPP, XLA, TORCH, COMPILED)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Programs]:
    with ExitStack() as stack:
        yield Programs(tmp_path_factory.mktemp("cpp"), stack)


def check(made: Made, batches: Sequence[Batch]) -> None:
    """Raise AssertionError if a net on rank 0 is not trained as by `Sequential`."""
    trained: Any = made  # it has the two methods of a strategy that are called
    problem = equals_sequential(trained, plain(), batches, MPI.COMM_SELF).problem
    assert not problem, problem


def small_batches(workers: int) -> list[Batch]:
    """Batches in which a wrong mean shows, with uneven shards."""
    return [random_batch(uneven_rows(workers, 64))] * 3


def in_turn(turns: Sequence[Turn]) -> Turn:
    """Make a turn that another one of several copies takes in each round."""

    def run(first: int, steps: int) -> float:
        return turns[first // steps % len(turns)](first, steps)

    return run


@pytest.mark.workers(1)
@pytest.mark.parametrize("name", NAMES)
def test_weights(programs, name):
    """Without what it needs it is skipped here, and left out of the races below."""
    batches = small_batches(1)
    try:
        made = programs[name](batches)
    except cpp.Missing as reason:
        pytest.skip(f"{name}: {reason}")
    check(made, batches)


@pytest.mark.workers(1)
@pytest.mark.parametrize("rows", OVER_XLA)
def test_one_thread(comm, record, promise, programs, rows):
    from bench.peers.scikit_learn import partial_fit_step

    batch = random_batch(rows)
    turns: dict[str, list[Turn]] = {PRODUCTS: []}
    for _ in range(COPIES):
        calls = calling(matrix_products(MLP_SIZES, rows))
        turns[PRODUCTS].append(partial(alone, comm, calls))
    for name in NAMES:
        with suppress(cpp.Missing):
            turns[name] = [programs[name]([batch]).timed(comm) for _ in range(COPIES)]
    step = training(partial_fit_step(MLP_SIZES, RATE), [batch])
    turns[SCIKIT_LEARN] = [partial(alone, comm, step)]
    contenders = {name: Contender(in_turn(copies)) for name, copies in turns.items()}
    rounds, state = turns_on(comm, contenders, ROUNDS)
    record(Race.of("mlp, one thread", 1, rows, rounds, state))
    times = rounds.seconds
    for name in list(times)[1:]:
        what = f"step by {name} / {PRODUCTS}, batch {rows}"
        promise(what, ratio(times[name], times[PRODUCTS]), machine=state)
    if XLA in times:
        what, limit = f"step by {NUMPY} / by {XLA}, batch {rows}", OVER_XLA[rows]
        promise(what, ratio(times[NUMPY], times[XLA]), limit, machine=state)


def calling(call: Callable[[], None]) -> Work:
    """Work whose step is a call."""

    def run(first: int, steps: int) -> None:
        for _ in range(steps):
            call()

    return run


@pytest.mark.workers(2)
@pytest.mark.parametrize("rows", OVER_XLA)
def test_two_ranks(comm, record, programs, rows):
    if comm.size > available():
        pytest.skip(f"{comm.size} ranks need as many cores; there are {available()}")
    batch, small = random_batch(rows), small_batches(comm.size)
    ours = {"DataParallel": DataParallel, "SharedDataParallel": SharedDataParallel}
    strategies = {name: build(mlp(MLP_SIZES), SGD(RATE), comm) for name, build in ours.items()}
    for name, strategy in strategies.items():
        problem = equals_sequential(strategy, plain(), small, comm).problem
        assert not problem, f"{name}: {problem}"

    # On rank 0; what the other ranks hold of it is never called.
    nothing = Made(lambda first, steps: None, plain().weights, lambda first, steps: 0.0)
    started = dict.fromkeys(("C++, one rank", "C++, MPI_Allreduce"), nothing)

    def start() -> str:
        try:
            check(programs.in_cpp(small, ranks=2), small)
            for name, ranks in zip(started, (1, 2)):
                started[name] = programs.in_cpp([batch], ranks)
        except cpp.Missing as reason:
            return str(reason)
        return ""

    if reason := on_rank_0(comm, start):
        pytest.skip(reason)
    contenders = {NUMPY: Contender(in_numpy([batch]).timed(comm))}
    contenders |= {name: Contender(made.timed(comm)) for name, made in started.items()}
    for name, strategy in strategies.items():
        contenders[name] = Contender(partial(together, comm, training(strategy.step, [batch])))
    rounds, state = turns_on(comm, contenders, ROUNDS)
    for strategy in strategies.values():
        strategy.close()
    record(Race.of("mlp, two ranks", 2, rows, rounds, state))
