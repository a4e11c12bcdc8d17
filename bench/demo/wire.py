"""How the server and the ranks of a lane talk: lines of JSON, and weights as bytes behind them.

Nothing is pickled. They talk over a socket in a private folder, so no other machine and no other
user can take part.
"""

import json
from asyncio import StreamReader
from typing import IO, Any

BYTES = "bytes"
"""Key of a message: how many bytes follow its line."""

LONGEST_LINE = 1 << 24
"""Bytes; a line of pictures that were added to the data is the longest there is."""


def encoded(message: dict[str, Any], data: bytes | memoryview = b"") -> bytes:
    """Return a message as it is sent, with `data` behind it."""
    head = message | ({BYTES: len(data)} if data else {})
    return json.dumps(head, allow_nan=False).encode() + b"\n" + data


def read(stream: IO[bytes]) -> dict[str, Any]:
    """Return the next message, which has no bytes behind it.

    Raises:
        EOFError: the other side has closed the connection, or is gone.
    """
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    return json.loads(line)


async def received(reader: StreamReader) -> tuple[dict[str, Any], bytes]:
    """Return the next message, and the bytes behind it.

    Raises:
        EOFError: the other side has closed the connection, or is gone.
        ValueError: it sends something else.
    """
    line = await reader.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    message = json.loads(line)
    return message, await reader.readexactly(message.get(BYTES, 0))
