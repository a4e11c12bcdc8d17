"""What torch modules do beside what their class says."""

import torch


def hooked(module: torch.nn.Module) -> bool:
    """Whether it does more, or something else, when it is called, than its class says."""
    hooks = module._forward_pre_hooks, module._forward_hooks
    patched = "forward" in vars(module)
    return patched or any((*hooks, module._backward_pre_hooks, module._backward_hooks))
