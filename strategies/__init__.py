"""Strategies train a net on several ranks. Every one keeps the contract of `base.Strategy`."""

from strategies.abort import abort_on_error
from strategies.base import Refused, Strategy
from strategies.compressed_data_parallel import CompressedDataParallel, PowerSGD, TopK
from strategies.data_parallel import DataParallel
from strategies.hogwild import Hogwild
from strategies.hybrid import Hybrid
from strategies.local_sgd import LocalSGD
from strategies.parameter_server import ParameterServer
from strategies.pipeline import Pipeline
from strategies.sequential import Sequential
from strategies.shared_data_parallel import SharedDataParallel
from strategies.tensor_parallel import TensorParallel
from strategies.training import History, train
from strategies.zero import ZeRO

__all__ = [
    "CompressedDataParallel",
    "DataParallel",
    "History",
    "Hogwild",
    "Hybrid",
    "LocalSGD",
    "ParameterServer",
    "Pipeline",
    "PowerSGD",
    "Refused",
    "Sequential",
    "SharedDataParallel",
    "Strategy",
    "TensorParallel",
    "TopK",
    "ZeRO",
    "train",
]

abort_on_error()
