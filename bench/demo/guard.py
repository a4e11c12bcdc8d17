"""Who may ask the server for what: checked before any request reaches it.

- The Host has to be ours, so that a page whose name has been pointed at this machine (DNS
  rebinding) gets nothing.
- A post has to come from our own page (Origin), so that other pages cannot act in a user's name.
- Posts are limited in kind, size and number.
- Where other machines may ask, the address begins with a random token.
"""

import hmac
import ipaddress
import json
import time
from collections import defaultdict
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST = 256 * 1024
"""Bytes of a post."""

RATE, BURST = 30.0, 60.0
"""Posts in a second from one address, and how many may come at once."""

_ADDRESSES = 1000  # of which posts are counted
_HEADERS = [
    (
        b"content-security-policy",
        b"default-src 'self'; style-src 'self' 'unsafe-inline'; "
        b"img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]


class Refusal(Exception):
    """A request that is not answered: (status, reason)."""


class Guard:
    """ASGI middleware that lets only requests of our own page through.

    Args:
        app: what answers them.
        hosts: names by which the machine may be called, without the port.
        token: what every path begins with; empty for none. With one, addresses of numbers are good
            hosts too, since no name can be pointed at this machine then.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str], token: str = ""):
        self._app, self._hosts, self._token = app, hosts, token
        self._left: dict[str, tuple[float, float]] = defaultdict(lambda: (BURST, time.monotonic()))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return  # no websockets
        try:
            scope = self._checked(scope)
            await self._app(scope, _limited(receive), _with_headers(send))
        except Refusal as refusal:
            await _refuse(send, *refusal.args)

    def _checked(self, scope: Scope) -> Scope:
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        host = headers.get("host", "")
        if not self._is_ours(host):
            raise Refusal(421, f"Host {host!r:.80} is not an address of this demo")
        if self._token:
            prefix, path = f"/{self._token}", scope["path"]
            given = path[: len(prefix)]
            if not hmac.compare_digest(given.encode(), prefix.encode()) or path == prefix:
                raise Refusal(404, "open the whole address that the demo has printed")
            scope = {**scope, "path": path[len(prefix) :], "raw_path": b""}
        if scope["method"] not in ("GET", "HEAD"):
            self._check_post(scope, headers, host)
        return scope

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self._hosts:
            return True
        if not self._token:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _check_post(self, scope: Scope, headers: dict[str, str], host: str) -> None:
        if headers.get("origin") != f"http://{host}":
            raise Refusal(403, "a post has to come from the page of the demo itself")
        if headers.get("content-type", "").split(";")[0].strip() != "application/json":
            raise Refusal(415, "expected application/json")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > LARGEST:
            raise Refusal(413, f"expected at most {LARGEST:,} bytes")
        self._count(scope["client"][0] if scope.get("client") else "")

    def _count(self, address: str) -> None:
        """Take one post from an address's allowance, which fills again with time."""
        now = time.monotonic()
        left, then = self._left[address]
        left = min(BURST, left + RATE * (now - then))
        if left < 1:
            raise Refusal(429, f"expected at most {RATE:g} posts a second")
        if len(self._left) > _ADDRESSES:
            self._left.clear()
        self._left[address] = (left - 1, now)


def _limited(receive: Receive) -> Receive:
    """Refuse a body that is longer than its length said, or did not say."""
    got = 0

    async def limited() -> Message:
        nonlocal got
        message = await receive()
        got += len(message.get("body", b""))
        if got > LARGEST:
            raise Refusal(413, f"expected at most {LARGEST:,} bytes")
        return message

    return limited


def _with_headers(send: Send) -> Send:
    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], *_HEADERS]}
        await send(message)

    return with_headers


async def _refuse(send: Send, status: int, reason: str) -> None:
    body = json.dumps({"error": reason}).encode()
    headers = [(b"content-type", b"application/json"), *_HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
