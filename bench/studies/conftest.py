"""Arguments of the studies of whole trainings: other data, sizes and nets than by default.

nox -s bench_mpi -- -n 2 bench/studies/kfold.py --set mnist --set-path ~/mnist --nets lenet
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench.studies import gpt2_options
from nn.data import Dataset, load
from nn.data.load import MADE

OPTIONS: dict[str, tuple[type, str]] = {
    "set": (str, "name of a data set of nn.data (digits)"),
    "set-path": (Path, "your files, for mnist, cifar10 and file"),
    "rows": (int, "training rows (few of sets that are drawn; all there are of others)"),
    "epochs": (int, "epochs of each training; by default few, chosen by the study"),
    "folds": (int, "parts of a k-fold cross-validation"),
    "batch-sizes": (str, "rows of the batches that are compared, with commas between them"),
    "target": (float, "share of the test rows that is to be right, e.g. 0.9"),
    "trials": (int, "configurations that are tried for each batch size"),
    "seeds": (int, "trainings of each batch size after it is tuned"),
    "nets": (str, "nets, with commas between them: mlp, cnn, lenet, or one of nn.torch.zoo"),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("lockstep: studies of whole trainings")
    for name, (kind, about) in OPTIONS.items():
        group.addoption(f"--{name}", type=kind, help=about)
    group.addoption(
        "--classic", action="store_true", help="the sizes that the projects of projects.py had"
    )
    gpt2_options.add(parser)


@dataclass(frozen=True)
class Chosen:
    """What the command line says; None where it says nothing."""

    set: str | None
    set_path: Path | None
    rows: int | None
    epochs: int | None
    folds: int | None
    batch_sizes: str | None
    target: float | None
    trials: int | None
    seeds: int | None
    nets: str | None
    classic: bool

    def data(self, usual: int = 2_000, **options: Any) -> Dataset:
        """Load the data set, with further options of `nn.data.load`.

        Args:
            usual: training rows by default, of a set that is drawn as large as is asked for.
        """
        name, rows = self.set or "digits", self.rows
        if rows is None and self.set_path is None and name in MADE and MADE[name].usual:
            rows = usual
        return load(name, rows, path=self.set_path, **options)

    def names(self, *usual: str) -> list[str]:
        """The names of the nets."""
        return self.nets.split(",") if self.nets else list(usual)


def chosen_by(config: pytest.Config) -> Chosen:
    found = {name.replace("-", "_"): config.getoption(name.replace("-", "_")) for name in OPTIONS}
    return Chosen(**found, classic=config.getoption("classic"))
