"""What does it cost to train a torch module by a strategy?"""

import copy

import pytest

import nn
from bench.core.arms import calls_in_turn
from bench.core.grid import MLP_SIZES, random_batch
from bench.core.turns import ratio
from strategies import Sequential

torch = pytest.importorskip("torch")


def net():
    from nn.torch import zoo

    return zoo.build("mlp", sizes=MLP_SIZES)


def plain_loop(net, batch, device):
    """A step as people write it; reading the loss waits for the device, as `step` does."""
    net = copy.deepcopy(net).to(device)
    optimizer = torch.optim.SGD(net.parameters(), 0.01)

    def step():
        x, y = torch.from_numpy(batch.x).to(device), torch.from_numpy(batch.y).to(device)
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


@pytest.mark.workers(1)
@pytest.mark.parametrize(
    "batch_size",
    [pytest.param(64, marks=pytest.mark.full), 256, pytest.param(1024, marks=pytest.mark.full)],
)
def test_overhead(promise, device, batch_size):
    """A promise on the CPU at batch 256; elsewhere only a measurement."""
    from nn.torch.model import TorchModel

    torch.set_num_threads(1)
    batch = random_batch(batch_size)
    training = Sequential(TorchModel(net(), device, seed=0), nn.SGD(0.01))
    arms = {
        "TorchModel": lambda: training.step(batch),
        "plain": plain_loop(net(), batch, device),
    }
    times = calls_in_turn(arms, rounds=51)
    limit = 1.10 if (device, batch_size) == ("cpu", 256) else None
    name = f"TorchModel step / plain torch step on {device}, batch {batch_size}"
    promise(name, ratio(times["TorchModel"], times["plain"]), limit, times["TorchModel"])
