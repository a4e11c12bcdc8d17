"""Every rank does the same wrong thing at the same time. PLANTED_WHERE says in which phase.

PLANTED_WRONG says what: it raises, or ends the process with exit code 0, in Python or in C. The
places that are hooks are in conftest.py.
"""

import atexit
import ctypes
import os
from collections.abc import Callable, Iterator

import pytest

WHERE = os.environ["PLANTED_WHERE"]


def raise_an_error() -> None:
    raise RuntimeError("planted")


WRONG: Callable[[], object] = {
    "raise": raise_an_error,
    "os_exit_0": lambda: os._exit(0),
    "exit_c_0": lambda: ctypes.CDLL(None)._exit(0),
}[os.environ["PLANTED_WRONG"]]


@pytest.fixture(scope="session", autouse=True)
def session() -> Iterator[None]:
    if WHERE == "session fixture":
        WRONG()
    yield
    if WHERE == "session teardown":
        WRONG()


@pytest.fixture
def fixture(session: None) -> Iterator[None]:
    if WHERE == "setup":
        WRONG()
    yield
    if WHERE == "teardown":
        WRONG()


if WHERE == "import":
    WRONG()
if WHERE == "atexit":  # it would hide that a test has failed
    atexit.register(WRONG)


@pytest.mark.parametrize("k", range(3))
def test_wrong(fixture: None, k: int) -> None:
    if WHERE == "call":
        WRONG()
    assert WHERE != "atexit", "planted failure"
