"""Arguments of the studies of whole trainings: other data, sizes and nets than by default.

nox -s bench_mpi -- -n 2 bench/studies/kfold.py --set mnist --set-path ~/mnist --nets lenet
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench.studies import gpt2_options
from nn.data import Dataset, load

OPTIONS: dict[str, tuple[type, str]] = {
    "set": (str, "name of a data set of nn.data (digits)"),
    "set-path": (Path, "your files, for mnist, cifar10 and file"),
    "rows": (int, "training rows (2,000 of digits; all there are of your files)"),
    "epochs": (int, "epochs of each training; by default few, chosen by the study"),
    "folds": (int, "parts of a k-fold cross-validation"),
    "nets": (str, "nets, with commas between them: mlp, cnn, lenet, or one of nn.torch.zoo"),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("lockstep: studies of whole trainings")
    for name, (kind, about) in OPTIONS.items():
        group.addoption(f"--{name}", type=kind, help=about)
    gpt2_options.add(parser)


@dataclass(frozen=True)
class Chosen:
    """What the command line says; None where it says nothing."""

    set: str | None
    set_path: Path | None
    rows: int | None
    epochs: int | None
    folds: int | None
    nets: str | None

    def data(self, **options: Any) -> Dataset:
        """Load the data set, with further options of `nn.data.load`."""
        usual = 2_000 if self.set_path is None else None
        rows = usual if self.rows is None else self.rows
        return load(self.set or "digits", rows, path=self.set_path, **options)

    def names(self, *usual: str) -> list[str]:
        """The names of the nets."""
        return self.nets.split(",") if self.nets else list(usual)


def chosen_by(config: pytest.Config) -> Chosen:
    return Chosen(*(config.getoption(name.replace("-", "_")) for name in OPTIONS))
