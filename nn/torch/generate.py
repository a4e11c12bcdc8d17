"""Text that a net of `gpt2` writes, token by token."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from nn.arguments import as_float, as_int
from nn.torch.gpt2 import sizes_of


def generate(
    net: torch.nn.Sequential,
    prompt: Sequence[int] | NDArray,
    most: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
    end: int | None = None,
) -> list[int]:
    """Draw tokens that follow a prompt, each from the net's distribution given those before it.

    Each token is computed anew from all before it, as many as the net's context holds.

    Args:
        net: of `gpt2`, e.g. the `module` of a `TorchModel`; it is left in training mode.
        prompt: numbers of tokens, one or more.
        most: how many tokens to draw, at most.
        temperature: logits are divided by it: below 1 the likely tokens become likelier. 0 takes
            the likeliest token.
        top_k: draw from this many of the likeliest tokens only (Fan et al., "Hierarchical neural
            story generation", 2018, section 5.1); by default from all.
        seed: of the draws.
        end: the token that ends the text, and is not returned; None for none.

    Returns:
        The tokens behind the prompt.

    Raises:
        TypeError, ValueError: an argument is not of its kind or out of its range; the prompt is
            empty; or net was not built by `gpt2`.
    """
    context, device = sizes_of(net)["context"], next(net.parameters()).device
    most, temperature = as_int("most", most, 0), as_float("temperature", temperature, 0.0)
    top_k = None if top_k is None else as_int("top_k", top_k, 1)
    rng = np.random.default_rng(as_int("seed", seed, 0))
    tokens = [int(token) for token in prompt]
    if not tokens:
        raise ValueError("an empty prompt: expected one token or more")
    begin = len(tokens)
    net.eval()
    try:
        with torch.no_grad():
            while len(tokens) < begin + most:
                given = torch.tensor([tokens[-context:]], device=device)
                logits = net(given)[-1].double().cpu().numpy()
                token = _draw(logits, temperature, top_k, rng)
                if token == end:
                    break
                tokens.append(token)
    finally:
        net.train()
    return tokens[begin:]


def _draw(
    logits: NDArray[np.float64], temperature: float, top_k: int | None, rng: np.random.Generator
) -> int:
    """Draw a token; ties at the border of the `top_k` are decided by the smaller number."""
    likely = np.argsort(-logits, kind="stable")[:top_k]
    if not temperature:
        return int(likely[0])
    scaled = logits[likely] / temperature
    share = np.exp(scaled - scaled.max())
    return int(rng.choice(likely, p=share / share.sum()))
