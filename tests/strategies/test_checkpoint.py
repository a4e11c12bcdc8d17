"""A resumed run continues bit for bit; a file that is not a checkpoint is named."""

from functools import partial
from itertools import product

import numpy as np
import pytest

from nn import SGD, AdaGrad, Adam, checkpoint, data, mlp, npz_file
from strategies import (
    CompressedDataParallel,
    DataParallel,
    Hogwild,
    LocalSGD,
    ParameterServer,
    Pipeline,
    PowerSGD,
    Sequential,
    SharedDataParallel,
    TopK,
)
from strategies.training import load, save
from tests.support.exact import EXACT
from tests.support.optimizers import OPTIMIZERS

STRATEGIES = {
    "Sequential": Sequential,
    **EXACT,
    "Pipeline-naive": partial(Pipeline, schedule="naive"),
    "Pipeline-interleaved": partial(Pipeline, schedule="interleaved"),
    "LocalSGD-2": partial(LocalSGD, period=2, warmup=2),
    "LocalSGD-outer": lambda m, o, comm: LocalSGD(m, o, comm, 3, outer=SGD(0.7, momentum=0.9)),
    "ParameterServer": ParameterServer,
}
FOR_EVERY_OPTIMIZER = ("Sequential", "DataParallel", "SharedDataParallel")
MEANS = {
    "top-k": lambda m, o, comm: CompressedDataParallel(m, o, comm, TopK(5)),
    "PowerSGD": lambda m, o, comm: CompressedDataParallel(m, o, comm, PowerSGD(1)),
    "Hogwild": Hogwild,
    "Hogwild, lock": partial(Hogwild, lock=True),
}
"""Strategies whose state is a mean over the ranks."""


@pytest.fixture
def path(comm, tmp_path):
    """One file for all ranks."""
    return comm.bcast(tmp_path) / "run.npz"


def build():
    return mlp([4, 8, 7, 6, 5, 3], seed=3)


def assert_resumes(strategy, optimizer, comm, path):
    iris = data.load("iris")
    whole = strategy(build(), OPTIMIZERS[optimizer](), comm)
    for i, batch in enumerate(iris.batches(32, epochs=3, seed=5)):
        whole.step(batch)
        if i == 4:
            save(path, whole, position=5)

    resumed = strategy(build(), OPTIMIZERS[optimizer](), comm)
    position = load(path, resumed)
    assert position == 5
    assert not np.array_equal(resumed.weights(), whole.weights())
    for batch in iris.batches(32, epochs=3, seed=5, start=position):
        resumed.step(batch)
    np.testing.assert_array_equal(resumed.weights(), whole.weights())
    state = resumed.state()
    for name, vector in whole.state().items():
        np.testing.assert_array_equal(state[name], vector, name)
    whole.close()
    resumed.close()


@pytest.mark.parametrize(
    ("strategy", "optimizer"),
    [
        *product(FOR_EVERY_OPTIMIZER, OPTIMIZERS),
        *((name, "adam") for name in STRATEGIES if name not in FOR_EVERY_OPTIMIZER),
    ],
)
def test_a_resumed_run_continues_bit_for_bit(comm, path, strategy, optimizer):
    assert_resumes(STRATEGIES[strategy], optimizer, comm, path)


@pytest.mark.workers(1)
@pytest.mark.parametrize("strategy", MEANS)
def test_on_one_rank_a_mean_continues_bit_for_bit(comm, path, strategy):
    assert_resumes(MEANS[strategy], "adam", comm, path)


def test_a_run_goes_on_with_another_strategy(comm, path):
    iris = data.load("iris")
    first = SharedDataParallel(build(), Adam(), comm)
    oracle = Sequential(build(), Adam())
    batches = list(iris.batches(32, epochs=2))
    for batch in batches[:3]:
        first.step(batch)
        oracle.step(batch)
    save(path, first, 3)
    first.close()
    second = DataParallel(build(), Adam(), comm)
    load(path, second)
    for batch in batches[3:]:
        second.step(batch)
        oracle.step(batch)
    np.testing.assert_allclose(second.weights(), oracle.weights(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("strategy", [DataParallel, SharedDataParallel])
def test_a_net_of_fewer_cache_lines_than_ranks(comm, path, strategy):
    """Some ranks' slices of the shared update are empty."""
    training = strategy(mlp([4, 3]), Adam(), comm)
    batches = list(data.load("iris").batches(32))
    training.step(batches[0])
    save(path, training)
    resumed = strategy(mlp([4, 3], seed=0), Adam(), comm)
    load(path, resumed)
    for each in (training, resumed):
        each.step(batches[1])
    np.testing.assert_array_equal(resumed.weights(), training.weights())
    training.close()
    resumed.close()


def test_every_rank_learns_that_saving_failed(comm, path):
    with pytest.raises(FileNotFoundError):
        save(path.parent / "nowhere" / "run.npz", DataParallel(build(), SGD(0.1), comm))
    with pytest.raises(TypeError):
        save(None, DataParallel(build(), SGD(0.1), comm))
    with pytest.raises(OSError, match="is a device or a pipe"):
        save("/dev/null", DataParallel(build(), SGD(0.1), comm))
    with pytest.raises(ValueError, match="position=-1"):
        save(path, DataParallel(build(), SGD(0.1), comm), position=-1)


def test_every_rank_learns_that_loading_failed(comm, path):
    """Rank 0 alone finds a damaged file."""
    save(path, DataParallel(build(), SGD(0.1), comm))
    mine = path.with_name(f"{comm.rank}.npz")
    mine.write_bytes(path.read_bytes() if comm.rank else b"damaged")
    with pytest.raises(ValueError, match="expected a checkpoint"):
        load(mine, DataParallel(build(), SGD(0.1), comm))


@pytest.mark.parametrize("position", [None, -1, 2.5, np.nan, [3]])
def test_a_file_without_a_position_is_refused_and_changes_nothing(comm, path, position):
    """It would go on from the first batch."""
    strategy = DataParallel(build(), SGD(0.1), comm)
    before = strategy.weights()
    state = {"params": before + 1, "steps": np.array(3)}
    if comm.rank == 0:
        given = {} if position is None else {"position": np.array(position)}
        checkpoint.write(path, state | given)
    comm.Barrier()
    with pytest.raises(ValueError, match=r"run\.npz: its position is .*: expected a whole number"):
        load(path, strategy)
    np.testing.assert_array_equal(strategy.weights(), before)


def test_another_dtype_is_refused_and_changes_nothing(comm):
    strategy = DataParallel(build(), SGD(0.1), comm)
    before = strategy.weights()
    state = {"params": before.astype("float64") + 1, "steps": np.array(3)}
    with pytest.raises(ValueError, match="of float32"):
        strategy.load_state(state)
    np.testing.assert_array_equal(strategy.weights(), before)
    assert strategy.optimizer.steps == 0


def test_another_model_or_optimizer_is_refused(comm, path):
    strategy = DataParallel(build(), Adam(), comm)
    strategy.step(next(iter(data.load("iris").batches(8))))
    save(path, strategy)
    with pytest.raises(ValueError, match="the model has 32 parameters"):
        load(path, DataParallel(mlp([4, 3, 2, 2, 1]), Adam(), comm))
    with pytest.raises(ValueError, match="this optimizer keeps"):
        load(path, DataParallel(build(), AdaGrad(), comm))


@pytest.mark.workers(1)
def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "run.npz"
    checkpoint.write(path, {"a": np.arange(3)})
    monkeypatch.setattr(npz_file, "write", lambda file, _: file.write(b"half") and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        checkpoint.write(path, {"a": np.arange(4)})
    np.testing.assert_array_equal(checkpoint.read(path)["a"], np.arange(3))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.workers(1)
def test_damaged_and_foreign_files_are_named(tmp_path):
    path = tmp_path / "run.npz"
    checkpoint.write(path, {"a": np.arange(1000)})
    whole = path.read_bytes()
    for damaged in (
        whole[: len(whole) // 2],
        b"",
        b"not an archive",
        whole[:80] + b"xxxx" + whole[84:],
    ):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"run\.npz: expected a checkpoint"):
            checkpoint.read(path)
    np.savez(path, a=np.arange(3))
    with pytest.raises(ValueError, match="format None, and format 2 can be read"):
        checkpoint.read(path)
    np.savez(path, format=np.array(1), a=np.arange(3))
    with pytest.raises(ValueError, match="format 1, and format 2 can be read"):
        checkpoint.read(path)
    with pytest.raises(FileNotFoundError):
        checkpoint.read(tmp_path / "missing.npz")


@pytest.mark.workers(1)
def test_python_objects_are_neither_written_nor_read(tmp_path, monkeypatch):
    path = tmp_path / "run.npz"
    with pytest.raises(ValueError, match="'a' holds object: expected numbers"):
        checkpoint.write(path, {"a": np.array([{}])})
    monkeypatch.setattr(npz_file, "_list", lambda members: b"")  # as if it had been listed
    np.savez(path, format=np.array(checkpoint.FORMAT), a=np.array([{}]))
    with pytest.raises(ValueError, match="Python objects, which are never read"):
        checkpoint.read(path)
