"""The one collective by which the ranks take every decision, and who is still alive to take it."""

import json
from collections.abc import Callable
from typing import Any

from tests.ranks.mpi import MPI, fault_tolerant
from tests.ranks.waiting import wait

Patience = list[tuple[float, Callable[[], object]]]


def allgather(comm: MPI.Intracomm, message: Any, patience: Patience | None = None) -> list[Any]:
    """Every rank's ``message`` (anything that JSON holds), in rank order; sleeps until all are there.

    ``patience`` lists what to do when that takes long: ``(seconds, action)`` in order of time.
    """
    data = json.dumps(message).encode()
    lengths = [0] * comm.size
    sizes = bytearray(8 * comm.size)
    request = comm.Iallgather([len(data).to_bytes(8, "little"), MPI.BYTE], [sizes, MPI.BYTE])
    start = MPI.Wtime()
    for seconds, action in patience or []:
        if wait(request.Test, start + seconds - MPI.Wtime()):
            break
        action()
    wait(request.Test)
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
        self.comm: MPI.Intracomm = MPI.COMM_WORLD.Dup()
        self.rank = self.comm.rank
        self.alive = list(range(self.comm.size))  # world ranks, in the order of self.comm
        self.tolerant = fault_tolerant()
        self.revoked = False  # whether this rank has revoked communicators in this test
        self.whole = True  # no rank has died and nothing was ever revoked: Finalize is safe

    @property
    def leader(self) -> int:
        """The lowest world rank that is alive."""
        return self.alive[0]

    def exchange(self, message: Any, patience: Patience | None = None) -> dict[int, Any]:
        """Every survivor's ``message`` by world rank. All survivors return, and with the same result.

        ``self.alive`` is up to date afterwards: ranks that died meanwhile are no longer in it.
        """
        while True:
            try:
                messages = allgather(self.comm, message, patience)
                complete = True
            except MPI.Exception:
                if not self.tolerant:
                    raise
                complete = False
                self.comm.Revoke()
                # Before Agree, which waits for ranks that are still stuck in the test.
                self.unblock()
            if not self.tolerant or self._agree(complete):
                return dict(zip(self.alive, messages, strict=True))
            self._shrink()

    def unblock(self, world: bool = False) -> None:
        """Revoke every communicator that a test may wait in, on all ranks.

        Walks MPI's table of handles, because mpi4py's pickling collectives use hidden duplicates and
        tests split communicators of their own. COMM_WORLD only if ``world``: it cannot be replaced.
        """
        if not self.tolerant:
            return
        self.revoked = True
        keep = {self.comm.py2f(), MPI.COMM_SELF.py2f(), MPI.COMM_WORLD.py2f()}
        if world:
            keep.remove(MPI.COMM_WORLD.py2f())
        handle = misses = 0
        while misses < 100:
            comm = MPI.Comm.f2py(handle)
            misses = misses + 1 if comm == MPI.COMM_NULL else 0
            if comm != MPI.COMM_NULL and handle not in keep and not comm.Is_revoked():
                comm.Revoke()
            handle += 1

    def _agree(self, complete: bool) -> bool:
        """Whether all ranks are ``complete``; False if one has died, known to all or not."""
        try:
            return bool(self.comm.Agree(int(complete)))
        except MPI.Exception:
            return False

    def _shrink(self) -> None:
        self.comm.Revoke()
        survivors = self.comm.Shrink()
        group = survivors.Get_group()
        order = group.Translate_ranks(None, MPI.COMM_WORLD.Get_group())
        self.comm, self.alive = survivors, list(order)
