"""Every strategy by name, with what code needs to know of it: the one list that all others filter.

A strategy is added by one entry. Where it then takes part is its `uses`:

========= =====================================================================================
use       what happens to an entry that has it
========= =====================================================================================
proof     the tests train every kind of net with it, over MPI and over torch.distributed
user      a user's model is proven and measured with it (`--model`)
grid      it is measured in the common grid, whose cells it gives its name
race      it competes for the fastest strategy of a net (`nox -s bench_which`)
========= =====================================================================================

An entry is called like a class of strategies, and `select` finds those that share some traits:

    CATALOG["ZeRO-2"](model, optimizer, comm)
    select("proof", exact=True, needs_mpi=False)
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from strategies.base import Refused, Strategy
from strategies.compressed_data_parallel import (
    CompressedDataParallel,
    Compression,
    PowerSGD,
    TopK,
)
from strategies.data_parallel import DataParallel
from strategies.hogwild import Hogwild
from strategies.hybrid import Hybrid
from strategies.local_sgd import LocalSGD
from strategies.parameter_server import ParameterServer
from strategies.pipeline import Pipeline
from strategies.sequential import Sequential
from strategies.shared_data_parallel import SharedDataParallel
from strategies.tensor_parallel import TensorParallel
from strategies.zero import ZeRO

Build = Callable[[Any, Any, Any], Strategy]
"""(model, optimizer, comm) -> a new strategy; collective over comm."""

USES = ("proof", "user", "grid", "race")


@dataclass(frozen=True)
class Entry:
    """A strategy with its settings, under the name that results give it.

    Attributes:
        build: makes the strategy, from objects of its own each time.
        inexact: why its weights are not those of plain training after every step, as a sentence
            for those who read a result; empty if they are.
        own_loss: `step` returns the mean loss over the rows of this rank, not of the batch.
        one_node: its ranks share memory, so they must be on one node.
        needs_mpi: it runs on an MPI communicator only, not on a `TorchComm`.
        needs_layers: it takes the model apart, so the model must be an `nn.Model` with `layers`
            (`TorchModel` is one).
        runs_silent: it runs on when no message arrives and no memory is shared, so that its time
            without communication can be measured; False if it acts on what messages say.
        syncs_batch_norm: its ranks compute every layer together, with the same weights, each on
            its rows, so batch norm can be synchronised (`TorchModel(sync_batch_norm=comm)`).
        fewest_ranks: it is refused on fewer.
        uses: where it takes part, see above; by default everywhere.
    """

    name: str
    build: Build
    inexact: str = ""
    own_loss: bool = False
    one_node: bool = False
    needs_mpi: bool = False
    needs_layers: bool = False
    runs_silent: bool = True
    syncs_batch_norm: bool = False
    fewest_ranks: int = 1
    uses: tuple[str, ...] = USES

    def __post_init__(self) -> None:
        if unknown := set(self.uses) - set(USES):
            raise ValueError(f"uses={unknown}: expected some of {', '.join(USES)}")

    @property
    def exact(self) -> bool:
        """Whether it trains the weights of plain training, to rounding, at every step."""
        return not self.inexact

    def __call__(self, model: Any, optimizer: Any, comm: Any) -> Strategy:
        """Make the strategy. Collective.

        Raises:
            Refused: `comm` has fewer ranks than it needs; or as the strategy says.
        """
        if comm.size < self.fewest_ranks:
            raise Refused(f"{self.name} needs {self.fewest_ranks} ranks, and there are {comm.size}")
        return self.build(model, optimizer, comm)


def _compressed(compression: Callable[[], Compression]) -> Build:
    """Give every strategy a compression of its own, since it remembers what was sent."""
    return lambda model, optimizer, comm: CompressedDataParallel(
        model, optimizer, comm, compression()
    )


def _hybrid(model: Any, optimizer: Any, comm: Any) -> Hybrid:
    stages = 1 if comm.size % 2 else 2
    return Hybrid(model, optimizer, comm, data=comm.size // stages, stages=stages)


def _all_tensor(model: Any, optimizer: Any, comm: Any) -> Hybrid:
    return Hybrid(model, optimizer, comm, tensor=comm.size, micro_batches=2)


def _by_two(first: str, second: str) -> Build:
    """Make a grid whose second side has two ranks, and whose first side has all others."""

    def build(model: Any, optimizer: Any, comm: Any) -> Hybrid:
        if comm.size % 2:
            raise Refused(f"a grid with a side of 2 needs an even number of ranks, not {comm.size}")
        sides = {first: comm.size // 2, second: 2}
        return Hybrid(model, optimizer, comm, **sides, micro_batches=4 if "stages" in sides else 1)

    return build


def _late(why: str) -> str:
    return f"{why}, so weights differ at every step: see how soon it is as good as plain training"


_ROWS: dict[str, Any] = {"syncs_batch_norm": True}
_CUT: dict[str, Any] = {"needs_layers": True}
_SHARED: dict[str, Any] = {"one_node": True, "needs_mpi": True}
_LESS: dict[str, Any] = _ROWS | _CUT
_HOGWILD: dict[str, Any] = _SHARED | {
    "inexact": _late("ranks update the same parameters whenever they are ready"),
    "own_loss": True,
    "uses": ("grid",),
}

CATALOG: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry("Sequential", Sequential, uses=()),
        # Rows are split over the ranks.
        Entry("DataParallel", DataParallel, **_ROWS),
        Entry(
            "DataParallel-2-buckets",
            partial(DataParallel, buckets=2),
            **_ROWS,
            uses=("proof", "user"),
        ),
        Entry("DataParallel-3-buckets", partial(DataParallel, buckets=3), **_ROWS, uses=("grid",)),
        Entry("SharedDataParallel", SharedDataParallel, **_ROWS, **_SHARED),
        Entry("ZeRO-1", ZeRO, **_ROWS, **_CUT, uses=("proof", "user", "race")),
        Entry("ZeRO-2", partial(ZeRO, stage=2), **_ROWS, **_CUT, uses=("proof", "user")),
        Entry("ZeRO-3", partial(ZeRO, stage=3), **_ROWS, **_CUT, uses=("proof", "user")),
        # The net is split over the ranks.
        Entry("TensorParallel", TensorParallel, **_CUT, uses=("proof", "user", "race")),
        Entry("Pipeline", partial(Pipeline, micro_batches=2), **_CUT, uses=("proof", "user")),
        Entry("Pipeline-4", partial(Pipeline, micro_batches=4), **_CUT, uses=("race",)),
        Entry("Pipeline-8", partial(Pipeline, micro_batches=8), **_CUT, uses=("race",)),
        Entry(
            "GPipe",
            partial(Pipeline, micro_batches=2, schedule="gpipe"),
            **_CUT,
            uses=("proof",),
        ),
        # Rows and the net are split.
        Entry("Hybrid", _hybrid, **_CUT, uses=("proof", "user")),
        Entry("Hybrid-tensor", _all_tensor, **_CUT, uses=("proof",)),
        *(
            Entry(name, _by_two(*sides), **_CUT, fewest_ranks=4, uses=("race",))
            for name, sides in (
                ("Hybrid-data-pipeline", ("data", "stages")),
                ("Hybrid-data-tensor", ("data", "tensor")),
                ("Hybrid-pipeline-tensor", ("stages", "tensor")),
            )
        ),
        # Ranks do not wait for each other at every step.
        Entry("LocalSGD", LocalSGD, own_loss=True, uses=("proof",)),
        Entry(
            "LocalSGD-10",
            partial(LocalSGD, period=10),
            inexact=_late("each rank takes 10 steps by itself between averages"),
            own_loss=True,
            uses=("grid",),
        ),
        Entry("Hogwild", Hogwild, **_HOGWILD),
        Entry("Hogwild-lock", partial(Hogwild, lock=True), **_HOGWILD),
        Entry(
            "ParameterServer",
            ParameterServer,
            own_loss=True,
            needs_mpi=True,
            runs_silent=False,
            uses=("proof", "grid"),
        ),
        # Less is sent.
        Entry(
            "TopK-all",
            _compressed(partial(TopK, 10**6)),
            **_LESS,
            runs_silent=False,
            uses=("proof",),
        ),
        Entry(
            "TopK-1%",
            _compressed(partial(TopK, 2350)),  # of the 235,146 parameters of the grid's mlp
            inexact=_late("the smaller elements of a gradient are sent in later steps"),
            **_LESS,
            runs_silent=False,
            uses=("grid",),
        ),
        Entry(
            "PowerSGD-2",
            _compressed(partial(PowerSGD, 2)),
            inexact=_late("what two columns do not hold of a gradient is sent in later steps"),
            **_LESS,
            uses=("grid",),
        ),
    )
}


def select(use: str | None = None, **traits: Any) -> dict[str, Entry]:
    """Find the entries of a use whose attributes have these values, by name, in order.

    Call it where the list is used, rather than once at import: an entry may come later.

    Raises:
        ValueError: an unknown use.
        AttributeError: entries have no such trait.
    """
    if use is not None and use not in USES:
        raise ValueError(f"use={use!r}: expected one of {', '.join(USES)}")
    return {
        name: entry
        for name, entry in CATALOG.items()
        if (use is None or use in entry.uses)
        and all(getattr(entry, trait) == value for trait, value in traits.items())
    }


@contextmanager
def added(entry: Entry) -> Iterator[Entry]:
    """Have one more entry in the catalog within a `with` block.

    Raises:
        ValueError: its name is taken.
    """
    if entry.name in CATALOG:
        raise ValueError(f"the catalog has a {entry.name!r} already: expected another name")
    CATALOG[entry.name] = entry
    try:
        yield entry
    finally:
        del CATALOG[entry.name]
