"""GPT-2 in torch (Radford et al., Language models are unsupervised multitask learners, 2019).

Blocks normalise their input, not their output (section 2.3). Attention is causal, and the GELU is
the one with tanh that the published weights were trained with. There is no dropout.
"""

import math
from os import PathLike
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import GELU, Embedding, Flatten, LayerNorm, Linear, Module, Sequential

from nn.arguments import as_int
from nn.torch.model import TorchModel

Net = TypeVar("Net", Sequential, TorchModel)

_BUFFERS = ("attn.bias", "attn.masked_bias")  # causal masks, which some files carry along


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
    """Causal attention with several heads (Vaswani et al. 2017, section 3.2)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.c_attn, self.c_proj = Linear(width, 3 * width), Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        rows, tokens, width = x.shape
        parts = self.c_attn(x).view(rows, tokens, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # each (rows, heads, tokens, features)
        y = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.c_proj(y.transpose(1, 2).reshape(rows, tokens, width))


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
        return self.c_proj(self.gelu(self.c_fc(x)))


def load_gpt2(net: Net, path: str | PathLike[str]) -> Net:
    """Fill a net of `gpt2` with published weights from a local file in the safetensors format.

    Tensors have the names under which the weights are published (wte.weight,
    h.0.attn.c_attn.weight, ..., ln_f.bias), with or without "transformer." before them. The file
    stores matrices of blocks as (inputs, outputs). The output gets a copy of wte.weight, unless the
    file has a lm_head.weight; a tied net takes only a file in which both are equal. The file does
    not say how many heads the net has; tell `gpt2`.

    Args:
        net: the net whose parameters are overwritten; they keep their dtype. Give the `TorchModel`
            itself and not its `module`, which on some devices is a copy.
        path: the file.

    Returns:
        net.

    Raises:
        TypeError: `net` was not built by `gpt2`.
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or its tensors are not exactly the net's tensors, of the
            same shapes and of floats. Nothing is changed then.
    """
    from safetensors import SafetensorError, safe_open

    if isinstance(net, TorchModel):
        load_gpt2(net.module, path)  # on some devices this is a copy
        net.fetch()
        return net
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a .safetensors file of GPT-2")
    wanted = _published(net)
    try:
        with safe_open(path, framework="pt") as file:
            stored = {name.removeprefix("transformer."): name for name in file.keys()}  # noqa: SIM118
            if "lm_head.weight" not in stored and "wte.weight" in stored:
                stored["lm_head.weight"] = stored["wte.weight"]
            missing = sorted(wanted.keys() - stored)
            extra = sorted(name for name in stored.keys() - wanted if not name.endswith(_BUFFERS))
            if missing or extra:
                raise ValueError(
                    f"{path}: {_list('missing', missing)}{_list('unknown', extra)}"
                    f"expected the tensors of a GPT-2 of {len(net) - 4} layers"
                )
            values = {name: file.get_tensor(stored[name]) for name in wanted}
    except SafetensorError as error:
        raise ValueError(f"{path}: {error}; expected a sound safetensors file") from None
    for name, weight in wanted.items():
        value = values[name]
        if value.shape != weight.shape or not value.is_floating_point():
            raise ValueError(
                f"{path}: {name} is {value.dtype} of shape {tuple(value.shape)}; expected floats "
                f"of shape {tuple(weight.shape)}, as the net has layers, width, vocabulary and "
                "context"
            )
    if wanted["lm_head.weight"] is wanted["wte.weight"] and not torch.equal(
        values["lm_head.weight"], values["wte.weight"]
    ):
        raise ValueError(
            f"{path}: lm_head.weight differs from wte.weight, and the net is tied: expected "
            "gpt2(..., tied=False)"
        )
    with torch.no_grad():
        for name, weight in wanted.items():
            weight.copy_(values[name])
    return net


def _published(net: Sequential) -> dict[str, Tensor]:
    """Views of the parameters under their published names and in their published shapes."""
    if not isinstance(net, Sequential) or not isinstance(next(iter(net), None), Tokens):
        raise TypeError(f"net is {type(net).__name__}: expected one that gpt2() has built")
    tokens, *blocks, norm, head, _ = net
    parts = {"": tokens, "ln_f.": norm, "lm_head.": head}
    parts |= {f"h.{i}.": block for i, block in enumerate(blocks)}
    return {
        prefix + name: weight.T if prefix[:2] == "h." and weight.ndim == 2 else weight
        for prefix, part in parts.items()
        for name, weight in part.named_parameters()
    }


def _list(what: str, names: list[str]) -> str:
    """The first names for an error message; an empty string without names."""
    if not names:
        return ""
    return f"{what} {', '.join(names[:3])}{' and others' if len(names) > 3 else ''}; "
