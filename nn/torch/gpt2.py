"""GPT-2 in torch (Radford et al., Language models are unsupervised multitask learners, 2019).

Blocks normalise their input, not their output (section 2.3). Attention is causal, and the GELU is
the one with tanh that the published weights were trained with. There is no dropout.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import GELU, Embedding, Flatten, LayerNorm, Linear, Module, Sequential

from nn.arguments import as_int


def gpt2(
    layers: int = 12,
    heads: int = 12,
    width: int = 768,
    vocabulary: int = 50_257,
    context: int = 1_024,
    tied: bool = False,
) -> Sequential:
    """Build a net of GPT-2's shape; by default the smallest published one (124M parameters).

    It takes numbers of tokens, (rows, tokens), as whole numbers or floats, and makes logits of
    shape (rows * tokens, vocabulary): for each token a prediction of the next. Batches with such
    labels are in `nn.sequences`. Initial weights are drawn from torch's generator as in the paper:
    with standard deviation 0.02, divided by the square root of the number of residual branches in
    the last matrix of each branch.

    The published net shares one matrix between the first embedding and the output: `tied=True`. By
    default there are two, so the net has vocabulary * width parameters more, and a pipeline sends
    no gradient of the shared matrix between its first and last stage.

    Args:
        layers: number of blocks.
        heads: number of attention heads in each block.
        width: features of a token; a multiple of heads.
        vocabulary: number of different tokens.
        context: largest number of tokens in a row.
        tied: whether the output uses the matrix of the embedding of tokens.

    Raises:
        TypeError: a size is not a whole number, or tied is not True or False.
        ValueError: an argument is below 1, or heads does not divide width.
    """
    sizes = dict(layers=layers, heads=heads, width=width, vocabulary=vocabulary, context=context)
    for name, value in sizes.items():
        as_int(name, value, 1)
    if not isinstance(tied, bool):
        raise TypeError(f"tied={tied!r}: expected True or False")
    if width % heads:
        raise ValueError(f"width={width}: expected a multiple of heads={heads}")
    net = Sequential(
        tokens := Tokens(vocabulary, context, width),
        *(Block(width, heads) for _ in range(layers)),
        LayerNorm(width),
        head := Linear(width, vocabulary, bias=False),
        Flatten(0, 1),
    )
    for name, weight in net.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.zeros_(weight)
        elif weight.ndim == 2:
            ends_branch = name.endswith("c_proj.weight")
            torch.nn.init.normal_(weight, 0, 0.02 / (math.sqrt(2 * layers) if ends_branch else 1))
    if tied:
        head.weight = tokens.wte.weight
    return net


def sizes_of(net: Sequential) -> dict[str, int]:
    """Return the sizes with which `gpt2` has built a net, by the names of its arguments.

    Raises:
        TypeError: `net` was not built by `gpt2`.
    """
    if not isinstance(net, Sequential) or not isinstance(next(iter(net), None), Tokens):
        raise TypeError(f"net is {type(net).__name__}: expected one that gpt2() has built")
    tokens: Any = net[0]
    block: Any = net[1]
    return {
        "layers": len(net) - 4,
        "heads": block.attn.heads,
        "width": tokens.wte.embedding_dim,
        "vocabulary": tokens.wte.num_embeddings,
        "context": tokens.wpe.num_embeddings,
    }


class Tokens(Module):
    """Embedding of each token plus embedding of its place: (rows, tokens) -> (rows, tokens, width).

    Raises:
        ValueError: rows have more tokens than the context.
    """

    def __init__(self, vocabulary: int, context: int, width: int):
        super().__init__()
        self.wte, self.wpe = Embedding(vocabulary, width), Embedding(context, width)

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        if length > self.wpe.num_embeddings:
            raise ValueError(f"rows of {length} tokens: expected up to {self.wpe.num_embeddings}")
        return self.wte(tokens.long()) + self.wpe.weight[:length]


class Block(Module):
    """A block: x + attention(norm(x)), and then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.ln_1, self.attn = LayerNorm(width), Attention(width, heads)
        self.ln_2, self.mlp = LayerNorm(width), MLP(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Attention(Module):
    """Causal attention with several heads (Vaswani et al. 2017, section 3.2).

    Args:
        width: features of a token; a multiple of heads.
        heads: number of heads.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads, self.head_width = heads, width // heads
        self.c_attn, self.c_proj = Linear(width, 3 * width), Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(self.hidden(x))

    def hidden(self, x: Tensor) -> Tensor:
        """What the heads make, side by side: (rows, tokens, heads * head_width)."""
        rows, tokens, _ = x.shape
        parts = self.c_attn(x).view(rows, tokens, 3, self.heads, self.head_width)
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # each (rows, heads, tokens, features)
        y = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return y.transpose(1, 2).reshape(rows, tokens, self.heads * self.head_width)


class MLP(Module):
    """A net of one hidden layer, 4 times as wide as its input."""

    def __init__(self, width: int):
        super().__init__()
        self.c_fc, self.gelu, self.c_proj = (
            Linear(width, 4 * width),
            GELU(approximate="tanh"),
            Linear(4 * width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(self.hidden(x))

    def hidden(self, x: Tensor) -> Tensor:
        """The hidden layer, (rows, tokens, 4 * width)."""
        return self.gelu(self.c_fc(x))
