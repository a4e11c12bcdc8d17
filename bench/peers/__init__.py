"""How others train in parallel, as strategies: proven, measured and raced like ours.

Each is torch's own way, as its documentation has it: its modules, its autograd, its optimizers, its
communication over gloo. Only the interface is ours: `step` takes the global batch, and `weights`
returns all parameters in sequential order. The interface wants the loss of the global batch, so a
step also sums it over MPI, which takes microseconds. scikit-learn's net is only timed. JAX
(`xla.py`) and a program in C++ (`mlp.cpp`, built and run by `cpp.py`) train the nets of `nn.mlp`.

    pytest tests bench --model file.py:net --strategy bench/peers/ddp.py:DistributedDataParallel

Import this package where it is needed, not at the top of a benchmark: it imports torch.
"""

from bench.peers.base import Peer
from bench.peers.ddp import DistributedDataParallel
from bench.peers.fsdp import FullyShardedDataParallel
from bench.peers.pipelining import GPipe, OneFOneB

PIPELINES = (GPipe, OneFOneB)
PEERS = (DistributedDataParallel, FullyShardedDataParallel, *PIPELINES)

__all__ = [
    "PEERS",
    "PIPELINES",
    "DistributedDataParallel",
    "FullyShardedDataParallel",
    "GPipe",
    "OneFOneB",
    "Peer",
]
