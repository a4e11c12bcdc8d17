"""Is it faster than what others offer?

The same torch net is trained by our strategies, by torch's own ways to train in parallel, and by
one process with all cores. The weights of each are checked; then all take turns in the same rounds.
scikit-learn's net of the same size is timed only.
"""

from functools import partial

import numpy as np
import pytest

from bench.core.arms import alone, together, training, within
from bench.core.cell import Cell, measurements
from bench.core.check import Check, equals_sequential, uneven_rows
from bench.core.cores import all_torch_threads, available
from bench.core.grid import MLP_SIZES, TORCH_NETS, optimizer
from bench.core.race import turns_on
from bench.core.turns import Contender, ratio
from nn import Batch
from strategies import DataParallel, Pipeline, Sequential, SharedDataParallel

pytestmark = pytest.mark.workers(2)

NETS = TORCH_NETS | {"resnet20": ({"width": 8}, (3, 32, 32))}
ROWS = 4096
PLAIN = "plain"
THREADS = "torch, all cores"
OURS = {
    "DataParallel": DataParallel,
    "SharedDataParallel": SharedDataParallel,
    "Pipeline, 4 parts": Pipeline,
}


@pytest.mark.parametrize(
    ("net", "batch_size", "limit"),
    [
        ("mlp", 64, 1 / 1.5),
        ("mlp", 256, 1 / 1.5),
        ("mlp", 1024, 1 / 1.5),
        ("cnn", 64, 1.0),
        ("resnet20", 32, 1.0),
    ],
    ids=lambda value: str(value) if not isinstance(value, float) else "",
)
def test_peers(comm, record, promise, net, batch_size, limit):
    if comm.size > available():
        pytest.skip(f"{comm.size} workers need as many cores; there are {available()}")
    pytest.importorskip("torch").set_num_threads(1)
    from bench import peers
    from bench.peers.scikit_learn import partial_fit_step
    from nn.torch import zoo
    from nn.torch.model import TorchModel

    arguments, shape = NETS[net]

    def build(strategy, *on):
        model = TorchModel(lambda: zoo.build(net, **arguments), input_shape=shape)
        return strategy(model, optimizer(), *on)

    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((ROWS, *shape), np.float32), rng.integers(0, 10, ROWS)
    batches = [
        Batch(x[lo : lo + batch_size], y[lo : lo + batch_size]) for lo in range(0, ROWS, batch_size)
    ]
    other = slice(1, 1 + uneven_rows(comm.size, batch_size))
    uneven = Batch(x[other], y[other])
    strategies = {
        "torch, plain loop": build(peers.Peer),
        THREADS: build(peers.Peer),
        **{name: build(ours, comm) for name, ours in OURS.items()},
        **{peer.__name__: build(peer, comm) for peer in peers.PEERS},
    }
    contenders, raced = {}, {}

    def enter(label, step, workers, check):
        way = alone if workers == 1 else together
        turn = partial(way, comm, training(step, batches))
        if label == THREADS and comm.rank == 0:
            turn = within(all_torch_threads, turn)
        contenders[label] = Contender(turn)
        raced[label] = Cell(label, f"torch {net}", workers, batch_size, ROWS), check

    enter(PLAIN, build(Sequential).step, 1, Check())
    for label, strategy in strategies.items():
        check = equals_sequential(strategy, build(Sequential), [*batches[:2], uneven], comm)
        assert not check.problem, f"{label}: {check.problem}"
        enter(label, strategy.step, strategy.comm.size, check)
    if net == "mlp":
        note = "scikit-learn draws weights of its own: only its time is compared"
        enter("scikit-learn", partial_fit_step(MLP_SIZES, 0.01), 1, Check(note=note))
    rounds, state = turns_on(comm, contenders)
    for strategy in strategies.values():
        strategy.close()
    del raced[PLAIN]
    for result in measurements(raced, rounds, PLAIN, THREADS, state):
        record(result)
    times = rounds.seconds
    promise(
        f"SharedDataParallel / torch DDP, {net}, batch {batch_size}",
        ratio(times["SharedDataParallel"], times["DistributedDataParallel"]),
        limit,
        times["SharedDataParallel"],
        machine=state,
        rounds=times,
        steps_per_round=rounds.steps,
    )
