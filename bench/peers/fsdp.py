"""torch.distributed.fsdp as a strategy."""

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from bench.peers.base import GlooPeer, flat


class FullyShardedDataParallel(GlooPeer):
    """`fully_shard` (FSDP 2) of the whole module as one unit."""

    def _trained(self):
        mesh = DeviceMesh("cpu", torch.arange(self.comm.size))
        fully_shard(self.module, mesh=mesh)
        return super()._trained()

    def weights(self):
        weights = [weight.full_tensor().detach() for weight in self.module.parameters()]
        return flat(weights, self.model.dtype)
