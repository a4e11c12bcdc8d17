"""torch.nn.parallel.DistributedDataParallel as a strategy."""

import torch

from bench.peers.base import GlooPeer


class DistributedDataParallel(GlooPeer):
    """Data parallelism that sums buckets of gradients during the backward pass."""

    def _trained(self):
        weights = super()._trained()
        self.module = torch.nn.parallel.DistributedDataParallel(
            self.module,
            gradient_as_bucket_view=True,
            find_unused_parameters=any(p.may_lack_gradient for p in self.parameters),
        )
        return weights

    def close(self) -> None:
        # The reducer must release the process group before Python does. If its destructor were the
        # last to hold the group, it would wait for gloo's threads with the GIL held, and one of
        # them may wait for the GIL to forget the last step (pytorch/pytorch#56297). Python lets go
        # of the GIL as it destroys the group.
        if not self.closed:
            self.module = self.module.module
        super().close()
