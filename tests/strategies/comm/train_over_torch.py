"""A training script over torch.distributed, as torchrun starts it; see test_torch_comm.py."""

import sys
from pathlib import Path

import numpy as np

from nn import SGD
from strategies import Pipeline
from strategies.comm.torch_comm import TorchComm
from tests.support.oracles import random_batches
from tests.support.small_nets import NETS


def main(folder):
    with TorchComm.world(timeout=30) as comm:
        model = NETS["five_narrow"]()
        batches = random_batches(model, 7)
        strategy = Pipeline(model, SGD(0.1), comm)
        for batch in batches:
            strategy.step(batch)
        np.save(folder / f"{comm.rank}_of_{comm.size}.npy", strategy.weights())
        strategy.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
