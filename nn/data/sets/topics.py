"""Real text that comes with Python, cut into rows: to which help topic do these words belong?

The text is Python's language reference (`pydoc_data.topics`, which `help("LAMBDA")` shows), cut
into windows of 16 words. A row lists the hashed numbers of its words and of its pairs of adjacent
words. These are few of many features, so gradients are sparse. `nn.data.load` does not offer this
set, because its preparation (mean 0, deviation 1) would destroy the numbers.
"""

import re
import zlib
from itertools import pairwise
from pydoc_data.topics import topics

import numpy as np

from nn.data.dataset import Dataset
from nn.data.raw import ONE_IN

WINDOW = 16
"""Words in a row."""

FEATURES = 2**14
"""Number of different features: words and pairs are hashed to 0 .. FEATURES - 1."""

FEWEST = 30
"""Least number of windows in a topic; shorter topics are left out."""


def load(seed: int = 0) -> Dataset:
    """Load rows of feature numbers, (n, 31) float32, and their topics, (n,) int64.

    One row in seven is for testing, chosen by `seed`.
    """
    rows, labels = [], []
    texts = [re.findall("[a-z_]+", text.lower()) for _, text in sorted(topics.items())]
    texts = [words for words in texts if len(words) >= FEWEST * WINDOW]
    for label, words in enumerate(texts):
        for lo in range(0, len(words) - WINDOW + 1, WINDOW):
            window = words[lo : lo + WINDOW]
            terms = window + [" ".join(pair) for pair in pairwise(window)]
            rows.append([zlib.crc32(term.encode()) % FEATURES for term in terms])
            labels.append(label)
    x, y = np.array(rows, np.float32), np.array(labels)
    order = np.random.default_rng(seed).permutation(len(y))
    test, training = np.split(order, [len(y) // ONE_IN])
    return Dataset("topics", x[training], y[training], x[test], y[test], len(texts))
