"""torch.distributed.fsdp as a strategy."""

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from bench.peers.base import GlooPeer, flat
from strategies.base import Refused


class FullyShardedDataParallel(GlooPeer):
    """`fully_shard` (FSDP 2) of the whole module as one unit.

    Raises:
        Refused: the model has parameters that may get no gradient: where a rank has none, the
            message that sums it is shorter than that of the others, and gloo ends the process.
    """

    def _trained(self):
        if lacking := [p.name for p in self.parameters if p.may_lack_gradient]:
            raise Refused(f"{lacking[0]} may get no gradient: FSDP expected a net without such")
        mesh = DeviceMesh("cpu", torch.arange(self.comm.size))
        fully_shard(self.module, mesh=mesh)
        return super()._trained()

    def weights(self):
        weights = [weight.full_tensor().detach() for weight in self.module.parameters()]
        return flat(weights, self.model.dtype)
