"""What a task is known by, in the journal and as the source of its random numbers."""

import hashlib
import json
from typing import Any

from numpy.random import SeedSequence

from nn.plain_json import plain


def text_of(task: Any) -> str:
    """Return a task as JSON, the same text for equal tasks.

    Raises:
        TypeError: the task holds something that JSON does not know.
    """
    try:
        return json.dumps(plain(task), sort_keys=True, allow_nan=False)
    except TypeError as error:
        raise TypeError(f"task {task!r:.100}: {error}") from None


def key_of(task: Any, seed: int, threads: int) -> str:
    """Return the key of a task: 32 hexadecimal digits of its parameters, the seed and its threads.

    Threads are a part of the key because the bits of a result may depend on them.
    """
    return _digest(f"{text_of(task)} seed={seed} threads={threads}").hex()


def seeds_of(task: Any, seed: int) -> SeedSequence:
    """Return the task's own source of seeds. It depends on the task and `seed`, on nothing else.

    Not on the threads either: a task that is run with more of them draws the same numbers.
    """
    return SeedSequence(int.from_bytes(_digest(f"{text_of(task)} seed={seed}")))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:16]
