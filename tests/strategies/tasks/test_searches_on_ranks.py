"""K-fold, searches and ensembles on the ranks of a launch: every rank gets the same result."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from nn import SGD
from nn.data import Dataset, load
from strategies.tasks import Ensemble, kfold, search
from tests.strategies.tasks.nets import learnable_rows, small, wide, write

pytestmark = pytest.mark.workers(2)

HOW: dict[str, Any] = dict(batch_size=8, epochs=2, optimizer=partial(SGD, momentum=0.5))
SPACE = {"lr": [0.3, 0.1, 0.01], "width": [2, 8], "batch_size": 8, "epochs": 4}


@pytest.fixture
def path(comm, tmp_path: Path) -> Path:
    if comm.rank == 0:
        write(tmp_path / "rows.npz", **learnable_rows())
    found = comm.bcast(tmp_path)
    return found / "rows.npz"


def shared(path: Path, **options: Any) -> Dataset:
    return load("file", path=path, **options)


def test_kfold(comm, path: Path) -> None:
    dataset = shared(path)
    parallel = kfold({"small": small}, {"rate": 0.1}, dataset, 3, executor=comm, **HOW)
    assert parallel.equals(kfold({"small": small}, {"rate": 0.1}, dataset, 3, **HOW))
    assert parallel.executor == "2 ranks"


@pytest.mark.parametrize("how", ["grid", "halving", "asha"])
def test_search(comm, path: Path, how: str) -> None:
    dataset = shared(path, validation=0.3)
    options: dict[str, Any] = {} if how == "grid" else {"eta": 2}
    found = search(SPACE, dataset, how=how, executor=comm, **options)
    everyone = comm.allgather((found.decisions(), found.order, found.test_accuracy, found.seconds))
    assert everyone == [everyone[0]] * comm.size
    if how == "asha":
        options |= {"replay": found.order, "at_once": comm.size}
    serial = search(SPACE, dataset, how=how, **options)
    assert serial.decisions() == found.decisions()
    assert (serial.best, serial.test_accuracy) == (found.best, found.test_accuracy)


def test_ensemble(comm, path: Path) -> None:
    dataset = shared(path)
    models: dict[str, Any] = {"small": small, "wide": partial(wide, width=9)}
    found = [
        Ensemble(models, schedules=0.1, **HOW).fit(dataset, k=2, repeats=2, executor=executor)
        for executor in (comm, None)
    ]
    assert found[0].members == found[1].members
    assert found[0].combinations == found[1].combinations
