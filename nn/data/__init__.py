"""Data sets: `load(name)` gives a `Dataset`, prepared once and memory-mapped from then on."""

from nn.data.dataset import Dataset
from nn.data.load import NAMES, load

__all__ = ["NAMES", "Dataset", "load"]
