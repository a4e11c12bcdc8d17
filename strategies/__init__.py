"""How a net is trained on several ranks. Every strategy keeps the contract of `base.Strategy`."""

from strategies.base import Strategy
from strategies.data_parallel import DataParallel
from strategies.sequential import Sequential
from strategies.shared import SharedDataParallel

__all__ = ["DataParallel", "Sequential", "SharedDataParallel", "Strategy"]
