"""Torch's modules as models, published nets by name, and torch's optimizers."""

from nn.torch.model import TorchModel
from nn.torch.optimizer import TorchOptimizer
from nn.torch.zoo import build

__all__ = ["TorchModel", "TorchOptimizer", "build"]
