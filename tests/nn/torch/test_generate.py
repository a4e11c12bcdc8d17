"""Text is drawn from the net's distribution, and a seed decides every token of it."""

from collections import Counter

import numpy as np
import pytest
import torch

from nn.torch.generate import generate
from nn.torch.gpt2 import gpt2

pytestmark = pytest.mark.workers(1)  # nothing here depends on the number of ranks

WORDS, CONTEXT = 7, 5


def net() -> torch.nn.Sequential:
    torch.manual_seed(0)
    made = gpt2(2, 2, 8, WORDS, CONTEXT)
    with torch.no_grad():
        for weight in made.parameters():
            weight.add_(0.5 * torch.randn(weight.shape))
    return made.double()


def shares(made: torch.nn.Sequential, prompt: list[int]) -> np.ndarray:
    logits = made(torch.tensor([prompt]))[-1]
    return torch.softmax(logits, 0).detach().numpy()


def drawn(count: int, **options) -> np.ndarray:
    made = net()
    found = Counter(generate(made, [1, 2], 1, seed=i, **options)[0] for i in range(count))
    return np.array([found[token] for token in range(WORDS)]) / count


def test_tokens_have_the_shares_of_the_net():
    expected = shares(net(), [1, 2])
    np.testing.assert_allclose(drawn(600), expected, atol=0.07)
    sharper = expected**2 / (expected**2).sum()
    np.testing.assert_allclose(drawn(600, temperature=0.5), sharper, atol=0.07)
    assert np.abs(sharper - expected).max() > 0.1


def test_top_k_leaves_the_likeliest():
    expected = shares(net(), [1, 2])
    expected[np.argsort(expected)[:-3]] = 0
    np.testing.assert_allclose(drawn(600, top_k=3), expected / expected.sum(), atol=0.07)


def test_temperature_0_takes_the_likeliest():
    made, tokens = net(), [3]
    for _ in range(9):
        tokens.append(int(np.argmax(shares(made, tokens[-CONTEXT:]))))
    assert generate(made, [3], 9, temperature=0.0) == tokens[1:]
    assert made.training


def test_a_seed_decides_and_the_end_ends():
    made = net()
    text = generate(made, [0], 20, seed=4)
    assert generate(made, [0], 20, seed=4) == text
    assert any(generate(made, [0], 20, seed=seed) != text for seed in range(3))
    end = text[7]
    assert generate(made, [0], 20, seed=4, end=end) == text[: text.index(end)]


def test_wrong_arguments():
    with pytest.raises(ValueError, match="an empty prompt"):
        generate(net(), [], 1)
    with pytest.raises(ValueError, match="top_k=0: expected 1 or more"):
        generate(net(), [1], 1, top_k=0)
    with pytest.raises(ValueError, match="temperature"):
        generate(net(), [1], 1, temperature=-1.0)
    with pytest.raises(TypeError, match=r"expected one that gpt2\(\) has built"):
        generate(torch.nn.Sequential(torch.nn.Linear(1, 1)), [1], 1)
