"""A text is a stream of tokens in which every token but the first is a label once."""

import numpy as np
import pytest

from nn.data import text
from nn.data.text import Document, Text, Tokenizer, apart, library, load
from tests.support.optional import needs

pytestmark = pytest.mark.workers(1)  # nothing here depends on the number of ranks

DOCUMENTS = [Document(str(i), f"document {i}: {'ab' * i}\xff".encode()) for i in range(20)]


def loaded(length=8, tokenizer=270) -> Text:
    return load("some", *apart(DOCUMENTS), length, tokenizer)


@needs("tokenizers")
def test_the_streams_are_the_documents_with_an_end_behind_each():
    found, parts = loaded(), apart(DOCUMENTS)
    for stream, documents in zip((found.tokens, found.tokens_test), parts):
        assert stream.dtype == np.int32
        assert not stream.flags.writeable
        pieces = np.split(stream, np.flatnonzero(stream == found.tokenizer.end) + 1)
        assert len(pieces.pop()) == 0
        texts = [found.tokenizer.decode(piece[:-1]) for piece in pieces]
        assert texts == [document.text for document in documents]


@needs("tokenizers")
@pytest.mark.parametrize("length", [1, 8, 13])
def test_every_token_but_the_first_is_a_label_once(length):
    found = loaded(length)
    rows = (len(found.tokens) - 1) // length
    assert found.x.shape == (rows, length + 1)
    np.testing.assert_array_equal(found.x[:, 1:].ravel(), found.tokens[1 : rows * length + 1])
    np.testing.assert_array_equal(found.x[:, 0], found.tokens[: rows * length : length])
    assert np.shares_memory(found.x, found.tokens)
    assert len(found.tokens) - 1 - rows * length < length
    assert found.test.global_rows == (len(found.tokens_test) - 1) // length


@needs("tokenizers")
def test_batches_are_global_shuffled_and_go_on_where_they_were():
    found = loaded()
    batches = list(found.batches(3, epochs=2, seed=5))
    per_epoch = -(-len(found.x) // 3)
    assert [b.ends_epoch for b in batches] == ([False] * (per_epoch - 1) + [True]) * 2
    for epoch in (batches[:per_epoch], batches[per_epoch:]):
        rows = np.concatenate([batch.tokens for batch in epoch])
        assert not np.array_equal(rows, found.x)
        assert sorted(rows.tolist()) == sorted(found.x.tolist())
    later = list(found.batches(3, epochs=2, seed=5, start=4, prefetch=2, part=(1, 2)))
    for a, b in zip(batches[4:], later, strict=True):
        np.testing.assert_array_equal(a.shard(1, 2).tokens, b.shard(1, 2).tokens)


@needs("tokenizers")
def test_it_is_made_once(monkeypatch):
    first = loaded()

    def refuse(*_):
        raise AssertionError("made although it is there")

    monkeypatch.setattr(Tokenizer, "train", refuse)
    monkeypatch.setattr(Tokenizer, "encode_all", refuse)
    again = loaded(length=5)  # the stream does not depend on the length of rows
    np.testing.assert_array_equal(again.tokens, first.tokens)
    assert again.tokenizer.texts == first.tokenizer.texts


@needs("tokenizers")
def test_a_tokenizer_may_be_given_and_is_part_of_the_key():
    small = Tokenizer.train([b"abab"], 258)
    given, trained = loaded(tokenizer=small), loaded()
    assert given.tokenizer is small
    assert len(given.tokens) > len(trained.tokens)
    assert given.tokenizer.decode(given.tokens).count(b"<|endoftext|>") == len(apart(DOCUMENTS)[0])


def test_documents_are_divided_by_a_seed():
    train, test = apart(DOCUMENTS, seed=1)
    assert sorted(train + test) == sorted(DOCUMENTS)
    assert (len(train), len(test)) == (18, 2)
    assert apart(DOCUMENTS, seed=1) == (train, test)
    assert len({apart(DOCUMENTS, seed)[1][0] for seed in range(9)}) > 1
    assert [len(part) for part in apart(DOCUMENTS[:2])] == [1, 1]
    with pytest.raises(ValueError, match="1 documents: expected two or more"):
        apart(DOCUMENTS[:1])


@needs("tokenizers")
def test_too_short_texts_are_named():
    with pytest.raises(ValueError, match=r"some: [0-9]+ tokens to test; expected more than"):
        loaded(length=100)
    with pytest.raises(ValueError, match="tokenizer=9: expected 257 or more"):
        loaded(tokenizer=9)


def test_the_library_is_source_and_reference_chosen_by_a_seed():
    whole = library()
    names = [document.name for document in whole]
    assert "json/decoder.py" in names
    assert "help('lambda')" in names
    assert not any("test" in name.split("/") for name in names)
    some = library(size=100_000, seed=3)
    assert sum(len(document.text) for document in some) >= 100_000
    assert set(some) < set(whole)
    assert sum(len(document.text) for document in some[:-1]) < 100_000 + 600_000
    assert library(size=100_000, seed=3) == some
    assert library(size=100_000, seed=4) != some
    with pytest.raises(ValueError, match=r"expected up to 1?\d,\d+,\d+ bytes"):
        library(size=10**9)


def test_without_the_package_it_is_said(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(ModuleNotFoundError, match="the package tokenizers is not installed"):
        text.Tokenizer.train([b""], 300)
