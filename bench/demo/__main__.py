"""Serve the demo until Ctrl-C: `nox -s demo`."""

import argparse
import contextlib
import os
import secrets
import signal
import socket
import sys
import tempfile
import webbrowser
from pathlib import Path
from types import FrameType

import uvicorn

from bench.demo.app import application
from bench.demo.demo import Demo
from bench.demo.guard import Guard
from bench.demo.sources import sources
from bench.report.run_file import FOLDER, new_path

LOOPBACK = "127.0.0.1"
PORT = 8642


class Server(uvicorn.Server):
    """A server that lets go of browsers when it ends; else it would wait for them."""

    def __init__(self, config: uvicorn.Config, demo: Demo):
        super().__init__(config)
        self._demo = demo

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self._demo.let_go()


def main() -> None:
    """Parse the options, print the address, and serve."""
    given = _options()
    token = secrets.token_urlsafe(16) if given.host else ""
    host = given.host or LOOPBACK
    try:
        found = sources(given.rows, given.mnist, given.letters, given.cifar10)
        listener = socket.create_server((host, given.port), backlog=128)
    except (OSError, ValueError) as error:
        raise SystemExit(f"demo: {error}") from None
    port = listener.getsockname()[1]
    hosts = {LOOPBACK, "localhost", "::1"} | ({host, socket.gethostname()} if token else set())
    address = f"http://{_reached_at(host)}:{port}/{token + '/' if token else ''}"
    folder = (given.folder or new_path("demo", FOLDER).with_suffix("")).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="lockstep-") as private:
        demo = Demo(found, folder, Path(private), given.idle, given.patience)
        config = uvicorn.Config(
            Guard(application(demo), hosts, token),
            log_level="warning",
            timeout_graceful_shutdown=5,
            ws="none",
            server_header=False,
        )
        print(f"{address}\nCtrl-C ends it. The record: {folder / 'run.jsonl'}", flush=True)
        if given.open and _has_display():
            webbrowser.open(address)
        with contextlib.suppress(KeyboardInterrupt):
            Server(config, demo).run(sockets=[listener])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "nox -s demo --",
        description="Watch sequential and parallel training race, and have what you write read.",
    )
    add = parser.add_argument
    add("--port", type=int, default=PORT, help=f"by default {PORT}; 0 for any that is free")
    add("--no-open", dest="open", action="store_false", help="do not open a browser")
    add(
        "--host",
        help="let other machines in, by this address of yours (0.0.0.0 for all); the page's "
        "address then has a random token in it",
    )
    add("--rows", type=int, default=10_000, help="rows of the data sets that are made here")
    add("--mnist", metavar="PATH", help="your MNIST: a folder or a file")
    add("--letters", metavar="PATH", help="your letter.data of R. Kassel's handwritten letters")
    add("--cifar10", metavar="PATH", help="your CIFAR-10: the folder of the binary version")
    add("--folder", type=Path, help=f"for the record; by default a new one in {FOLDER}")
    add("--idle", type=_seconds, default=60.0, help="seconds without a browser until a race ends")
    add("--patience", type=_seconds, default=30.0, help="seconds without an answer of a lane")
    given = parser.parse_args()
    if not 0 <= given.port < 65536:
        parser.error(f"--port {given.port}: expected from 0 to 65535")
    if not 1_000 <= given.rows <= 50_000:
        parser.error(f"--rows {given.rows}: expected from 1000 to 50000")
    return given


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text}: expected more than 0 seconds")
    return value


def _reached_at(host: str) -> str:
    """The address that other machines reach this one by, where it listens on all of them."""
    if host not in ("0.0.0.0", "::"):
        return host
    with contextlib.suppress(OSError), socket.socket(type=socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing: it only chooses the way out
        return probe.getsockname()[0]
    return socket.gethostname()


def _has_display() -> bool:
    return sys.platform != "linux" or bool({"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys())


if __name__ == "__main__":
    # A closed terminal, and what runs this in place of one, end it as Ctrl-C does.
    signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
    main()
