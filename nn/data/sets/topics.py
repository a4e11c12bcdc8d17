"""A data set of real text that comes with Python: to which help topic do these words belong?

Python's language reference (`pydoc_data.topics`, what `help("LAMBDA")` shows), cut into windows of
16 words. A row lists the hashed numbers of its words and of its pairs of neighbouring words: few
of the many features there are, so that gradients are sparse.
"""

import re
import zlib
from itertools import pairwise
from pydoc_data.topics import topics

import numpy as np

from nn import Model
from nn.data import Dataset
from nn.layers.embedding import EmbeddingBag

WINDOW = 16
"""Words in a row."""

FEATURES = 2**14
"""Numbers that words and pairs are hashed to."""

FEWEST = 30
"""Windows of a topic; shorter topics are left out."""


def load(seed: int = 0) -> Dataset:
    """Rows of feature numbers, (n, 31); one in seven is a test row, chosen by `seed`."""
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
    test, training = np.split(order, [len(y) // 7])
    return Dataset("words", x[training], y[training], x[test], y[test], len(texts))


def model(classes: int, seed: int = 0) -> Model:
    """Logistic regression: a score of every class for each feature, summed."""
    return Model([EmbeddingBag(FEATURES, classes)], seed=seed, input_shape=(2 * WINDOW - 1,))
