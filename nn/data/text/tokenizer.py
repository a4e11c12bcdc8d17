"""Byte-level BPE, the tokens of GPT-2, by the package tokenizers of Hugging Face.

Sennrich et al., "Neural machine translation of rare words with subword units" (2016), over bytes:
Radford et al., "Language models are unsupervised multitask learners" (2019), section 2.2.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nn.arguments import as_int
from nn.atomic_write import atomic_write
from nn.regular_file import open_regular

END = "<|endoftext|>"
"""The token between two documents, which no text contains."""

FILES = ("vocab.json", "merges.txt")
"""Names of the files of a tokenizer, as GPT-2's are published."""

BYTES = 256
_LARGEST = 1 << 26  # bytes of a file
_AT_ONCE = 1 << 22  # characters that are turned into tokens at once, which bounds the memory
_NO_TEXT = re.compile("([\udc80-\udcff])")  # as surrogateescape decodes a byte that is not UTF-8


def _letters() -> list[str]:
    """The character that stands for each byte in the files: itself, if it can be printed."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(BYTES, 2 * BYTES))
    return [chr(byte if byte in printed else next(others)) for byte in range(BYTES)]


LETTERS = _letters()
_BYTE_OF = {letter: byte for byte, letter in enumerate(LETTERS)}


class Tokenizer:
    """Turns bytes into numbers of tokens and back, any bytes, without a loss.

    Bytes that are not UTF-8 become a token each. The text "<|endoftext|>" becomes tokens like any
    other text, not `end`.

    Args:
        vocabulary: token -> number; tokens are written with `LETTERS`. The numbers are 0 to
            n - 1, and every byte and `END` is a token.
        merges: pairs of tokens that become one, the most frequent first.

    Attributes:
        size: number of tokens.
        end: number of `END`.

    Raises:
        ValueError: vocabulary or merges are not like that.
        ModuleNotFoundError: the package tokenizers is not installed.
    """

    def __init__(self, vocabulary: dict[str, int], merges: Sequence[tuple[str, str]]):
        tokenizers = _package()
        if sorted(vocabulary.values()) != [*range(len(vocabulary))]:
            raise ValueError(
                f"a vocabulary of {len(vocabulary)} tokens whose numbers are not 0 to "
                f"{len(vocabulary) - 1}: expected each number once"
            )
        if missing := [token for token in (*LETTERS, END) if token not in vocabulary]:
            raise ValueError(
                f"a vocabulary without {', '.join(map(repr, missing[:3]))}"
                f"{' and others' if len(missing) > 3 else ''}: expected all {BYTES} bytes, as "
                f"byte-level BPE writes them, and {END!r}"
            )
        self.vocabulary, self.merges = dict(vocabulary), list(merges)
        self.size, self.end = len(vocabulary), vocabulary[END]
        self._bytes = [b""] * self.size
        for token, number in vocabulary.items():
            known = all(letter in _BYTE_OF for letter in token)
            # Other special tokens of a published vocabulary stand for their own text.
            self._bytes[number] = (
                bytes(_BYTE_OF[letter] for letter in token) if known else token.encode()
            )
        self._bytes[self.end] = END.encode()
        self._of_byte = np.array([vocabulary[letter] for letter in LETTERS], np.int32)
        try:
            model = tokenizers.models.BPE(self.vocabulary, self.merges)
        except Exception as error:  # the package raises nothing narrower
            raise ValueError(f"merges that do not fit the vocabulary: {error}") from None
        self._fast = tokenizers.Tokenizer(model)
        self._fast.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)

    @classmethod
    def train(cls, texts: Iterable[bytes], size: int) -> "Tokenizer":
        """Learn a vocabulary from texts. The same texts give the same one.

        Args:
            texts: what to learn from; bytes that are not UTF-8 are left out of it.
            size: number of tokens, 257 or more. Texts with fewer pairs that occur twice give fewer.

        Raises:
            TypeError, ValueError: size is not a whole number of at least 257.
        """
        tokenizers = _package()
        as_int("size", size, BYTES + 1)
        learning = tokenizers.Tokenizer(tokenizers.models.BPE())
        learning.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=size,
            min_frequency=2,
            special_tokens=[END],
            initial_alphabet=LETTERS,
            show_progress=False,
        )
        pieces = (piece for text in texts for piece in _pieces(text) if isinstance(piece, str))
        learning.train_from_iterator(pieces, trainer)
        state = json.loads(learning.to_str())["model"]
        return cls(state["vocab"], [tuple(pair) for pair in state["merges"]])

    @classmethod
    def read(cls, vocabulary: str | PathLike[str], merges: str | PathLike[str]) -> "Tokenizer":
        """Read the two files of a published tokenizer, such as GPT-2's vocab.json and merges.txt.

        Raises:
            FileNotFoundError: one of them is not there.
            ValueError: they are damaged, or no byte-level BPE; the message names the file.
        """
        try:
            return cls(vocabulary_of(_text_of(vocabulary)), merges_of(_text_of(merges)))
        except ValueError as error:
            raise ValueError(f"{vocabulary}, {merges}: {error}") from None

    def save(self, folder: str | PathLike[str]) -> None:
        """Write `FILES` to a folder that is there, from which `read` makes the same tokenizer.

        Raises:
            OSError: they cannot be written.
        """
        for name, text in zip(FILES, self.texts):
            with atomic_write(Path(folder, name)) as file:
                file.write(text.encode())

    @property
    def texts(self) -> tuple[str, str]:
        """The contents of `FILES`."""
        merges = ["#version: 0.2", *(" ".join(pair) for pair in self.merges)]
        return json.dumps(self.vocabulary, ensure_ascii=False), "\n".join(merges) + "\n"

    def encode(self, text: bytes) -> NDArray[np.int32]:
        """Return the tokens of a text, (n,) int32."""
        return next(self.encode_all([text]))

    def encode_all(self, texts: Iterable[bytes]) -> Iterator[NDArray[np.int32]]:
        """Yield the tokens of each text, (n,) int32; many texts at once are faster."""
        waiting: list[list[str | bytes]] = []
        length = 0
        for text in texts:
            waiting.append(list(_pieces(text)))
            length += len(text)
            if length >= _AT_ONCE:
                yield from self._encode(waiting)
                waiting, length = [], 0
        yield from self._encode(waiting)

    def _encode(self, texts: list[list[str | bytes]]) -> Iterator[NDArray[np.int32]]:
        known = [piece for pieces in texts for piece in pieces if isinstance(piece, str)]
        found = iter(self._fast.encode_batch_fast(known))
        for pieces in texts:
            tokens = [
                np.array(next(found).ids, np.int32)
                if isinstance(piece, str)
                else self._of_byte[list(piece)]
                for piece in pieces
            ]
            yield np.concatenate([np.empty(0, np.int32), *tokens])

    def decode(self, tokens: Iterable[int]) -> bytes:
        """Return the bytes that tokens stand for.

        Raises:
            ValueError: a number is that of no token.
        """
        numbers = [int(token) for token in tokens]
        if wrong := [number for number in numbers if not 0 <= number < self.size]:
            raise ValueError(f"token {wrong[0]}: expected 0 to {self.size - 1}")
        return b"".join(self._bytes[number] for number in numbers)

    def __repr__(self) -> str:
        return f"<Tokenizer of {self.size:,} tokens>"


def vocabulary_of(text: str) -> dict[str, int]:
    """Return what a vocab.json says.

    Raises:
        ValueError: it is no object of whole numbers.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the vocabulary is no JSON ({error}); expected a vocab.json") from None
    if not isinstance(found, dict) or not all(type(number) is int for number in found.values()):
        raise ValueError(
            "the vocabulary has other values than whole numbers; expected a vocab.json"
        )
    return found


def merges_of(text: str) -> list[tuple[str, str]]:
    """Return what a merges.txt says.

    Raises:
        ValueError: a line is no pair.
    """
    pairs = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip("\r") or (number == 1 and line.startswith("#version")):
            continue
        pair = line.strip("\r").split(" ")
        if len(pair) != 2 or not all(pair):
            raise ValueError(f"line {number} of the merges is {line!r:.40}; expected two tokens")
        pairs.append((pair[0], pair[1]))
    return pairs


def _pieces(text: bytes) -> Iterator[str | bytes]:
    """Yield the text as UTF-8 can read it, and each byte that it cannot read as bytes."""
    for piece in _NO_TEXT.split(text.decode("utf-8", "surrogateescape")):
        if _NO_TEXT.fullmatch(piece):
            yield bytes([ord(piece) - 0xDC00])
        elif piece:
            yield piece


def _text_of(path: str | PathLike[str]) -> str:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected a {' or '.join(FILES)}")
    with open_regular(path) as file:
        contents = file.read(_LARGEST + 1)
    if len(contents) > _LARGEST:
        raise ValueError(f"{path.name} has more than {_LARGEST:,} bytes")
    return contents.decode()  # a UnicodeDecodeError is a ValueError


def _package() -> Any:
    """The package tokenizers, which is slow to import and needed by texts only."""
    try:
        import tokenizers
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "text: the package tokenizers is not installed; install it, or give rows of tokens of "
            "your own to nn.sequences.Sequences"
        ) from None
    return tokenizers
