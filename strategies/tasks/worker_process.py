"""What a worker of our own runs: one call after the other, until its parent closes the pipe."""

import contextlib
import importlib
import os
import shutil
import signal
import threading
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection

import cloudpickle


def serve(handle: int, names: Sequence[str]) -> None:
    """Run the calls that come by the connection `handle`. Does not return before its end.

    Args:
        names: the folder of shared arrays, and modules to import first.
    """
    folder, *modules = names
    _end_with_the_parent(folder)
    for name in modules:
        importlib.import_module(name)
    connection = Connection(handle)
    with contextlib.suppress(EOFError):
        while True:
            connection.send_bytes(_answer(connection))


def _answer(connection: Connection) -> bytes:
    """Receive a call and run it; return the answer to it.

    A call is the number of its messages, and then one for the function and one for each argument.

    Raises:
        EOFError: the parent has closed the pipe.
    """
    parts, problem = [], None
    for _ in range(connection.recv()):
        try:
            parts.append(connection.recv())
        except EOFError:
            raise
        except Exception as error:  # a module that is missing here, for one
            problem = error
    connection.send(("began", None))
    if problem:
        return _error(problem)
    function, *args = parts
    try:
        return cloudpickle.dumps(("value", function(*args)))
    except BaseException as error:
        return _error(error)


def _error(error: BaseException) -> bytes:
    try:
        return cloudpickle.dumps(("error", error))
    except Exception:
        text = "".join(traceback.format_exception(error))
        return cloudpickle.dumps(("error", RuntimeError(text)))


def _end_with_the_parent(folder: str) -> None:
    """Watch stdin, which ends when the parent does, however that dies."""
    lifeline = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)  # a task that reads its input finds nothing there
    os.close(null)

    def watch() -> None:
        os.read(lifeline, 1)
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
