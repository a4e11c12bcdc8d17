"""The layer of a GPT-2 block, whose heads and hidden neurons can be split over ranks.

This is the split of Shoeybi et al., "Megatron-LM" (2019), section 3: each rank has some heads of
the attention, with their columns of the first matrix and their rows of the second, and some hidden
neurons of the MLP. Partial outputs are summed, in one Allreduce of activations forward and one
backward for each of the two. Norms, and biases behind the sums, are whole on every rank.
"""

import copy
from typing import Any

import torch
from torch.nn import GELU, LayerNorm, Linear, Module

from nn.batch import bounds
from nn.layers.divisible import Divisible, Piece
from nn.torch.gpt2 import MLP, Attention, Block
from nn.torch.layer import TorchLayer
from nn.torch.linear import linear_without_values
from nn.torch.modules import hooked
from nn.torch.sums import split_work, sum_of_parts

_MODULES = [Block, LayerNorm, Attention, Linear, Linear, LayerNorm, MLP, Linear, GELU, Linear]
_PARAMETERS = 12  # of a block: a weight and a bias of each of six modules
_ALL = (slice(None),)


def divisible(module: Module) -> bool:
    """Whether `TorchBlock` can divide the module: a block of `gpt2` as it was built, without hooks.

    If one of its parameters is frozen it is left whole.
    """
    parts = list(module.modules())
    weights = list(module.parameters())
    as_built = [type(part) for part in parts] == _MODULES and len(weights) == _PARAMETERS
    return as_built and not any(map(hooked, parts)) and all(w.requires_grad for w in weights)


class TorchBlock(TorchLayer, Divisible):
    """The layer of a `Block` of GPT-2."""

    sums = 2

    def pieces(self, rank: int, ranks: int) -> list[Piece]:
        heads, hidden = _own(self.module, rank, ranks)
        (width,), size = self.shapes[0], self.module.attn.head_width  # type: ignore[union-attr]
        own = slice(heads.start * size, heads.stop * size)
        norm: list[Piece] = [((width,), _ALL)] * 2
        return [
            *norm,
            ((3, width, width), (slice(None), own)),  # queries, keys, values, one below the other
            ((3, width), (slice(None), own)),
            ((width, width), (slice(None), own)),
            ((width,), _ALL),
            *norm,
            ((4 * width, width), (hidden,)),
            ((4 * width,), (hidden,)),
            ((width, 4 * width), (slice(None), hidden)),
            ((width,), _ALL),
        ]

    def part(self, rank: int, comm: Any) -> "PartOfTorchBlock":
        module = _part_of_block(self.module, rank, comm)  # type: ignore[arg-type]
        layer = PartOfTorchBlock(module, self.device, self.compute)
        layer.know(self)
        return layer


class PartOfTorchBlock(TorchLayer):
    """What one rank computes of a `TorchBlock`, given and returning whole rows.

    It is not tried on rows of its own: all ranks have to compute it together.
    """

    def row_shape(self, shape):
        return shape

    def kinds(self, shape):
        return "f"


def _own(block: Any, rank: int, ranks: int) -> tuple[slice, slice]:
    """The heads and the hidden neurons of a rank."""
    heads, hidden = block.attn.heads, block.mlp.c_fc.out_features
    return slice(*bounds(rank, ranks, heads)), slice(*bounds(rank, ranks, hidden))


class _Part(Module):
    """Base class of what one rank computes of an attention or MLP: some of its hidden features."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.hidden(self.enter(x))  # type: ignore[operator]
        project: Any = self.c_proj
        # The bias is added once, behind the sum; its gradient is the same on every rank.
        return self.sum(torch.nn.functional.linear(hidden, project.weight)) + project.bias  # type: ignore[operator]


class _PartOfAttention(_Part, Attention):
    pass


class _PartOfMLP(_Part, MLP):
    pass


def _part_of_block(block: Block, rank: int, comm: Any) -> Block:
    """A block with parameters without values for this rank's heads and hidden neurons."""
    attn, mlp = block.attn, block.mlp
    heads, hidden = _own(block, rank, comm.size)
    width, own_heads = attn.c_attn.in_features, heads.stop - heads.start
    features, neurons = own_heads * attn.head_width, hidden.stop - hidden.start
    like = attn.c_attn.weight

    def matrices(module: Any, first: str, made: int, taken: int) -> Any:
        setattr(module, first, linear_without_values(width, made, True, like))
        module.c_proj = linear_without_values(taken, width, True, like)
        # Functions are shared by copies of the module, so the communicator in them is not copied.
        module.enter = lambda x: split_work(x, comm)
        module.sum = lambda x: sum_of_parts(x, comm)
        return module

    # Made without `__init__`, which would draw values for parameters of the whole.
    part, part_of_attn, part_of_mlp = (
        _bare(kind) for kind in (Block, _PartOfAttention, _PartOfMLP)
    )
    part_of_attn.heads, part_of_attn.head_width = own_heads, attn.head_width
    part.ln_1, part.attn = copy.deepcopy(block.ln_1), part_of_attn
    part.ln_2, part.mlp = copy.deepcopy(block.ln_2), part_of_mlp
    matrices(part_of_attn, "c_attn", 3 * features, features)
    matrices(part_of_mlp, "c_fc", neurons, neurons)
    part_of_mlp.gelu = copy.deepcopy(mlp.gelu)
    return part


def _bare(kind: type[Module]) -> Any:
    module = kind.__new__(kind)
    Module.__init__(module)
    return module
