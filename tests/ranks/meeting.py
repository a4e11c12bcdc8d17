"""The point at which the ranks wait for each other and tell each other how things are."""

import time
from typing import Any

from tests.ranks import deaths
from tests.ranks.control import Control
from tests.ranks.mpi import MPI
from tests.ranks.watchdog import Watchdog

# A rank waits for another this much longer than the deadline; by then the guard has acted.
_PATIENCE = 12.0
# The time MPI has to report a death before it is clear that it will not: an exit in C, or an abort.
_UNREPORTED = 2.0
# Without fault tolerance: the time the other ranks have to say where they are.
_ALL_TELL = 2.0


class RunEnds(Exception):
    """The ranks cannot go on together. The message says why."""


class Meeting:
    """Exchanges between ranks that may be stuck, dead, or about to leave."""

    def __init__(self, control: Control, watchdog: Watchdog) -> None:
        self.control = control
        self.watchdog = watchdog
        self.over = False  # nothing is exchanged any more
        self.dead: dict[int, str] = {}  # by rank, what is known of its end
        # By rank, the latest messages; none if they could not be exchanged.
        self.heard: dict[int, dict[str, Any]] = {}

    def exchange(
        self, topic: str, message: dict[str, Any], deadline: float, grace: float | None = None
    ) -> dict[int, dict[str, Any]]:
        """All survivors' messages about ``topic``.

        After ``grace`` seconds of waiting, the ranks that have not come are torn out of their
        communication. Raises RunEnds if a rank is lost, or is leaving while others go on.
        """
        before, self.heard = list(self.control.alive), {}
        waiting = _Waiting(self, topic, message, deadline, grace)
        self.watchdog.kill_in(deadline + _PATIENCE + 5.0)
        try:
            answers = self.heard = self.control.exchange({"topic": topic, **message}, waiting)
        except Lost as lost:
            self._bury(lost.ranks)
            self.control.alive = [r for r in before if r not in lost.ranks]
            self.control.whole = False
            self.over = True
            raise RunEnds(f"{lost} during {topic}, which MPI cannot survive") from None
        except MPI.Exception as error:  # only without fault tolerance
            self.watchdog.say(f"{topic}: {error}\n{_failure(message)}")
            time.sleep(_ALL_TELL)
            self.watchdog.abort()
        finally:
            self.watchdog.kill_in(None)
        self._bury([r for r in before if r not in self.control.alive])
        self._check_topics(topic, answers)
        return answers

    def leave(
        self, farewell: str, code: int, deadline: float, told: dict[str, Any] | None = None
    ) -> int:
        """Agree to end; the exit code for all. ``farewell`` is why this rank ends early, if so.

        The others hear what else it has ``told``, too.
        """
        grace = 0.05 if farewell else None
        message = {**(told or {}), "bye": farewell, "code": code}
        answers = self.exchange("bye", message, deadline, grace)
        self.over = True
        return max(answer.get("code", 0) for answer in answers.values())

    def _check_topics(self, topic: str, answers: dict[int, dict[str, Any]]) -> None:
        leaving = {r: a["bye"] for r, a in answers.items() if a["topic"] == "bye"}
        if leaving and topic != "bye":
            self.over = True
            reasons = [
                f"rank {r} left the session: {why or 'no reason'}" for r, why in leaving.items()
            ]
            raise RunEnds("; ".join(reasons))
        topics = {r: a["topic"] for r, a in answers.items() if r not in leaving}
        if topic != "bye" and len(set(topics.values())) > 1:
            self.over = True
            places = "; ".join(f"rank {r} is at {place}" for r, place in topics.items())
            raise RunEnds(f"the ranks are at different points: {places}")

    def _bury(self, ranks: list[int]) -> None:
        for rank in ranks:
            self.control.whole = False
            self.dead[rank] = deaths.last_words(self.watchdog, rank)


def _failure(message: dict[str, Any]) -> str:
    return str(message.get("word", {}).get("text", ""))


class Lost(Exception):
    """Ranks have gone, and MPI does not say so."""

    def __init__(self, ranks: list[int], tolerant: bool) -> None:
        names = ", ".join(map(str, ranks))
        how = "ended in C code, by _exit or MPI_Abort," if tolerant else "died"
        super().__init__(f"rank {names} {how}")
        self.ranks = ranks


class _Waiting:
    """What a rank does while it waits for the others."""

    def __init__(
        self,
        meeting: Meeting,
        topic: str,
        message: dict[str, Any],
        deadline: float,
        grace: float | None,
    ) -> None:
        self._control = meeting.control
        self._watchdog = meeting.watchdog
        self._topic = topic
        self._failure = _failure(message)
        self._grace = grace
        self._limit = deadline + _PATIENCE

    def __call__(self, waited: float) -> None:
        if self._grace is not None and waited > self._grace:
            self._grace = None
            self._control.unblock()
        gone = self._watchdog.table.gone(_UNREPORTED)
        if lost := [rank for rank in gone if rank in self._control.alive]:
            self._control.unblock()
            raise Lost(lost, self._control.tolerant)
        if not self._control.tolerant and self._failure and self._overdue():
            # The ranks that are stuck say where they are now, and then abort the launch.
            self._watchdog.say(f"{self._topic} failed here:\n{self._failure}")
            self._failure = ""
        if waited > self._limit:
            self._watchdog.say(f"{self._topic}: another rank does not answer; the run is aborted")
            self._watchdog.abort()

    def _overdue(self) -> bool:
        return time.monotonic() > self._watchdog.deadline
