"""How fast is the same step on one core, all cores, one GPU and several GPUs?

The nets of the grid in torch, and a wide one, all in float32 without TF32. Where there are several
cores or GPUs the step is divided in two ways: the rows of the batch (data-parallel) or the neurons
of every layer (model-parallel). GPUs talk by NCCL, a rank for each. All that this machine can do
takes turns in the same rounds; the rest is skipped with the reason. The weights of each are checked
against plain training on the processor.

The flat vectors of a model are in the memory of the host (`nn.torch.TorchModel`): a step on a GPU
copies gradients and parameters, as a user of this suite will see it. Accelerators that torch does
not drive are out of scope.

All that needs a GPU, this study too, runs by `.ci/gpu` in less than 8 minutes.
"""

from collections.abc import Callable, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import pytest
from mpi4py import MPI

from bench.core.arms import alone, among, together, training, within
from bench.core.check import Check, equals_sequential, uneven_rows
from bench.core.cores import all_torch_threads, available
from bench.core.grid import MLP_SIZES, TORCH_NETS, optimizer, random_batch
from bench.core.race import turns_on
from bench.core.turns import Contender, Turn
from bench.report.kinds import Race
from nn import Batch
from strategies import Sequential, Strategy
from strategies.catalog import CATALOG
from strategies.comm.on_rank_0 import on_rank_0
from strategies.comm.raise_together import raise_together

pytestmark = pytest.mark.workers(MPI.COMM_WORLD.size)

NETS: dict[str, tuple[str, dict[str, Any], tuple[int, ...], int]] = {
    "mlp": ("mlp", {"sizes": MLP_SIZES}, (784,), 256),
    "wide mlp": ("mlp", {"sizes": [784, 2048, 2048, 10]}, (784,), 256),
    "cnn": ("cnn", *TORCH_NETS["cnn"], 64),
}
"""Net -> its name in `nn.torch.zoo`, its arguments, the shape of a row, and the rows of a batch."""

ROUNDS = 9


@dataclass(frozen=True)
class Way:
    """What computes a step.

    Attributes:
        kind: of device: "cpu", "cuda" or "mps".
        strategy: of the catalog; it has a rank for each core or GPU if it is not "Sequential".
        threads: use all cores as threads.
    """

    kind: str
    strategy: str = "Sequential"
    threads: bool = False

    @property
    def divides(self) -> bool:
        return self.strategy != "Sequential"

    def workers(self, ranks: int, cores: int, devices: Sequence[str]) -> int:
        """How many ranks take part: one for each core or device, as far as there are ranks."""
        there = cores if self.kind == "cpu" else _count(self.kind, devices)
        return min(ranks, there) if self.divides else 1

    def why_not(self, ranks: int, cores: int, devices: Sequence[str]) -> str:
        """Say why it cannot be measured; empty if it can."""
        if self.kind != "cpu" and not _count(self.kind, devices):
            return f"torch finds no {self.kind} here, only {', '.join(devices)}"
        if self.divides and self.workers(ranks, cores, devices) < 2:
            there = f"{cores} cores" if self.kind == "cpu" else ", ".join(devices)
            return f"several devices and as many ranks are needed: {ranks} ranks, {there}"
        return ""


def _count(kind: str, devices: Sequence[str]) -> int:
    return sum(name.partition(":")[0] == kind for name in devices)


WAYS = {
    "one core": Way("cpu"),
    "all cores, threads": Way("cpu", threads=True),
    "all cores, data-parallel": Way("cpu", "DataParallel"),
    "all cores, model-parallel": Way("cpu", "TensorParallel"),
    "one GPU": Way("cuda"),
    "one Apple GPU": Way("mps"),
    "several GPUs, data-parallel": Way("cuda", "DataParallel"),
    "several GPUs, model-parallel": Way("cuda", "TensorParallel"),
}
"""The first is what the others are compared with."""


@contextmanager
def plain_torch():
    """A context in which convolutions on GPUs round as those on processors do, and one thread."""
    import torch

    before, threads = torch.backends.cudnn.allow_tf32, torch.get_num_threads()
    torch.backends.cudnn.allow_tf32 = False
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
        torch.set_num_threads(threads)


def model(net: str, device: str) -> Any:
    from nn.torch import TorchModel, build  # torch takes seconds to import

    name, arguments, shape, _ = NETS[net]
    return TorchModel(build(name, **arguments), device, seed=0, input_shape=shape)


def why_not(way: Way, comm: MPI.Intracomm) -> str:
    from nn.torch.model import devices

    return way.why_not(comm.size, available(), devices())


def workers_of(way: Way, comm: MPI.Intracomm) -> int:
    from nn.torch.model import devices

    return way.workers(comm.size, available(), devices())


@dataclass
class Made:
    """A strategy on the ranks that take part, with their communicator; None on the others."""

    some: MPI.Intracomm
    strategy: Strategy | None = None
    group: Any = None

    def close(self) -> None:
        if self.strategy:
            self.strategy.close()
        if self.group:
            self.group.Free()


def make(way: Way, net: str, comm: MPI.Intracomm) -> Made:
    """Build the net on the first ranks. Collective."""
    count = on_rank_0(comm, lambda: workers_of(way, comm))
    takes_part = comm.rank < count
    made = Made(cast(MPI.Intracomm, comm.Split(0 if takes_part else MPI.UNDEFINED)))

    def build() -> None:
        if not takes_part:
            return
        group: Any = made.some
        device = way.kind
        if way.divides and way.kind != "cpu":
            import torch

            from strategies.comm.torch_comm import TorchComm

            group = made.group = TorchComm.from_mpi(made.some, "nccl")
            device = f"{way.kind}:{torch.cuda.current_device()}"
        made.strategy = CATALOG[way.strategy](model(net, device), optimizer(), group)

    raise_together(comm, build)
    return made


def check(way: Way, net: str, comm: MPI.Intracomm) -> Check:
    """Compare its weights with those of plain training on one core. Collective."""
    made = make(way, net, comm)
    rows, shape = uneven_rows(made.some.size if made.strategy else 1, 64), NETS[net][2]
    rows = comm.bcast(rows)
    batches = [random_batch(rows, shape)] * 3

    def compare() -> Check | None:
        if not made.strategy:
            return None
        plain = Sequential(model(net, "cpu"), optimizer())
        return equals_sequential(made.strategy, plain, batches, made.some)

    found = raise_together(comm, compare)
    made.close()
    outcome = comm.bcast(found)
    assert outcome is not None
    return outcome


def turn_of(way: Way, made: Made, batch: Batch, comm: MPI.Intracomm) -> Turn:
    """Make a turn of it, while ranks that take no part sleep."""
    strategy = made.strategy
    step: Callable[[Batch], object] = strategy.step if strategy else lambda batch: None
    work = training(step, [batch])
    if way.divides:
        turn = partial(together, made.some, work) if strategy else lambda first, steps: 0.0
        return among(comm, made.some, turn)
    own: Turn = partial(alone, comm, work)
    # Ranks other than 0 only sleep, whatever their number of threads.
    threads = way.threads and comm.rank == 0
    return within(all_torch_threads if threads else nullcontext, own)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("way", WAYS)
def test_weights(comm, way, net):
    """What cannot be measured here is skipped with its reason, and left out of the race below."""
    pytest.importorskip("torch")
    if reason := on_rank_0(comm, lambda: why_not(WAYS[way], comm)):
        pytest.skip(f"{way}: {reason}")
    with plain_torch():
        outcome = check(WAYS[way], net, comm)
    assert not outcome.problem, outcome.problem


@pytest.mark.parametrize("net", NETS)
def test_race(comm, record, net):
    pytest.importorskip("torch")
    shape, rows = NETS[net][2:]
    batch = random_batch(rows, shape)
    ways = on_rank_0(  # ranks may see different devices
        comm, lambda: {name: way for name, way in WAYS.items() if not why_not(way, comm)}
    )
    with plain_torch():
        made = {name: make(way, net, comm) for name, way in ways.items()}
        contenders = {
            name: Contender(turn_of(way, made[name], batch, comm)) for name, way in ways.items()
        }
        rounds, state = turns_on(comm, contenders, ROUNDS)
        for each in made.values():
            each.close()
    record(Race.of(f"{net}, devices", comm.size, rows, rounds, state))
