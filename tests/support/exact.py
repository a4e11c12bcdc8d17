"""The strategies that train the weights of plain training, by name, for a proof to try each of."""

from functools import partial

from bench.user_code import registry
from bench.user_code.registry import Build
from strategies import CompressedDataParallel, Hybrid, LocalSGD, ParameterServer, Pipeline, TopK

EXACT: dict[str, Build] = registry.EXACT | {
    "GPipe": partial(Pipeline, micro_batches=2, schedule="gpipe"),
    "Hybrid-tensor": lambda model, optimizer, comm: Hybrid(
        model, optimizer, comm, tensor=comm.size, micro_batches=2
    ),
    "TopK-all": lambda model, optimizer, comm: CompressedDataParallel(
        model, optimizer, comm, TopK(10**6)
    ),
}
"""(model, optimizer, comm) -> strategy: what a model of one's own is tried with, and more."""

DATA_PARALLEL = (
    *("DataParallel", "DataParallel-2-buckets", "SharedDataParallel"),
    *("ZeRO-1", "ZeRO-2", "ZeRO-3", "TopK-all"),
)
"""Those whose ranks compute rows of their own at the same time: batch norm can be synchronised."""

OF_OWN_LOSS: dict[str, Build] = {"LocalSGD": LocalSGD, "ParameterServer": ParameterServer}
"""Exact too, but `step` returns the loss of a rank's own rows: only weights can be compared."""
