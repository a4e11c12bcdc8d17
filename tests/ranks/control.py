"""The collective through which the ranks take every decision, and the list of ranks still alive."""

import contextlib
import json
from collections.abc import Callable
from typing import Any

from .guard import Table
from .mpi import MPI, fault_tolerant
from .waiting import wait
from .world import LAUNCHED, prepare, renew

Meanwhile = Callable[[float], object]

_abandoned: list[MPI.Request] = []  # kept alive, because MPI still owns their buffers


def allgather(comm: MPI.Comm, message: Any, meanwhile: Meanwhile | None = None) -> list[Any]:
    """Return every rank's ``message`` (any JSON value), in rank order.

    Sleeps until all ranks are there, and calls ``meanwhile(seconds waited)`` after each nap.
    """
    data = json.dumps(message).encode()
    sizes = bytearray(8 * comm.size)
    request = comm.Iallgather([len(data).to_bytes(8, "little"), MPI.BYTE], [sizes, MPI.BYTE])
    try:
        wait(request.Test, meanwhile)
    except BaseException:
        _abandoned.append(request)
        raise
    lengths = [int.from_bytes(sizes[8 * k : 8 * k + 8], "little") for k in range(comm.size)]
    texts = bytearray(sum(lengths))
    comm.Allgatherv([data, MPI.BYTE], [texts, lengths, MPI.BYTE])
    ends = [sum(lengths[: k + 1]) for k in range(comm.size)]
    return [json.loads(texts[end - n : end]) for end, n in zip(ends, lengths, strict=True)]


class Control:
    """A communicator that no test sees, shrunk to the surviving ranks whenever one dies.

    Ranks are always named by their rank in the world of the launch.
    """

    def __init__(self) -> None:
        self.comm: MPI.Comm = LAUNCHED.Dup()
        prepare(LAUNCHED)
        self.rank = self.comm.rank
        self.alive = list(range(self.comm.size))  # world ranks, in the order of self.comm
        self.tolerant = fault_tolerant()
        self.revoked = False  # whether this rank has revoked communicators since the last renewal
        self.broken = False  # whether any rank has, or has died; the same on all ranks
        self.table: Table | None = None  # of this node, once there is one
        self.apart = False  # whether this rank is in a test of its own, which no other waits for
        self.can_finalize = True  # false once a rank has died or a communicator was revoked

    @property
    def leader(self) -> int:
        """The lowest world rank that is alive."""
        return self.alive[0]

    def exchange(self, message: Any, meanwhile: Meanwhile | None = None) -> dict[int, Any]:
        """Return each survivor's ``message`` by world rank; all survivors get the same result.

        Ranks that have died are no longer in ``alive`` afterwards. Without fault tolerance an MPI
        error is raised as it comes.
        """
        while True:
            messages = None
            try:
                messages = allgather(self.comm, message, meanwhile)
            except MPI.Exception:
                if not self.tolerant:
                    raise
                self.comm.Revoke()
                # Before Agree, which waits for ranks that are still stuck in the test.
                self.unblock()
            except KeyboardInterrupt:
                # The others are in this exchange or will be: revoking takes them to the next one.
                if self.tolerant:
                    self.comm.Revoke()
                raise
            if not self.tolerant or self._agree(messages is not None):
                assert messages is not None
                return dict(zip(self.alive, messages, strict=True))
            self._shrink()

    def unblock(self) -> None:
        """Revoke every communicator in which a rank may be stuck in a test, on all ranks.

        Walks MPI's table of handles, because mpi4py's pickling collectives use hidden duplicates
        and tests split communicators of their own. The other ranks of the node walk their tables
        too, unless each is in a test of its own: this rank may have freed a communicator in which
        they wait. `renew_world` then replaces COMM_WORLD. Does nothing without fault tolerance.
        """
        if not self.tolerant:
            return
        if self.table and not self.apart:
            with contextlib.suppress(OSError):  # a full disk must not keep it from the rest
                self.table.revoking.touch()
        self.revoked, self.can_finalize = True, False
        keep = {self.comm.py2f(), MPI.COMM_SELF.py2f()}
        handle = misses = 0
        while misses < 100:
            comm = _communicator(handle)
            misses = 0 if comm else misses + 1
            if comm and handle not in keep and not comm.Is_revoked():
                comm.Revoke()
            handle += 1

    def renew_world(self) -> None:
        """Make MPI.COMM_WORLD usable again, by the ranks alive. Collective over them."""
        self.revoked = self.broken = False
        if self.table:
            self.table.revoking.unlink(missing_ok=True)
        # If a rank dies at this moment, the next exchange notices it, and the world is renewed.
        with contextlib.suppress(MPI.Exception):
            renew(self.comm)

    def _agree(self, complete: bool) -> bool:
        """Return whether all ranks are ``complete``; false on all ranks if one has died.

        They learn here whether one has revoked communicators, which it may have done after its
        message: while it waited for the others.
        """
        try:
            flags = self.comm.Agree(complete | (not self.revoked) << 1)
        except MPI.Exception:
            flags = 0
        if not flags & 2:
            self.broken, self.can_finalize = True, False
        return bool(flags & 1)

    def _shrink(self) -> None:
        self.broken, self.can_finalize = True, False
        self.comm.Revoke()
        self.comm = self.comm.Shrink()
        everyone = LAUNCHED.Get_group()
        self.alive = self.comm.Get_group().Translate_ranks(None, everyone)


def _communicator(handle: int) -> MPI.Comm | None:
    """Return the communicator with this Fortran handle; Open MPI numbers them from 0 upwards."""
    try:
        return MPI.Comm.f2py(handle) or None  # COMM_NULL, which is false, has a handle too
    except MPI.Exception:
        return None
