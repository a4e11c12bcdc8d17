"""A race: lanes train in turns of equal time, and everybody who watches is told.

Turns lead from mark to mark of the clock: a lane whose turn it is trains until its own clock has
reached the next mark, on all the cores that it would have alone, while all other ranks sleep. So
the clocks of all lanes are never further apart than a turn and a step.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.demo import wire
from bench.demo.launch import LaneFailed, Launch
from bench.demo.reading import Picture, Reader
from bench.demo.settings import LaneSettings, RaceSettings, strategies
from bench.demo.sources import Source
from bench.demo.taught import Lesson
from bench.report.demo_records import DemoRace, Difference, LaneResult, Slice
from strategies.records import Record
from strategies.training import History

TURN = 0.1
"""Seconds of training in a turn."""

_AHEAD = 3  # epochs that a lane may begin in a turn without asking for lessons

_LOOKED_AT = {"mlp": 2000, "lenet": 1000, "cnn": 500, "resnet": 200}
"""The test pictures of each look, by net: of the slowest net of a race."""

_SHOWN = (
    *("state", "reason", "step", "epoch", "seconds", "samples", "samples_per_second", "cores"),
    *("loss", "accuracy", "target_seconds", "final_accuracy", "confusion"),
)

Tell = Callable[[str, Any], None]
"""(kind of event, what it says): tells everybody who watches."""


@dataclass
class Contestant:
    """What is known of a lane.

    Attributes:
        points: seconds, loss and accuracy after each turn, to draw.
        weights: after its last turn, (n,).
        target_seconds: training time at the look that found the target reached.
    """

    settings: LaneSettings
    launch: Launch
    state: str = "starting"
    reason: str = ""
    step: int = 0
    epoch: int = 0
    seconds: float = 0.0
    samples: int = 0
    cores: float | None = None
    loss: float | None = None
    accuracy: float | None = None
    target_seconds: float | None = None
    final_accuracy: float | None = None
    points: list[tuple[float, float | None, float | None]] = field(default_factory=list)
    confusion: list[list[int]] = field(default_factory=list)
    weights: NDArray | None = None
    horizon: int = _AHEAD
    lessons_sent: int = 0

    @property
    def is_live(self) -> bool:
        return self.state in ("starting", "ready", "racing")

    @property
    def samples_per_second(self) -> float | None:
        return self.samples / self.seconds if self.seconds else None

    def shown(self) -> dict[str, Any]:
        """All that the page shows of it but its curves."""
        return {name: getattr(self, name) for name in _SHOWN} | {"title": self.settings.title}

    def result(self) -> LaneResult:
        return LaneResult(
            **asdict(self.settings),
            state="stopped" if self.is_live else self.state,
            reason=self.reason,
            seconds=self.seconds,
            samples_per_second=self.samples_per_second,
            accuracy=self.final_accuracy,
            target_seconds=self.target_seconds,
            confusion=self.confusion,
        )


class Race:
    """One race, from its start to its end.

    Args:
        number: of the race in this run, from 1.
        folder: of the run, for what the ranks say.
        sockets: a folder that is nobody else's, for the socket of the ranks.
        tell: tells everybody who watches.
        record: writes a result to the run file.
        lessons: that were added to this data before.
        patience: seconds without an answer after which a lane is given up.

    Attributes:
        state: "preparing", "racing", "paused", "over" or "stopped".
    """

    def __init__(
        self,
        number: int,
        settings: RaceSettings,
        source: Source,
        folder: Path,
        sockets: Path,
        tell: Tell,
        record: Callable[[Record], None],
        lessons: Sequence[Lesson],
        patience: float,
    ):
        self.number, self.settings, self.source = number, settings, source
        self._tell, self._record = tell, record
        self.lessons = [Lesson(each.picture, each.label, 0) for each in lessons]
        self.state, self.reason = "preparing", ""
        self.rows, self.test_rows = 0, 0
        self.differences: list[Difference] = []
        self.lanes = [
            Contestant(lane, Launch(i, lane, folder, patience))
            for i, lane in enumerate(settings.lanes)
        ]
        self._has_begun, self._goes_on = False, asyncio.Event()
        self._goes_on.set()
        self._socket = sockets / f"race-{number}"
        self._reader: Reader | None = None

    @property
    def is_over(self) -> bool:
        return self.state in ("over", "stopped")

    def shown(self) -> dict[str, Any]:
        """All that the page shows of it, curves too: what a browser that comes late is told."""
        return {
            "number": self.number,
            "state": self.state,
            "reason": self.reason,
            "settings": asdict(self.settings),
            "labels": self.source.labels,
            "written": self.source.written,
            "hint": self.source.hint,
            "rows": self.rows,
            "test_rows": self.test_rows,
            "lessons": len(self.lessons),
            "lanes": [lane.shown() | {"points": lane.points} for lane in self.lanes],
            "differences": [asdict(each) for each in self.differences],
        }

    def pause(self) -> None:
        """Let no lane begin another turn."""
        self._goes_on.clear()
        self._change("paused")

    def go_on(self) -> None:
        """Let lanes take turns again."""
        self._goes_on.set()
        self._change("racing" if self._has_begun else "preparing")

    def teach(self, picture: NDArray[np.float32], label: int) -> Lesson:
        """Add a picture to the data of every lane, from an epoch on that none has begun."""
        epoch = max((lane.horizon for lane in self.lanes if lane.is_live), default=0) + 1
        lesson = Lesson([float(value) for value in picture], label, epoch)
        self.lessons.append(lesson)
        self._show()
        return lesson

    @property
    def reader(self) -> Reader:
        """What draws and reads pictures.

        Raises:
            LookupError: the data are not loaded yet.
        """
        if self._reader is None:
            raise LookupError("the data are being loaded: try again in a moment")
        return self._reader

    def read(self, picture: Picture) -> list[list[float | None] | None]:
        """Return, for each lane, the probability of each class; None without weights yet."""
        return [
            None
            if lane.weights is None
            else self.reader.read(picture, lane.settings.net, lane.weights)
            for lane in self.lanes
        ]

    async def run(self) -> None:
        """Race until every lane has finished or failed; when cancelled, end every process."""
        outcome = "stopped"
        try:
            await self._run()
            outcome = "over"
        except (OSError, ValueError) as error:  # of the data
            self.reason = f"{type(error).__name__}: {error}"
        finally:
            await asyncio.shield(self._end(outcome))

    async def _run(self) -> None:
        reader = await asyncio.to_thread(Reader, self.source, self.settings.dtype)
        fewest = min(_LOOKED_AT[lane.settings.net] for lane in self.lanes)
        self.rows, self.test_rows = reader.rows, min(fewest, reader.test_rows)
        self._reader = reader
        self._show()
        server = await asyncio.start_unix_server(self._meet, self._socket, limit=wire.LONGEST_LINE)
        async with server:
            await asyncio.gather(*map(self._guarded(self._start), self.lanes))
            self._has_begun = True
            self._change("racing" if self._goes_on.is_set() else "paused")
            await self._take_turns()
        self.differences = differences(self.lanes)

    async def _take_turns(self) -> None:
        """Lead the lanes from mark to mark, in one order and then in its reverse."""
        mark, order = 0.0, list(self.lanes)
        while any(lane.is_live for lane in self.lanes):
            mark += TURN
            turns = [self._guarded(self._turn)(lane, mark) for lane in order]
            if self.settings.together:
                await asyncio.gather(*turns)
            else:
                for turn in turns:
                    await turn
            order.reverse()

    def _guarded(self, act: Callable[..., Any]) -> Callable[..., Any]:
        """Have a failure end its lane and no other."""

        async def guarded(lane: Contestant, *args: Any) -> None:
            try:
                await act(lane, *args)
            except LaneFailed as failure:
                lane.state, lane.reason = "failed", str(failure)
                self._show()
                await lane.launch.end()

        return guarded

    async def _start(self, lane: Contestant) -> None:
        order = {
            "lane": asdict(lane.settings),
            "source": dict(self.source.arguments),
            "shape": list(self.source.shape),
            "epochs": self.settings.epochs,
            "rows": self.test_rows,
            "dtype": self.settings.dtype,
        }
        message, data = await lane.launch.start(self._socket, order)
        lane.state, lane.weights = "ready", self._weights(data)
        self._note(lane, None, message["accuracy"])
        self._show()

    async def _turn(self, lane: Contestant, mark: float) -> None:
        await self._goes_on.wait()
        if not lane.is_live or lane.seconds >= mark:
            return
        lane.state = "racing"
        settled = lambda epoch: self._settle(lane, epoch)  # noqa: E731
        message, data = await lane.launch.train(mark, settled, settled(lane.epoch))
        lane.step, lane.epoch = message["step"], message["epoch"] + 1
        lane.seconds, lane.cores = message["seconds"], message["cores"]
        lane.samples += message["samples"]
        lane.weights = self._weights(data)
        self._note(lane, message["loss"], message["accuracy"])
        number = self.lanes.index(lane)
        self._record(
            Slice(
                *(self.number, number + 1, lane.step, lane.epoch, lane.seconds, lane.samples),
                *(message["loss"], message["accuracy"], lane.cores),
            )
        )
        self._tell("turn", {"lane": number, **lane.shown(), "point": lane.points[-1]})
        if message["last"]:
            await self._finish(lane)

    def _note(self, lane: Contestant, loss: float | None, accuracy: float | None) -> None:
        lane.loss = loss
        if accuracy is not None:
            lane.accuracy = accuracy
            if lane.target_seconds is None and accuracy >= self.settings.target:
                lane.target_seconds = lane.seconds
        lane.points.append((lane.seconds, loss, accuracy))

    def _settle(self, lane: Contestant, epoch: int) -> dict[str, Any]:
        """Tell a lane its lessons, and up to which epoch there will be no others."""
        lane.horizon = max(lane.horizon, epoch + _AHEAD)
        new = self.lessons[lane.lessons_sent :]
        lane.lessons_sent = len(self.lessons)
        return {"horizon": lane.horizon, "lessons": [asdict(each) for each in new]}

    async def _finish(self, lane: Contestant) -> None:
        message, data = await lane.launch.finish()
        lane.weights, lane.confusion = self._weights(data), message["confusion"]
        counts = np.array(lane.confusion)
        lane.final_accuracy = float(np.trace(counts) / counts.sum())
        lane.state = "finished"
        self._record(History.from_dict(message["history"]))
        self._show()
        await lane.launch.end()

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello, _ = await wire.received(reader)
        await self.lanes[int(hello["lane"])].launch.serve(hello, reader, writer)

    async def _end(self, outcome: str) -> None:
        """End all processes, keep what came of the race, and then tell that it is over."""
        await asyncio.gather(*(lane.launch.end() for lane in self.lanes))
        for lane in self.lanes:
            if lane.is_live:
                lane.state = "stopped"
        self._socket.unlink(missing_ok=True)
        self._record(
            DemoRace(
                race=self.number,
                data=self.settings.data,
                epochs=self.settings.epochs,
                target=self.settings.target,
                together=self.settings.together,
                dtype=self.settings.dtype,
                rows=self.rows,
                test_rows=self.test_rows,
                lessons=len(self.lessons),
                lanes=[lane.result() for lane in self.lanes],
                differences=self.differences,
            )
        )
        self.state = outcome
        self._show()

    def _weights(self, data: bytes) -> NDArray:
        return np.frombuffer(data, self.settings.dtype)

    def _change(self, state: str) -> None:
        self.state = state
        self._show()

    def _show(self) -> None:
        self._tell("race", self.shown())


def differences(lanes: Sequence[Contestant]) -> list[Difference]:
    """Compare the weights of every two lanes that have finished."""
    found = []
    for (i, one), (j, other) in combinations(enumerate(lanes, 1), 2):
        if one.state != "finished" or other.state != "finished":
            continue
        a, b = one.settings, other.settings
        if a.net != b.net:
            found.append(Difference((i, j), None, "they are different nets"))
            continue
        assert one.weights is not None
        assert other.weights is not None
        largest = float(np.max(np.abs(one.weights - other.weights)))
        found.append(Difference((i, j), largest if math.isfinite(largest) else None, _why(a, b)))
    return found


def _why(a: LaneSettings, b: LaneSettings) -> str:
    """Say why the weights of two lanes of one net may differ; empty if they should not."""
    if a.batch_size != b.batch_size:
        return "their batch sizes differ"
    if a.learning_rate != b.learning_rate:
        return "their learning rates differ"
    known = strategies()
    return "; ".join(
        f"{lane.strategy}: {known[lane.strategy]}" for lane in (a, b) if known[lane.strategy]
    )
