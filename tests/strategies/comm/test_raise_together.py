"""A rank that raises is heard on every rank, and nobody waits for it."""

import pytest

from strategies.comm.on_rank_0 import on_rank_0
from strategies.comm.raise_together import raise_together

pytestmark = pytest.mark.deadline(10)

each_way = pytest.mark.parametrize("together", [raise_together, on_rank_0])


@each_way
def test_returns_what_was_found(comm, together):
    found = together(comm, lambda: comm.rank + 1)
    assert found == (1 if together is on_rank_0 else comm.rank + 1)


def test_one_rank_acts_for_all(comm):
    acted = []
    on_rank_0(comm, lambda: acted.append(comm.rank))
    assert acted == [0] * (comm.rank == 0)


@each_way
def test_every_rank_raises_what_one_raised(comm, together):
    def act():
        if comm.rank == (0 if together is on_rank_0 else comm.size - 1):
            raise KeyError("lost")

    with pytest.raises(KeyError, match="lost"):
        together(comm, act)


@each_way
def test_an_exit_of_one_rank_is_one_of_all(comm, together):
    def act():
        if comm.rank == 0:
            raise SystemExit(3)

    with pytest.raises(SystemExit):
        together(comm, act)


@each_way
def test_an_error_that_no_message_can_hold_is_described(comm, together):
    class Local(Exception):
        """Cannot be pickled, since its class has no name to import."""

    def act():
        raise Local("here")

    with pytest.raises(RuntimeError, match="Local"):
        together(comm, act)


class OfTwo(Exception):
    """Is pickled, and cannot be rebuilt: only its text is among what Python keeps of an error."""

    def __init__(self, file, line):
        super().__init__(f"{file}, line {line}")


@each_way
def test_an_error_that_cannot_be_rebuilt_is_described(comm, together):
    def act():
        raise OfTwo("a.txt", 3)

    with pytest.raises(RuntimeError, match=r"OfTwo: a\.txt, line 3"):
        together(comm, act)
