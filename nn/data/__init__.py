"""Data sets: `load(name)` prepares a `Dataset` once and memory-maps it from then on."""

from nn.data.dataset import Dataset
from nn.data.load import NAMES, load
from nn.data.validation import Fold

__all__ = ["NAMES", "Dataset", "Fold", "load"]
