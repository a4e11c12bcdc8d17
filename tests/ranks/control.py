"""The one collective by which the ranks take every decision, and who is still alive to take it."""

import json
from collections.abc import Callable
from typing import Any

from tests.ranks.mpi import MPI, fault_tolerant
from tests.ranks.waiting import wait

Meanwhile = Callable[[float], object]

_unfinished: list[MPI.Request] = []  # requests given up: MPI still owns their buffers


def allgather(comm: MPI.Comm, message: Any, meanwhile: Meanwhile | None = None) -> list[Any]:
    """Every rank's ``message`` (anything that JSON holds), in rank order.

    Sleeps until all ranks are there; ``meanwhile(seconds waited)`` is called again and again.
    """
    data = json.dumps(message).encode()
    sizes = bytearray(8 * comm.size)
    request = comm.Iallgather([len(data).to_bytes(8, "little"), MPI.BYTE], [sizes, MPI.BYTE])
    try:
        wait(request.Test, meanwhile)
    except BaseException:
        _unfinished.append(request)
        raise
    lengths = [int.from_bytes(sizes[8 * k : 8 * k + 8], "little") for k in range(comm.size)]
    texts = bytearray(sum(lengths))
    comm.Allgatherv([data, MPI.BYTE], [texts, lengths, MPI.BYTE])
    ends = [sum(lengths[: k + 1]) for k in range(comm.size)]
    return [json.loads(texts[end - n : end]) for end, n in zip(ends, lengths, strict=True)]


class Control:
    """A communicator that no test ever sees, shrunk to the survivors whenever ranks die.

    Ranks are named by their rank in COMM_WORLD for as long as the run lasts.
    """

    def __init__(self) -> None:
        self.comm: MPI.Comm = MPI.COMM_WORLD.Dup()
        self.rank = self.comm.rank
        self.alive = list(range(self.comm.size))  # world ranks, in the order of self.comm
        self.tolerant = fault_tolerant()
        self.revoked = False  # whether this rank has revoked communicators in the current test
        self.whole = True  # no rank has died and nothing was ever revoked: Finalize is safe

    @property
    def leader(self) -> int:
        """The lowest world rank that is alive."""
        return self.alive[0]

    def exchange(self, message: Any, meanwhile: Meanwhile | None = None) -> dict[int, Any]:
        """Every survivor's ``message`` by world rank. All survivors return, with the same result.

        ``alive`` is up to date afterwards: ranks that died meanwhile are no longer in it. Without
        fault tolerance an MPI error is raised as it comes.
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
                # The others are in this exchange, or will be. They go on to the next one from here.
                if self.tolerant:
                    self.comm.Revoke()
                raise
            if not self.tolerant or self._agree(messages is not None):
                assert messages is not None
                return dict(zip(self.alive, messages, strict=True))
            self._shrink()

    def unblock(self, world: bool = False) -> None:
        """Revoke every communicator that a test may wait in, on all ranks.

        Walks MPI's table of handles, because mpi4py's pickling collectives use hidden duplicates
        and tests split communicators of their own. COMM_WORLD only if ``world``: nothing replaces
        it. Does nothing without fault tolerance.
        """
        if not self.tolerant:
            return
        self.revoked = True
        keep = {self.comm.py2f(), MPI.COMM_SELF.py2f()}
        if not world:
            keep.add(MPI.COMM_WORLD.py2f())
        handle = misses = 0
        while misses < 100:
            comm = _communicator(handle)
            misses = 0 if comm else misses + 1
            if comm and handle not in keep and not comm.Is_revoked():
                comm.Revoke()
            handle += 1

    def _agree(self, complete: bool) -> bool:
        """Whether all ranks are ``complete``; False if one has died, be it known to all or not."""
        try:
            return bool(self.comm.Agree(int(complete)))
        except MPI.Exception:
            return False

    def _shrink(self) -> None:
        self.comm.Revoke()
        self.comm = self.comm.Shrink()
        everyone = MPI.COMM_WORLD.Get_group()
        self.alive = self.comm.Get_group().Translate_ranks(None, everyone)


def _communicator(handle: int) -> MPI.Comm | None:
    """The communicator with this Fortran handle; Open MPI numbers them from 0, and reuses gaps."""
    try:
        return MPI.Comm.f2py(handle) or None  # COMM_NULL, which is false, has a handle too
    except MPI.Exception:
        return None
