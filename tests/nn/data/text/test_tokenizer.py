"""Any bytes become tokens and the same bytes again; a tokenizer in files is the same tokenizer."""

import json
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nn.data.text.tokenizer import END, FILES, LETTERS, Tokenizer
from tests.support.optional import needs

pytestmark = pytest.mark.workers(1)  # nothing here depends on the number of ranks

TEXT = ("def total(numbers):\n    return sum(numbers)  # größer als π, 数\n" * 9).encode()


@cache
def trained() -> Tokenizer:
    return Tokenizer.train([TEXT, TEXT[::-1]], 300)


@needs("tokenizers")
@given(st.binary(max_size=60) | st.text(max_size=30).map(str.encode))
def test_any_bytes_come_back(text):
    tokens = trained().encode(text)
    assert tokens.dtype == np.int32
    assert trained().decode(tokens) == text


@needs("tokenizers")
@given(st.lists(st.binary(max_size=9), max_size=5))
def test_many_texts_are_encoded_as_each_alone(texts):
    found = list(trained().encode_all(texts))
    assert [tokens.tolist() for tokens in found] == [trained().encode(t).tolist() for t in texts]


@needs("tokenizers")
def test_every_byte_is_a_token_of_its_own_and_pairs_are_merged():
    tokenizer = trained()
    for byte in range(256):
        assert tokenizer.vocabulary[LETTERS[byte]] in tokenizer.encode(bytes([byte, 255]))
    assert len(tokenizer.encode(TEXT)) < len(TEXT) / 2
    assert 257 < tokenizer.size <= 300


@needs("tokenizers")
def test_letters_are_those_of_the_package():
    import tokenizers

    assert set(LETTERS) == set(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    splits = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    text = "".join(chr(code) for code in range(128)) + "é数"
    shown = "".join(piece for piece, _ in splits.pre_tokenize_str(text))
    assert shown == "".join(LETTERS[byte] for byte in text.encode())


@needs("tokenizers")
def test_the_end_of_a_text_cannot_be_written():
    tokenizer = trained()
    tokens = tokenizer.encode(b"a" + END.encode() + b"b")
    assert tokenizer.end not in tokens
    assert tokenizer.decode([*tokens, tokenizer.end]) == b"a" + END.encode() + b"b" + END.encode()


@needs("tokenizers")
def test_the_same_texts_give_the_same_tokens():
    again = Tokenizer.train([TEXT, TEXT[::-1]], 300)
    assert again.texts == trained().texts
    assert Tokenizer.train([TEXT[::2]], 300).texts != trained().texts


@needs("tokenizers")
def test_a_saved_tokenizer_is_the_same(tmp_path):
    trained().save(tmp_path)
    again = Tokenizer.read(*(tmp_path / name for name in FILES))
    assert again.texts == trained().texts
    np.testing.assert_array_equal(again.encode(TEXT), trained().encode(TEXT))


def files(tmp_path, vocabulary=None, merges=None):
    """Write a tokenizer of the 256 bytes, the end and the pair "aa", with some of it replaced."""
    whole = {letter: number for number, letter in enumerate([*LETTERS, END, "aa"])}
    contents = (
        json.dumps(whole) if vocabulary is None else vocabulary,
        "#version: 0.2\na a\n" if merges is None else merges,
    )
    paths = [tmp_path / name for name in FILES]
    for path, text in zip(paths, contents):
        path.write_text(text, "utf-8")
    return paths


@needs("tokenizers")
def test_published_files(tmp_path):
    tokenizer = Tokenizer.read(*files(tmp_path))
    assert tokenizer.encode(b"aaa").tolist() == [257, LETTERS.index("a")]
    assert (tokenizer.size, tokenizer.end) == (258, 256)
    (tmp_path / FILES[1]).write_bytes(b"#version: 0.2\r\na a\r\n")
    assert Tokenizer.read(*(tmp_path / name for name in FILES)).texts == tokenizer.texts


WITHOUT_A = {letter: i for i, letter in enumerate([*(x for x in LETTERS if x != "a"), END])}


@needs("tokenizers")
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"vocabulary": "{"}, "the vocabulary is no JSON"),
        ({"vocabulary": "[1]"}, "other values than whole numbers"),
        ({"vocabulary": '{"a": true}'}, "other values than whole numbers"),
        ({"vocabulary": '{"a": 1}'}, "whose numbers are not 0 to 0: expected each number once"),
        ({"vocabulary": json.dumps(WITHOUT_A)}, "a vocabulary without 'a': expected all 256"),
        ({"merges": "a a a\n"}, "line 1 of the merges is 'a a a'; expected two tokens"),
        ({"merges": "b b\n"}, "merges that do not fit the vocabulary"),
    ],
)
def test_damaged_files_are_named(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message) as caught:
        Tokenizer.read(*files(tmp_path, **wrong))
    assert str(tmp_path / FILES[0]) in str(caught.value)


@needs("tokenizers")
def test_wrong_arguments(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such file; expected a vocab\.json"):
        Tokenizer.read(tmp_path / "nowhere", tmp_path / "nowhere")
    with pytest.raises(ValueError, match="size=256: expected 257 or more"):
        Tokenizer.train([TEXT], 256)
    with pytest.raises(ValueError, match="token 300: expected 0 to"):
        trained().decode([0, 300])
