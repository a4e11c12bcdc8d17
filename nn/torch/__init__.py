"""Torch modules as models: `TorchModel` wraps a module, `build` builds a published net by name."""

from nn.torch.model import TorchModel
from nn.torch.zoo import build

__all__ = ["TorchModel", "build"]
