"""A user's transformer with padded rows, its recipe, and the loop that it was trained with."""

import numpy as np
import torch

from nn import AdamW, Recipe

WORDS, LENGTH, WIDTH, HEADS = 13, 6, 16, 2
DECAYED, RATE, CLIP = 0.1, 3e-3, 0.5
LOSS = torch.nn.CrossEntropyLoss(ignore_index=-100)


def warm_up(step: int) -> float:
    """Return the learning rate of a step, counted from 0."""
    return RATE * min(1, (step + 1) / 4)


def decays(name: str) -> bool:
    """Say whether a parameter decays: weights of matrices do, biases and norms do not."""
    return not (name.endswith("bias") or "norm" in name)


class Block(torch.nn.Module):
    """Attention to the tokens that are not padding, and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = torch.nn.LayerNorm(WIDTH), torch.nn.LayerNorm(WIDTH)
        self.qkv = torch.nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.out = torch.nn.Linear(WIDTH, WIDTH)
        self.wide, self.narrow = torch.nn.Linear(WIDTH, 32), torch.nn.Linear(32, WIDTH)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        n, length, _ = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(n, length, 3, HEADS, WIDTH // HEADS)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(2, 3) / (WIDTH // HEADS) ** 0.5
        weights = scores.masked_fill(~mask[:, None, None, :], -1e9).softmax(-1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(n, length, WIDTH))
        return x + self.narrow(torch.nn.functional.gelu(self.wide(self.norm2(x))))


class Transformer(torch.nn.Module):
    """Two blocks between an embedding and an output that share their weights."""

    def __init__(self) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(WORDS, WIDTH)
        self.places = torch.nn.Parameter(0.1 * torch.randn(LENGTH, WIDTH))
        self.blocks = torch.nn.ModuleList(Block() for _ in range(2))
        self.norm = torch.nn.LayerNorm(WIDTH)
        self.head = torch.nn.Linear(WIDTH, WORDS, bias=False)
        self.head.weight = self.words.weight

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.words(ids) + self.places
        for block in self.blocks:
            x = block(x, mask)
        return self.head(self.norm(x)).flatten(0, 1)


def rows() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Draw 200 texts of 2 to 6 words; the label of a word is the next number, of padding -100."""
    rng = np.random.default_rng(0)
    ids = rng.integers(1, WORDS, (200, LENGTH))
    mask = np.arange(LENGTH) < rng.integers(2, LENGTH + 1, (200, 1))
    return {"ids": ids * mask, "mask": mask}, np.where(mask, (ids + 1) % WORDS, -100)


def recipe() -> Recipe:
    """Make all that decides what a training makes of the transformer."""
    groups = [(lambda name: not decays(name), {"weight_decay": 0})]
    return Recipe(
        model=Transformer(),
        optimizer=lambda: AdamW(warm_up, weight_decay=DECAYED, clip_norm=CLIP, groups=groups),
        loss=LOSS,
        data=rows,
    )


def train(batches: list) -> torch.nn.Module:
    """Train the transformer as it was before: on one process, in plain torch."""
    model = Transformer().double()
    named = list(model.named_parameters())
    groups = [
        {"params": [p for name, p in named if decays(name)], "weight_decay": DECAYED},
        {"params": [p for name, p in named if not decays(name)], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warm_up(step) / RATE)
    for x, y in batches:
        optimizer.zero_grad()
        LOSS(model(**x), y.flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        schedule.step()
    return model
