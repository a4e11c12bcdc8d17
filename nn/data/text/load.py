"""Documents turned into one stream of tokens, cached, and read as rows of equal length."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from nn.arguments import as_int
from nn.data import cache
from nn.data.order import batches_in_order
from nn.data.text.documents import Document
from nn.data.text.tokenizer import Tokenizer, merges_of, vocabulary_of
from nn.sequences import Sequences


@dataclass(frozen=True, eq=False)
class Text:
    """A text to train on and one to test with, read-only and memory-mapped.

    Each is a stream of tokens, in which the token `tokenizer.end` stands behind every document. A
    row is `length` + 1 tokens of the stream, and the next row begins with the last token of the row
    before. So every token but the first is a label once; up to `length` - 1 tokens at the end of a
    stream fill no row and are left out.

    Attributes:
        name: name of the text.
        tokens: (n,) int32 tokens to train on.
        tokens_test: (m,) int32 tokens to test with.
        tokenizer: made these, and turns them back into bytes.
        length: labels in a row.
    """

    name: str
    tokens: NDArray[np.int32]
    tokens_test: NDArray[np.int32]
    tokenizer: Tokenizer
    length: int

    def __post_init__(self) -> None:
        length = as_int("length", self.length, 1)
        for part, stream in (("to train", self.tokens), ("to test", self.tokens_test)):
            if len(stream) <= length:
                raise ValueError(
                    f"{self.name}: {len(stream)} tokens {part}; expected more than length={length}"
                )

    @property
    def x(self) -> NDArray[np.int32]:
        """The rows to train on, (rows, length + 1); a view of the stream."""
        return _rows(self.tokens, self.length)

    @property
    def test(self) -> Sequences:
        """All rows to test with, as one batch that reads its rows when they are used."""
        return Sequences(_rows(self.tokens_test, self.length))

    def batches(
        self,
        batch_size: int,
        epochs: int = 1,
        seed: int = 0,
        start: int = 0,
        *,
        prefetch: int = 0,
        part: tuple[int, int] = (0, 1),
    ) -> Iterator[Sequences]:
        """Iterate over global batches in a seeded order, as `Dataset.batches` does."""
        make = partial(Sequences, self.x)
        rows = len(self.x)
        return batches_in_order(make, rows, batch_size, epochs, seed, start, prefetch, part)

    def __repr__(self) -> str:
        return (
            f"<Text {self.name}: {len(self.tokens):,} tokens to train and "
            f"{len(self.tokens_test):,} to test, rows of {self.length}, {self.tokenizer.size:,} "
            "different>"
        )


def _rows(stream: NDArray[np.int32], length: int) -> NDArray[np.int32]:
    return sliding_window_view(stream, length + 1)[::length]


def load(
    name: str,
    documents: Sequence[Document],
    test: Sequence[Document],
    length: int,
    tokenizer: Tokenizer | int,
) -> Text:
    """Turn documents into tokens, or take them from the cache if that has been done before.

    Any number of processes may call this at once with the same arguments: one does the work, the
    others sleep until they can map the result.

    Args:
        name: a name for people.
        documents: to train on.
        test: to test with; `apart` divides documents.
        length: labels in a row.
        tokenizer: as made before; or the number of tokens of one that is trained on `documents`.

    Raises:
        TypeError, ValueError: length or the number of tokens is not a whole number or too small; or
            one of the two texts fills no row.
        ModuleNotFoundError: the package tokenizers is not installed.
        OSError: the cache folder cannot be used.
    """
    length = as_int("length", length, 1)
    if not isinstance(tokenizer, Tokenizer):
        tokenizer = as_int("tokenizer", tokenizer, 257)

    def make() -> tuple[dict[str, int], cache.Arrays]:
        made = tokenizer
        if not isinstance(made, Tokenizer):
            made = Tokenizer.train((document.text for document in documents), made)
        texts = (np.frombuffer(text.encode(), np.uint8) for text in made.texts)
        arrays: dict[str, NDArray] = {
            "tokens": _stream(made, documents),
            "tokens_test": _stream(made, test),
            **dict(zip(("bytes_vocabulary", "bytes_merges"), texts)),
        }
        return {}, ((name, array.shape, iter([array])) for name, array in arrays.items())

    key = {
        "documents": _digest(documents),
        "test": _digest(test),
        "tokenizer": tokenizer if isinstance(tokenizer, int) else _hash(*tokenizer.texts),
        "packages": {"tokenizers": cache.version_of("tokenizers")},
    }
    found = cache.fetch("text", key, make)
    if not isinstance(tokenizer, Tokenizer):
        vocabulary, merges = (
            found[part].tobytes().decode() for part in ("bytes_vocabulary", "bytes_merges")
        )
        tokenizer = Tokenizer(vocabulary_of(vocabulary), merges_of(merges))
    return Text(name, found["tokens"], found["tokens_test"], tokenizer, length)


def _stream(tokenizer: Tokenizer, documents: Sequence[Document]) -> NDArray[np.int32]:
    end = np.array([tokenizer.end], np.int32)
    encoded = tokenizer.encode_all(document.text for document in documents)
    return np.concatenate([end[:0], *(part for tokens in encoded for part in (tokens, end))])


def _digest(documents: Sequence[Document]) -> str:
    digest = hashlib.sha256()
    for document in documents:
        digest.update(f"{len(document.text)}\n".encode() + document.text)
    return digest.hexdigest()


def _hash(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()
